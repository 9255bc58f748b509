"""From losses to what a selection is worth, with intervals, and to the sentence that says so.

Every contender (the selection and its rivals) trains the same proxy by the same recipe on the same number of tokens,
once for each seed, and all are measured on the same texts. A contender's gain is the fall of the loss on these texts. What is
compared is linear in the gains: g - r h for a ratio r, and its variance has two parts:

- the trainings. Contenders and seeds are a randomised block design: what a seed does to all contenders alike (variance τ²)
  is told from what it does to one (σ²) by the two-way residuals, with (contenders - 1)(seeds - 1) degrees of freedom.
- the texts, which are a sample of their source. The loss per token is a ratio of sums over texts; its variance is that of
  the residuals, paired by text.

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
      before: Losses of the proxy itself.
      after: Losses by contender, one for each seed; the seeds of all contenders are the same. All losses are of the same
        texts.

    Raises:
      ValueError: If there is no contender or seed, or their numbers of seeds differ.
    """

    def __init__(self, before: Losses, after: Mapping[str, Sequence[Losses]]) -> None:
        seeds = {len(runs) for runs in after.values()}
        if len(seeds) != 1 or 0 in seeds:
            raise ValueError(
                f"every contender needs as many trainings, at least one, got {sorted(seeds)}"
            )
        self.before = before
        self.after = {name: tuple(runs) for name, runs in after.items()}
        self.num_seeds = seeds.pop()
        self._own, self._shared, freedom = self._noise()
        num_texts = int((before.counts > 0).sum())
        # As few as the part that tells its variance worst has.
        self._freedom = max(1, min(freedom or num_texts, num_texts - 1))

    @property
    def _quantile(self) -> float:
        return float(stats.t.ppf(0.975, self._freedom))

    def loss(self, name: str) -> float:
        """The mean loss after the trainings of a contender, nats per token."""
        return float(np.mean([run.mean for run in self.after[name]]))

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

    def _gain(self, name: str) -> float:
        return self.before.mean - self.loss(name)

    def _around(self, value: float, variance: float) -> Interval:
        return Interval.around(value, variance, self._quantile)

    def _noise(self) -> tuple[float, float, int]:
        """The variance of a training that is its own, the one that its seed gives to all, and degrees of freedom."""
        losses = np.array([[run.mean for run in runs] for runs in self.after.values()])
        num, seeds = losses.shape
        freedom = (num - 1) * (seeds - 1)
        if not freedom:
            own = float(losses.var(ddof=1)) if seeds > 1 else 0.0
            return own, 0.0, seeds - 1
        by_seed = losses.mean(0)
        residuals = losses - losses.mean(1, keepdims=True) - by_seed + losses.mean()
        own = float((residuals**2).sum() / freedom)
        return own, max(0.0, float(by_seed.var(ddof=1)) - own / num), freedom

    def _variances(self, name: str, rival: str) -> tuple[float, float, float]:
        """The variance of gain - r rival's gain: coefficients of 1, r and r²."""
        counts = self.before.counts
        num = int((counts > 0).sum())
        own, other = self._residuals(name), self._residuals(rival)
        scale = float(num / max(1, num - 1) / counts.sum() ** 2)
        one = (self._own + self._shared) / self.num_seeds
        return (
            one + scale * float(own @ own),
            -2 * (self._shared / self.num_seeds + scale * float(own @ other)),
            one + scale * float(other @ other),
        )

    def _residuals(self, name: str) -> np.ndarray:
        fall = self.before.sums - np.mean([run.sums for run in self.after[name]], axis=0)
        residuals: np.ndarray = fall - self._gain(name) * self.before.counts
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


def judge(trial: Trial, selection: str, num_tokens: int) -> Verdict:
    """Puts a trial on held-out query texts in a sentence.

    Args:
      trial: The trial; one of the contenders is the random draw, `RANDOM`.
      selection: Name of the selection that is to be proved.
      num_tokens: Tokens of every training.
    """
    lead, worth = trial.lead(selection, RANDOM), trial.worth(selection, RANDOM)
    draw = f"a random draw of the same {num_tokens:,} tokens"
    over_random = f"{_ratio(lead, worth)} {draw}"
    if worth is None:
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
    over_best = f"{_ratio(against, ratio)} the best rival, {best}"
    if against.is_above(0):
        return Verdict(True, f"worth {over_random}; {over_best}")
    does = "better" if against.is_below(0) else "as well, within the noise"
    return Verdict(False, f"not worth it: {best} does {does} (worth {over_best}; {over_random})")


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
