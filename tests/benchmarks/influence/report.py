"""Agreement of scores, the tables, and the line of JSON."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

from beam_quad.gradients.windows import Documents
from tests.benchmarks.influence.race import CHIP_RATE, Outcome

_FEWEST = 8


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How scores relate to the exact ones.

    Attributes:
      pearson: Correlation; nan below a few documents.
      spearman: Of ranks, likewise.
      relative_error: Norm of the differences over the norm of the exact scores.
      num_documents: Documents compared.
    """

    pearson: float
    spearman: float
    relative_error: float
    num_documents: int

    @classmethod
    def of(cls, found: np.ndarray, exact: np.ndarray) -> "Agreement":
        """Compares scores with the first of the exact ones, as many as there are."""
        exact = exact[: len(found)]
        error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
        if len(found) < _FEWEST:
            return cls(math.nan, math.nan, error, len(found))
        pearson, spearman = stats.pearsonr(found, exact), stats.spearmanr(found, exact)
        return cls(float(pearson.statistic), float(spearman.statistic), error, len(found))


def table(
    title: str,
    documents: Documents,
    outcomes: Mapping[str, Outcome],
    baseline: str,
    agreements: Mapping[str, Agreement],
) -> str:
    """Renders one model's rows at one length."""
    head = f"{'':<40}{'docs/s':>9}{'tokens/s':>10}{'ratio':>7}{'batch':>7}{'MB':>7}"
    lines = [title, head + f"{'Pearson':>10}{'Spearman':>10}{'error':>9}{'of':>4}"]
    num_documents = len(documents.windows)
    num_tokens = sum(len(window.tokens) for window in documents.windows)
    for name, outcome in outcomes.items():
        seconds = outcome.seconds
        line = (
            f"{name:<40}{num_documents / seconds:>9.2f}{num_tokens / seconds:>10,.0f}"
            f"{outcome.over(outcomes[baseline]):>7.2f}{outcome.micro_batch:>7}{outcome.memory_mb:>7.0f}"
        )
        if name in agreements:
            found = agreements[name]
            line += f"{found.pearson:>10.6f}{found.spearman:>10.6f}"
            line += f"{found.relative_error:>9.1e}{found.num_documents:>4}"
        if outcome.flops:
            line += f"  {outcome.flops / seconds / CHIP_RATE:.0%} of the chip's rate"
        lines.append(line)
    return "\n".join(lines)


def rounded(value: float) -> float | None:
    """Rounds for JSON, which has no nan."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
