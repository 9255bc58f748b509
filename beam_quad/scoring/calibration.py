"""Which step the two forwards take, found on a few examples against the exact scores."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from beam_quad.gradients import shifted
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.scoring.costs import ScoringCosts
from beam_quad.scoring.two_forwards import TwoForwardsScorer

# Steps of half a decade, relative to the weights. Models of 1 M and 135 M parameters did best at 1e-2 and 3e-4.
STEPS = tuple(float(10 ** (-exponent / 2)) for exponent in range(3, 11))
# The steps are compared on so few examples; the best one is judged on all.
_NUM_COMPARED = 8
_LEAST_CORRELATION = 0.999
# Of the spread of the scores: far below the error of a pull, which scores ten documents at most.
_MOST_ERROR = 0.03
# Comparing the steps takes about 250 forward passes, and two forwards save about half of one an example.
_WORTHWHILE_PILOT = 1024
# Two forwards of the attention layers save about a fifth, of all layers a third; of a few upper ones, next to nothing.
_LEAST_SAVING = 0.1
_TYPICAL_LENGTH = 512


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How well the two forwards reproduce the exact scores.

    Attributes:
      relative_step: The best step; see `TwoForwardsScorer`. None where no step gave a number.
      rank_correlation: Spearman's, of their scores with the exact ones; nan where there are fewer than 2.
      relative_error: Root mean square of the differences over the standard deviation of the exact scores.
      num_examples: Examples that both scored.
    """

    relative_step: float | None
    rank_correlation: float
    relative_error: float
    num_examples: int

    @property
    def is_enough(self) -> bool:
        """Whether there was enough to compare: some examples, whose scores differ."""
        return self.num_examples >= _NUM_COMPARED and not math.isnan(self.relative_error)

    @property
    def is_close(self) -> bool:
        """Whether the two forwards may stand in for the exact scores."""
        return (
            self.is_enough
            and self.rank_correlation >= _LEAST_CORRELATION
            and self.relative_error <= _MOST_ERROR
        )


def calibrate(
    proxy: Proxy,
    blocks: Sequence[Block],
    vector: Mapping[str, torch.Tensor],
    texts: Sequence[str],
    exact: np.ndarray,
) -> Calibration:
    """Finds the step at which the two forwards come closest to the exact scores.

    Args:
      proxy: The model, in float32 or float64.
      blocks: What is tracked.
      vector: The vector, by block.
      texts: Some examples, a few dozen.
      exact: Their exact scores, float64 [num_texts]; nan is left out.

    Returns:
      The best step and how good it is.
    """
    usable = np.flatnonzero(np.isfinite(exact))
    documents, exact = [texts[int(i)] for i in usable], exact[usable]
    few = documents[:_NUM_COMPARED]
    errors = {
        step: relative_error(_score(proxy, blocks, vector, step, few), exact[: len(few)])
        for step in STEPS
    }
    finite = {step: error for step, error in errors.items() if not math.isnan(error)}
    if not finite:
        return Calibration(None, math.nan, math.nan, len(documents))
    best = min(finite, key=lambda step: finite[step])
    found = _score(proxy, blocks, vector, best, documents)
    return Calibration(
        best, rank_correlation(found, exact), relative_error(found, exact), len(documents)
    )


def why_not_two_forwards(
    model: torch.nn.Module, blocks: Sequence[Block], num_pilot: int | None
) -> str | None:
    """Says in a sentence why scoring by two forwards is impossible or would not pay; None where it is worth a try.

    Args:
      model: The model, whose weights are not read.
      blocks: What is tracked.
      num_pilot: Examples of the pilot; None where two forwards are asked for, whatever they save.
    """
    if why := shifted.why_not(model, blocks):
        return why
    if num_pilot is None:
        return None
    if num_pilot < _WORTHWHILE_PILOT:
        return f"A pilot of {num_pilot:,} examples is too small for two forwards to pay."
    costs = ScoringCosts.of(model, blocks)
    exact, two = costs.exact_flops(_TYPICAL_LENGTH), costs.two_forwards_flops(_TYPICAL_LENGTH)
    if two > (1 - _LEAST_SAVING) * exact:
        return "For these layers two forwards would save less than a tenth."
    return None


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Computes Spearman's rank correlation of two columns, ties at their mean rank; nan where one does not vary."""
    # Importing it takes seconds, and a launcher never calls it.
    from scipy import stats

    if len(left) < 2 or not (np.ptp(left) > 0 and np.ptp(right) > 0):
        return math.nan
    return float(stats.spearmanr(left, right).statistic)


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    """Divides the root mean square difference by the standard deviation of the exact scores; nan where that is 0."""
    if len(exact) < 2 or not exact.std() > 0:
        return math.nan
    return float(np.sqrt(np.mean((found - exact) ** 2)) / exact.std())


def _score(
    proxy: Proxy,
    blocks: Sequence[Block],
    vector: Mapping[str, torch.Tensor],
    step: float,
    texts: Sequence[str],
) -> np.ndarray:
    scorer = TwoForwardsScorer(proxy, blocks, {"query": vector}, step)
    scores: np.ndarray = scorer.score(texts)[:, 0]
    return scores
