"""From losses to what a selection is worth, with intervals, and to the sentence that says so.

Every contender (the selection and its rivals) trains the same proxy by the same recipe on the same number of tokens,
once for each seed, and all are measured on the same texts. A contender's gain is the fall of the loss on these texts. What is
compared is linear in the gains: g - r h for a ratio r, and its variance has two parts:

- the trainings. Contenders and seeds are a randomised block design: what a seed does to all contenders alike (variance τ²)
  is told from what it does to one (σ²) by the two-way residuals, with (contenders - 1)(seeds - 1) degrees of freedom.
- the texts, which are a sample of their source. The loss per token is a ratio of sums over texts; its variance is that of
  the residuals, paired by text.

With several query groups the loss is the weighted mean of those of the groups, each of which is a sample of its own; a text that
is in two of them is one draw for both.

Intervals are of 95 %, by Student's t, with the degrees of freedom of the part that has fewer; with a single seed they
speak of the texts alone. Those of ratios are Fieller's (`intervals.ratio`): all r for which g - r h may be 0, so that
1 is outside the ratio's interval if and only if 0 is outside the difference's.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from beam_quad.intervals import Interval, ratio

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Losses:
    """Losses of texts.

    Attributes:
      sums: Of each text's tokens, nats, float64 [num_texts].
      counts: Tokens that were predicted, float64 [num_texts].
    """

    sums: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> float:
        """Nats per token."""
        return float(self.sums.sum() / self.counts.sum())


class Trial:
    """What the trainings of all contenders did to the loss of one set of texts.

    Args:
      before: Losses of the model that is trained: one, or one for each seed where each draws a model of its own.
      after: Losses by contender, one for each seed; the seeds of all contenders are the same. All losses are of the same
        texts.
      groups: Which texts are in each query group, bool [num_groups, num_texts]; None: one group of all. Each has a text
        with a predicted token.
      weights: Relative weight of each group's loss, > 0; None: all alike.

    Raises:
      ValueError: If there is no contender or seed, or their numbers of seeds differ.
    """

    def __init__(
        self,
        before: Sequence[Losses],
        after: Mapping[str, Sequence[Losses]],
        groups: np.ndarray | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        seeds = {len(runs) for runs in after.values()}
        if len(seeds) != 1 or 0 in seeds:
            raise ValueError(
                f"every contender needs as many trainings, at least one, got {sorted(seeds)}"
            )
        self.num_seeds = seeds.pop()
        if len(before) not in (1, self.num_seeds):
            raise ValueError(f"before must be 1 or {self.num_seeds} losses, got {len(before)}")
        self.before = tuple(before)
        self.after = {name: tuple(runs) for name, runs in after.items()}
        self._counts = before[0].counts
        self._groups = np.ones((1, len(self._counts)), bool) if groups is None else groups
        relative = np.ones(len(self._groups)) if weights is None else np.array(weights, float)
        self._weights = relative / relative.sum()
        # Predicted tokens, and texts that have any.
        self._tokens = self._groups @ self._counts
        self._texts = self._groups @ (self._counts > 0).astype(float)
        self._own, self._shared, freedom = self._noise()
        fewest = int(self._texts.min())
        # As few as the part that tells its variance worst has.
        self._freedom = max(1, min(freedom or fewest, fewest - 1))

    @property
    def _quantile(self) -> float:
        return float(stats.t.ppf(0.975, self._freedom))

    def only(self, group: int) -> "Trial":
        """The trial on one query group, by its number."""
        return Trial(self.before, self.after, self._groups[[group]])

    @property
    def initial(self) -> float:
        """The mean loss before the trainings, nats per token."""
        return float(np.mean([self._mean(one) for one in self.before]))

    def losses(self, name: str) -> list[float]:
        """The loss after each training of a contender, nats per token."""
        return [self._mean(run) for run in self.after[name]]

    def loss(self, name: str) -> float:
        """The mean loss after the trainings of a contender, nats per token."""
        return float(np.mean(self.losses(name)))

    def gain(self, name: str) -> Interval:
        """By how much a contender lowers the loss, nats per token."""
        variance, _, _ = self._variances(name, name)
        return self._around(self._gain(name), variance)

    def lead(self, name: str, rival: str) -> Interval:
        """By how much a contender lowers the loss more than a rival does, nats per token."""
        return self._around(self._gain(name) - self._gain(rival), sum(self._variances(name, rival)))

    def worth(self, name: str, rival: str) -> Interval | None:
        """A contender's gain over a rival's; None if the rival's is within the noise, or either is a loss."""
        gain, other = self._gain(name), self._gain(rival)
        if gain <= 0:
            return None
        return ratio(gain, other, self._variances(name, rival), self._quantile)

    def _mean(self, losses: Losses) -> float:
        return float(self._weights @ (self._groups @ losses.sums / self._tokens))

    def _gain(self, name: str) -> float:
        return self.initial - self.loss(name)

    def _around(self, value: float, variance: float) -> Interval:
        return Interval.around(value, variance, self._quantile)

    def _noise(self) -> tuple[float, float, int]:
        """The variance of a training that is its own, the one that its seed gives to all, and degrees of freedom."""
        before = np.array([self._mean(one) for one in self.before])
        falls = np.array([before - self.losses(name) for name in self.after])
        num, seeds = falls.shape
        freedom = (num - 1) * (seeds - 1)
        if not freedom:
            own = float(falls.var(ddof=1)) if seeds > 1 else 0.0
            return own, 0.0, seeds - 1
        by_seed = falls.mean(0)
        residuals = falls - falls.mean(1, keepdims=True) - by_seed + falls.mean()
        own = float((residuals**2).sum() / freedom)
        return own, max(0.0, float(by_seed.var(ddof=1)) - own / num), freedom

    def _variances(self, name: str, rival: str) -> tuple[float, float, float]:
        """The variance of gain - r rival's gain: coefficients of 1, r and r²."""
        own, other = self._residuals(name), self._residuals(rival)
        one = (self._own + self._shared) / self.num_seeds
        return (
            one + float(own @ own),
            -2 * (self._shared / self.num_seeds + float(own @ other)),
            one + float(other @ other),
        )

    def _residuals(self, name: str) -> np.ndarray:
        """What each text moves the gain by, float64 [num_texts]; the sum of the squares is the gain's variance."""
        before, after = (
            np.mean([one.sums for one in runs], axis=0) for runs in (self.before, self.after[name])
        )
        fall = before - after
        gains = self._groups @ fall / self._tokens
        scale = np.sqrt(self._texts / np.maximum(1, self._texts - 1)) * self._weights / self._tokens
        residuals: np.ndarray = (scale @ self._groups) * fall
        residuals -= ((scale * gains) @ self._groups) * self._counts
        return residuals


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a proof comes to.

    Attributes:
      is_worth_it: Whether the selection is better than every rival by more than the noise.
      sentence: Why, in a sentence.
    """

    is_worth_it: bool
    sentence: str


def judge(trial: Trial, selection: str, num_tokens: int, is_from_scratch: bool = False) -> Verdict:
    """Puts a trial on held-out query texts in a sentence.

    Args:
      trial: The trial; one of the contenders is the random draw, `RANDOM`.
      selection: Name of the selection that is to be proved.
      num_tokens: Tokens of every training.
      is_from_scratch: Whether a model was trained that knew nothing. Then any text gains most of what there is to gain, a
        ratio of gains says little, and worth is told in nats.
    """
    lead, worth = trial.lead(selection, RANDOM), trial.worth(selection, RANDOM)
    worth = None if is_from_scratch else worth
    draw = f"a random draw of the same {num_tokens:,} tokens"
    over_random = f"{_ratio(lead, worth)} {draw}"
    if worth is None and not is_from_scratch:
        over_random += f", which gains {_nats(trial.gain(RANDOM))}"
    if not lead.is_above(0):
        does = "better" if lead.is_below(0) else "as well, within the noise"
        return Verdict(
            False, f"not worth it: {draw} does {does} (the selection is worth {over_random})"
        )
    rivals = [name for name in trial.after if name not in (selection, RANDOM)]
    if not rivals:
        return Verdict(True, f"worth {over_random}; no other rival was trained")
    best = min(rivals, key=lambda name: (trial.loss(name), name))
    against, ratio = trial.lead(selection, best), trial.worth(selection, best)
    ratio = None if is_from_scratch else ratio
    over_best = f"{_ratio(against, ratio)} the best rival, {best}"
    if against.is_above(0):
        return Verdict(True, f"worth {over_random}; {over_best}")
    does = "better" if against.is_below(0) else "as well, within the noise"
    return Verdict(False, f"not worth it: {best} does {does} (worth {over_best}; {over_random})")


def by_group(trials: Mapping[str, Trial], selection: str) -> str:
    """Says in how many query groups a selection is better than a random draw, and in which it is not.

    Args:
      trials: The trial on each group, by its name; one of the contenders is the random draw, `RANDOM`.
      selection: Name of the selection.
    """
    leads = {name: trial.lead(selection, RANDOM) for name, trial in trials.items()}
    better = [name for name, lead in leads.items() if lead.is_above(0)]
    worse = [name for name, lead in leads.items() if lead.is_below(0)]
    alike = [name for name in leads if name not in better and name not in worse]
    words = f"better than a random draw for {len(better)} of {len(leads)} query groups"
    if alike:
        words += f"; as good, within the noise, for {', '.join(alike)}"
    return words + (f"; worse for {', '.join(worse)}" if worse else "")


def price(trial: Trial, selection: str) -> str | None:
    """Says what a selection costs on a general mix, beside a random draw; None if that is within the noise, or nothing.

    Args:
      trial: The trial on the general mix; one of the contenders is the random draw, `RANDOM`.
      selection: Name of the selection.
    """
    lead = trial.lead(RANDOM, selection)
    if not lead.is_above(0):
        return None
    return f"its price: the general mix ends {_nats(lead)} nats per token worse than after the random draw"


def _ratio(lead: Interval, worth: Interval | None) -> str:
    if worth is None:
        return f"{_nats(lead)} nats per token more than"
    return f"{worth.value:.2f} times ({worth.low:.2f} to {worth.high:.2f})"


def _nats(value: Interval) -> str:
    return f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f})"
