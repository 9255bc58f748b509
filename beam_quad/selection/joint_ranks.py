"""Combines several scores: the weighted sum of their normal scores, from ranks found by sums.

Scores of different kinds, such as influence and n-grams, share no unit. Their ranks do. A rank in (0, 1) becomes the
standard normal quantile, so that the top of every score is equally far from the rest, and a document with one extreme
score stays extreme if its other score is average.

The rank of a score is the share of scores below it, plus half the share of those equal to it (Bross's ridit, a mid-rank): it
depends on no order and no tie-breaker, it is never 0 or 1, and it needs counts only.

References:
  van der Waerden, Order Tests for the Two-Sample Problem and their Power, 1952 (normal scores).
  Bross, How to Use Ridit Analysis, 1958.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad import archives, seeding
from beam_quad.additive import add_by_key

Array = np.ndarray[Any, np.dtype[Any]]

# Number of upper bits of a score's order-preserving integer that name its cell: sign, exponent and 15 bits of the
# fraction, 3e-5 of a score. 60 million normal scores about 0 fill 773,000 cells, 12 MB, and no rank is off by more than
# 4e-6; in a band as narrow as -2 ± 0.1 it is 1.3e-4. All 32 bits would make nearly as many cells as scores.
RANK_BITS = 24
# Weights of influence and of n-grams, in this order, in the joint rank of a shortlist. Proxies of 1 and of 5 million parameters
# learn most if influence has half a weight; with SmolLM2-135M, weights from .5 to 2 differ by no more than the noise.
SHORTLIST_WEIGHTS = (0.5, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class RankCounts:
    """How many scores lie in each cell of a fixed grid. An additive statistic; the grid is finer for smaller scores.

    Attributes:
      cells: The non-empty cells, ascending, int64 [m].
      amounts: Number of scores in each, int64 [m].
      bits: Upper bits of a score's order-preserving integer that name its cell, at most 32; 32 tells all float32 apart.
    """

    cells: Array
    amounts: Array
    bits: int = RANK_BITS

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 32:
            raise ValueError(f"bits must lie between 1 and 32, got {self.bits}")

    @classmethod
    def zero(cls, bits: int = RANK_BITS) -> "RankCounts":
        """Counts of no scores."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), bits)

    @classmethod
    def of(cls, scores: Array, bits: int = RANK_BITS) -> "RankCounts":
        """Counts scores, finite float [n], which are compared in single precision."""
        return cls(*np.unique(_cells(scores, bits), return_counts=True), bits)

    def __add__(self, other: "RankCounts") -> "RankCounts":
        if self.bits != other.bits:
            raise ValueError(f"cannot add counts of cells of {self.bits} and {other.bits} bits")
        cells, amounts = add_by_key((self.cells, other.cells), (self.amounts, other.amounts))
        return RankCounts(cells, amounts, self.bits)

    @property
    def total(self) -> int:
        """How many scores there are."""
        return int(self.amounts.sum())

    @property
    def max_error(self) -> float:
        """A bound on how far a rank is from the one that 32 bits give: half the share of the largest cell.

        If a cell holds only equal scores, its rank is exact, and the bound is loose.
        """
        if self.bits == 32 or not len(self.amounts):
            return 0.0
        return float(self.amounts.max()) / (2 * self.total)

    def ranks(self, scores: Array) -> Array:
        """Ranks scores among those counted.

        Args:
          scores: Float [n], finite.

        Returns:
          Float64 [n], rising with the score, in [1 / 2t, 1 - 1 / 2t] for a total of t.

        Raises:
          ValueError: If no scores were counted.
        """
        total = self.total
        if not total:
            raise ValueError("no scores were counted, so nothing has a rank among them")
        # Twice the rank, as a whole number: 2 · below + equal.
        above = np.append(0, np.cumsum(self.amounts))
        wanted = _cells(scores, self.bits)
        first, last = (np.searchsorted(self.cells, wanted, side) for side in ("left", "right"))
        ranks = (above[first] + above[last]) / (2 * total)
        # A score outside those counted would have rank 0 or 1, and an infinite normal score.
        return np.asarray(np.clip(ranks, 0.5 / total, 1 - 0.5 / total))

    def normal_scores(self, scores: Array) -> Array:
        """Gives the standard normal quantile at the rank of each score: finite float64 [n]. Arguments as for `ranks`."""
        # Imported here because SciPy is slow to import, and a launcher never calls this.
        from scipy import special

        return np.asarray(special.ndtri(self.ranks(scores)))


@dataclasses.dataclass(frozen=True, eq=False)
class JointRanks:
    """Ranks documents by several scores at once. An additive statistic.

    Attributes:
      columns: Counts of each score, over the documents with all scores.
    """

    columns: tuple[RankCounts, ...]

    @classmethod
    def zero(cls, num_scores: int, bits: int = RANK_BITS) -> "JointRanks":
        """Counts of no documents."""
        return cls((RankCounts.zero(bits),) * num_scores)

    @classmethod
    def of(cls, scores: Sequence[Array], bits: int = RANK_BITS) -> "JointRanks":
        """Counts documents.

        Args:
          scores: Each score of n documents, float [n]; a document with a score that is not finite is left out.
          bits: As in `RankCounts`.
        """
        is_counted = _has_all(scores)
        return cls(tuple(RankCounts.of(own[is_counted], bits) for own in scores))

    def __add__(self, other: "JointRanks") -> "JointRanks":
        return JointRanks(
            tuple(own + its for own, its in zip(self.columns, other.columns, strict=True))
        )

    def rank(self, scores: Sequence[Array], weights: Sequence[float]) -> Array:
        """Adds the normal scores of documents.

        Args:
          scores: Each score, in the order in which they were counted, float [n].
          weights: Weight of each score.

        Returns:
          Float64 [n], higher is better; nan for a document with a score that is not finite.

        Raises:
          ValueError: If the numbers of scores and weights differ, or a document is ranked though none was counted.
        """
        has_all = _has_all(scores)
        joint = np.full(len(has_all), np.nan)
        if has_all.any():
            joint[has_all] = sum(
                weight * counts.normal_scores(own[has_all])
                for counts, own, weight in zip(self.columns, scores, weights, strict=True)
            )
        return joint

    def to_bytes(self) -> bytes:
        """Writes the counts as an npz file."""
        parts = {
            f"{name}_{i}": getattr(counts, name)
            for i, counts in enumerate(self.columns)
            for name in ("cells", "amounts", "bits")
        }
        return archives.dump(num_scores=len(self.columns), **parts)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "JointRanks":
        """Reads the output of `to_bytes`."""
        found = archives.parse(raw)
        return cls(
            tuple(
                RankCounts(found[f"cells_{i}"], found[f"amounts_{i}"], int(found[f"bits_{i}"]))
                for i in range(int(found["num_scores"]))
            )
        )


def _cells(scores: Array, bits: int) -> Array:
    return (seeding.ordered_bits(scores) >> np.uint32(32 - bits)).astype(np.int64)


def _has_all(scores: Sequence[Array]) -> Array:
    # In single precision, the precision of comparison, in which a large score overflows.
    with np.errstate(over="ignore"):
        finite = [np.isfinite(np.asarray(own, np.float32)) for own in scores]
    return np.asarray(np.logical_and.reduce(finite))
