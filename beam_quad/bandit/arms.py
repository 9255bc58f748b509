"""The scores of a round's pulls, and the exact statistics of every arm."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class PullScores:
    """The scores of one pull.

    Attributes:
      cluster_id: The arm.
      block: The pulled block.
      keys: Keys of the scored examples, uint64 [samples].
      tokens: Tokens of the scored examples, all positive, int64 [samples].
      influence: Influence of the scored examples, float64 [samples]; nan if an example could not be scored.
    """

    cluster_id: int
    block: int
    keys: Array
    tokens: Array
    influence: Array

    def __post_init__(self) -> None:
        if not len(self.keys) == len(self.tokens) == len(self.influence):
            raise ValueError(
                f"the pull of block {self.block} of cluster {self.cluster_id} has {len(self.keys)} keys, "
                f"{len(self.tokens)} token counts and {len(self.influence)} influences; "
                "it must have one of each for every example"
            )


RoundScores = tuple[PullScores, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class PullTable:
    """The pulls of a round as columns, sorted by (cluster, block, key), without unscorable examples.

    Attributes:
      cluster_id: int64 [pulls].
      block: int64 [pulls].
      starts: Start of each pull's examples, and the end of the last, int64 [pulls + 1].
      keys: uint64 [examples].
      tokens: int64 [examples].
      influence: Finite, float64 [examples].
    """

    cluster_id: Array
    block: Array
    starts: Array
    keys: Array
    tokens: Array
    influence: Array

    @classmethod
    def of(cls, scores: Sequence[PullScores]) -> "PullTable":
        """Sorts the scores of a round, so that results do not depend on the order in which they arrive.

        Raises:
          ValueError: If an influence is infinite, or an example has no tokens.
        """
        scores = sorted(scores, key=lambda pull: (pull.cluster_id, pull.block))
        sizes = _column([len(pull.keys) for pull in scores], np.int64)
        keys = _joined([pull.keys for pull in scores], np.uint64)
        tokens = _joined([pull.tokens for pull in scores], np.int64)
        influence = _joined([pull.influence for pull in scores], np.float64)
        pull = np.repeat(np.arange(len(scores)), sizes)
        _check_values(keys, tokens, influence)
        order = np.lexsort((keys, pull))
        # nan marks an example that could not be scored, and takes part in no mean.
        order = order[~np.isnan(influence[order])]
        return cls(
            cluster_id=_column([pull.cluster_id for pull in scores], np.int64),
            block=_column([pull.block for pull in scores], np.int64),
            starts=np.searchsorted(pull[order], np.arange(len(scores) + 1)),
            keys=keys[order],
            tokens=tokens[order],
            influence=influence[order],
        )

    @property
    def num_pulls(self) -> int:
        """Number of pulls, including pulls without a scorable example."""
        return int(self.cluster_id.size)

    @functools.cached_property
    def pull(self) -> Array:
        """Pull of each example, int64 [examples]."""
        return np.repeat(np.arange(self.num_pulls), np.diff(self.starts))

    @functools.cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """Start and end of each pull's examples."""
        return list(itertools.pairwise(self.starts.tolist()))

    @functools.cached_property
    def weighted(self) -> list[float]:
        """Influence times tokens of each example."""
        return list((self.tokens * self.influence).tolist())

    @functools.cached_property
    def means(self) -> Array:
        """Token-weighted mean influence of each pull, float64 [pulls]; nan if it has no scorable example."""
        weighted, tokens = self.weighted, self.tokens_per_pull.tolist()
        # fsum is exact and rounds once, so a mean does not depend on the order of its examples.
        return _column(
            [
                math.fsum(weighted[start:end]) / count if count else math.nan
                for (start, end), count in zip(self.bounds, tokens, strict=True)
            ],
            np.float64,
        )

    def mean(self) -> float:
        """Averages influence over the round's tokens; nan without a scorable example."""
        count = int(self.tokens.sum())
        return math.fsum(self.weighted) / count if count else math.nan

    @functools.cached_property
    def tokens_per_pull(self) -> Array:
        """Tokens of each pull's scorable examples, int64 [pulls]."""
        return np.diff(np.concatenate([[0], np.cumsum(self.tokens)])[self.starts])

    def pooled_deviation(self) -> float:
        """Computes the standard deviation of influence within pulls, pooled over pulls.

        Returns:
          sqrt(Σ_i Σ_j (x_ij - mean_i)² / Σ_i (n_i - 1)), examples unweighted; 0 if no pull has two examples.
        """
        squares, freedom = self.pooled_squares()
        return math.sqrt(squares / freedom) if freedom else 0.0

    def pooled_squares(self) -> tuple[float, int]:
        """Computes Σ_i Σ_j (x_ij - mean_i)² and its degrees of freedom, Σ_i (n_i - 1)."""
        values = self.influence.tolist()
        squares: list[float] = []
        for start, end in self.bounds:
            if end > start:
                mean = math.fsum(values[start:end]) / (end - start)
                squares += [(value - mean) ** 2 for value in values[start:end]]
        return math.fsum(squares), len(squares) - int(np.count_nonzero(np.diff(self.starts)))


@dataclasses.dataclass(frozen=True, eq=False)
class ArmPrior:
    """Knowledge of every arm before the first pull, expressed as pseudo-observations.

    Attributes:
      pulls: Weight of the knowledge, in pulls, float64 [num_clusters].
      tokens: Total tokens of the pseudo-observations, float64 [num_clusters].
      squares: Sum of their squared tokens, float64 [num_clusters].
      weighted: Sum of their influence times tokens, float64 [num_clusters].
    """

    pulls: Array
    tokens: Array
    squares: Array
    weighted: Array


class ArmSums:
    """Mean influence of every arm and the number of pulls behind it.

    The values of an arm are kept and summed together with `math.fsum`, because rounded partial sums would not merge exactly.

    Args:
      num_clusters: Number of arms.
      prior: Knowledge of the arms before the first pull.

    Attributes:
      means: Token-weighted mean influence of the examples scored so far, float64 [num_clusters]; nan before the first.
      pulls: Pulls with at least one scorable example, int64 [num_clusters].
    """

    def __init__(self, num_clusters: int, prior: ArmPrior | None = None) -> None:
        self.means: Array = np.full(num_clusters, np.nan)
        self.pulls: Array = np.zeros(num_clusters, dtype=np.int64)
        self._prior_pulls: Array = np.zeros(num_clusters, dtype=np.int64)
        self._weighted: list[list[float]] = [[] for _ in range(num_clusters)]
        self._tokens: list[float] = [0] * num_clusters
        if prior is not None:
            self._prior_pulls = prior.pulls
            known = prior.tokens > 0
            self.means[known] = prior.weighted[known] / prior.tokens[known]
            # The prior enters every later sum as one more observation of each arm.
            self._weighted = [[value] for value in prior.weighted.tolist()]
            self._tokens = prior.tokens.tolist()

    @property
    def weights(self) -> Array:
        """Number of pulls behind each mean, including the pulls that the prior is worth, [num_clusters]."""
        return np.asarray(self.pulls + self._prior_pulls)

    def add(self, table: PullTable) -> None:
        """Adds the pulls of a round; a pull without a scorable example changes nothing."""
        weighted, tokens = table.weighted, table.tokens_per_pull.tolist()
        for arm, (start, end), count in zip(
            table.cluster_id.tolist(), table.bounds, tokens, strict=True
        ):
            if count:
                # All values are summed again: the scores of any rounds, in any order, give the same bits.
                self._weighted[arm] += weighted[start:end]
                self._tokens[arm] += count
                self.means[arm] = math.fsum(self._weighted[arm]) / self._tokens[arm]
                self.pulls[arm] += 1


def _check_values(keys: Array, tokens: Array, influence: Array) -> None:
    bad = np.isinf(influence) | (tokens <= 0)
    if np.any(bad):
        at = int(np.argmax(bad))
        raise ValueError(
            f"example with key {keys[at]} has influence {influence[at]} and {tokens[at]} tokens; "
            "a scorer gives nan for what it cannot score, and every example has tokens"
        )


def _column(values: list[Any], dtype: Any) -> Array:
    return np.asarray(values, dtype=dtype)


def _joined(columns: list[Array], dtype: Any) -> Array:
    return np.concatenate([np.zeros(0, dtype=dtype), *columns], dtype=dtype)
