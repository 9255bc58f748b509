"""The worth of a selection computed from losses, with confidence intervals, and its statement in a sentence.

Every contender (the selection and its rivals) trains the same proxy by the same recipe on the same number of tokens, once for
each seed, and all are measured on the same texts. A contender's gain is the fall of the loss on these texts. Comparisons are
linear in the gains, g - r h for a ratio r, and their variance has two parts:

- the trainings. Contenders and seeds form a randomised block design: the two-way residuals separate the effect of a seed on
  all contenders (variance τ²) from its effect on one (σ²), with (contenders - 1)(seeds - 1) degrees of freedom.
- the texts, which are a sample of their source. The loss per token is a ratio of sums over texts; its variance is computed from
  the residuals, paired by text.

With several query groups, the loss is the weighted mean of the groups' losses. Each group is a separate sample; a text in two
groups is one draw for both.

Confidence intervals are 95 % intervals by Student's t, with the degrees of freedom of the part with fewer. With a single seed
they cover the texts alone. Ratios have Fieller's interval (`intervals.ratio`), the set of all r for which g - r h may be 0; 1 is
outside this interval if and only if 0 is outside the interval of the difference.
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
      sums: Summed loss of each text's tokens, in nats, float64 [num_texts].
      counts: Predicted tokens of each text, float64 [num_texts].
    """

    sums: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> float:
        """Mean loss in nats per token."""
        return float(self.sums.sum() / self.counts.sum())


class Trial:
    """The effect of all contenders' trainings on the loss of one set of texts.

    Args:
      before: Losses before training: one, or one for each seed if each seed initialises its own model.
      after: Losses after training by contender, one for each seed. All contenders have the same seeds, and all losses are on
        the same texts.
      groups: Whether each text is in each query group, bool [num_groups, num_texts]; None for one group of all texts. Each
        group has a text with a predicted token.
      weights: Relative weight of each group's loss, > 0; None for equal weights.

    Raises:
      ValueError: If there is no contender or no seed, or the contenders' numbers of seeds differ.
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
        # Predicted tokens of each group, and its texts with predicted tokens.
        self._tokens = self._groups @ self._counts
        self._texts = self._groups @ (self._counts > 0).astype(float)
        self._own, self._shared, freedom = self._noise()
        fewest = int(self._texts.min())
        # The conservative choice: the degrees of freedom of the variance estimate with fewer.
        self._freedom = max(1, min(freedom or fewest, fewest - 1))

    @property
    def _quantile(self) -> float:
        return float(stats.t.ppf(0.975, self._freedom))

    def only(self, group: int) -> "Trial":
        """Restricts the trial to one query group, given by its index."""
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
        """The fall of the loss by a contender, nats per token."""
        variance, _, _ = self._variances(name, name)
        return self._around(self._gain(name), variance)

    def lead(self, name: str, rival: str) -> Interval:
        """A contender's gain less a rival's, nats per token."""
        return self._around(self._gain(name) - self._gain(rival), sum(self._variances(name, rival)))

    def worth(self, name: str, rival: str) -> Interval | None:
        """A contender's gain divided by a rival's; None if either is not positive, or the rival's is within the noise."""
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
        """Estimates the variance of a single training, the variance of a seed common to all contenders, and degrees of freedom."""
        before = np.array([self._mean(one) for one in self.before])
        falls = np.array([before - self.losses(name) for name in self.after])
        num, seeds = falls.shape
        freedom = (num - 1) * (seeds - 1)
        # With one contender or one seed, the two effects of a seed cannot be separated.
        if not freedom:
            own = float(falls.var(ddof=1)) if seeds > 1 else 0.0
            return own, 0.0, seeds - 1
        by_seed = falls.mean(0)
        residuals = falls - falls.mean(1, keepdims=True) - by_seed + falls.mean()
        own = float((residuals**2).sum() / freedom)
        return own, max(0.0, float(by_seed.var(ddof=1)) - own / num), freedom

    def _variances(self, name: str, rival: str) -> tuple[float, float, float]:
        """Computes the variance of gain - r · (rival's gain), as the coefficients of 1, r and r²."""
        own, other = self._residuals(name), self._residuals(rival)
        # The common effect of a seed is in both gains, so it is also their covariance.
        one = (self._own + self._shared) / self.num_seeds
        return (
            one + float(own @ own),
            -2 * (self._shared / self.num_seeds + float(own @ other)),
            one + float(other @ other),
        )

    def _residuals(self, name: str) -> np.ndarray:
        """Computes the contribution of each text to the gain's error, float64 [num_texts]; the squares sum to its variance."""
        before, after = (
            np.mean([one.sums for one in runs], axis=0) for runs in (self.before, self.after[name])
        )
        fall = before - after
        gains = self._groups @ fall / self._tokens
        # n / (n - 1) corrects for residuals taken from a gain that the same texts estimate.
        scale = np.sqrt(self._texts / np.maximum(1, self._texts - 1)) * self._weights / self._tokens
        residuals: np.ndarray = (scale @ self._groups) * fall
        residuals -= ((scale * gains) @ self._groups) * self._counts
        return residuals


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of a proof.

    Attributes:
      is_worth_it: Whether the selection is better than every rival by more than the noise.
      sentence: The reason, in a sentence.
    """

    is_worth_it: bool
    sentence: str


def judge(trial: Trial, selection: str, num_tokens: int, is_from_scratch: bool = False) -> Verdict:
    """Judges a selection by a trial on held-out query texts.

    Args:
      trial: The trial; one of the contenders is the random draw, `RANDOM`.
      selection: Name of the selection to judge.
      num_tokens: Tokens of every training.
      is_from_scratch: Whether the model was trained from scratch. Any text then brings most of the possible gain and a ratio of
        gains says little, so the worth is given in nats.
    """
    lead, worth = trial.lead(selection, RANDOM), trial.worth(selection, RANDOM)
    worth = None if is_from_scratch else worth
    draw = f"a random draw of the same {num_tokens:,} tokens"
    over_random = f"{_ratio(lead, worth)} {draw}"
    if worth is None and not is_from_scratch:
        over_random += f", which gains {_nats(trial.gain(RANDOM))}"
    # A selection that does not beat a random draw is not worth its cost, whatever it does to other rivals.
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
    """Reports in how many query groups a selection is better than a random draw, and in which it is not.

    Args:
      trials: The trial on each group by name; one of the contenders is the random draw, `RANDOM`.
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
    """Reports the loss of a selection on a general mix against a random draw; None if it is within the noise or not positive.

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
