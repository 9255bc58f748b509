"""Blocks: the parts of a cluster that are pulled and accepted.

The examples of a cluster are put in a seeded random order and cut into blocks. The number of blocks is a power of two, so
if another budget or reserve changes it, each new block is a part or a union of old ones.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from beam_quad import archives, seeding
from beam_quad.columns import places_in_runs

MAX_INSTANCE_BLOCKS = 2**20
# Examples in a block if a pull scores the whole block.
INSTANCE_SAMPLES = 32
# A group of arms is one file of candidates and one work item of a round: about 8 MB of text.
CANDIDATES_PER_GROUP = 2048
MAX_GROUPS = 256

Array = np.ndarray[Any, np.dtype[Any]]


def default_samples_per_pull(num_examples: int, num_clusters: int) -> int:
    """Sizes a pull at 4 to 10 examples, so that the pilot scores about 1/32 of the corpus."""
    return min(max(num_examples // (32 * num_clusters), 4), 10)


def num_drawn(samples_per_pull: int) -> float:
    """Computes how many candidates of a block to draw, in expectation, to have enough for a pull almost always."""
    # The number drawn is about Poisson; a mean some four standard deviations above the pull's size hardly ever falls short.
    return samples_per_pull + 4 * math.sqrt(samples_per_pull) + 4


def num_blocks(
    examples: Array, reserve: Array, samples_per_pull: int, blocks_per_cluster: int = 16
) -> Array:
    """Decides how many blocks each cluster is cut into for `block` acceptance.

    A cluster gets fewer than `blocks_per_cluster` blocks if a block would otherwise hold, in expectation, fewer than
    `samples_per_pull` examples of the reserve or fewer than 2 · `samples_per_pull` examples in all.

    Args:
      examples: Examples of each cluster, int64 [num_clusters].
      reserve: Examples of each cluster with text in the reserve, int64 [num_clusters].
      samples_per_pull: Examples that a pull scores, >= 1.
      blocks_per_cluster: Maximum number of blocks of a cluster, a power of two.

    Returns:
      Powers of two, at least 1 for a cluster with examples, 0 for an empty one; int32 [num_clusters].

    Raises:
      ValueError: If `blocks_per_cluster` is not a power of two, or `samples_per_pull` is not positive.
    """
    _check_samples(samples_per_pull)
    if blocks_per_cluster < 1 or blocks_per_cluster & (blocks_per_cluster - 1):
        raise ValueError(
            f"blocks_per_cluster must be a power of two, so that blocks nest, got {blocks_per_cluster}"
        )
    most = np.minimum(np.asarray(reserve) // samples_per_pull, examples // (2 * samples_per_pull))
    # Powers of two nest: blocks of a run with fewer are unions of those of a run with more.
    return where_nonempty(examples, _floor_power_of_two(np.minimum(most, blocks_per_cluster)))


def num_instance_blocks(
    examples: Array,
    reserve: Array,
    samples_per_pull: int = INSTANCE_SAMPLES,
    max_blocks: int = MAX_INSTANCE_BLOCKS,
) -> Array:
    """Decides how many blocks each cluster is cut into for `instance` acceptance, which scores whole blocks.

    Args:
      examples: Examples of each cluster, int64 [num_clusters].
      reserve: Examples of each cluster with text in the reserve, int64 [num_clusters].
      samples_per_pull: Examples of the reserve in a block, to within a factor of sqrt(2).
      max_blocks: Maximum number of blocks in all; the largest clusters get fewer, larger blocks if it would be exceeded.

    Returns:
      Powers of two, at least 1 for a cluster with examples, 0 for an empty one; int32 [num_clusters].

    Raises:
      ValueError: If `samples_per_pull` is not positive, or there are more nonempty clusters than `max_blocks`.
    """
    _check_samples(samples_per_pull)
    if np.count_nonzero(examples) > max_blocks:
        raise ValueError(
            f"{np.count_nonzero(examples)} clusters need a block each but at most {max_blocks} are allowed; "
            "lower --num_clusters"
        )
    counts = where_nonempty(examples, nearest_power_of_two(np.asarray(reserve) / samples_per_pull))
    # Halving the cap keeps every count a power of two, and only the largest clusters lose blocks.
    cap = max(int(counts.max(initial=1)), 1)
    while int(np.minimum(counts, cap).sum(dtype=np.int64)) > max_blocks:
        cap //= 2
    return np.minimum(counts, np.int32(cap))


def block_of(cluster_id: Array, uniform: Array, num_blocks: Array) -> Array:
    """Finds the block of each example.

    Args:
      cluster_id: Integer [n].
      uniform: Draw u in [0, 1) of each example, float64 [n].
      num_blocks: Blocks of each cluster, int32 [num_clusters].

    Returns:
      b = floor(u · num_blocks[cluster]), int32 [n]. If the number of blocks doubles, b becomes 2b or 2b + 1.
    """
    return np.asarray(np.floor(uniform * num_blocks[cluster_id]), dtype=np.int32)


def example_blocks(seed: int, keys: Array, clusters: Array, num_blocks: Array) -> Array:
    """Finds the block of each example from its hash.

    Args:
      seed: The run's seed.
      keys: Keys of the examples (`seeding.keys`), uint64 [n].
      clusters: Clusters of the examples, integer [n].
      num_blocks: Blocks of each cluster, int32 [num_clusters].

    Returns:
      As `block_of`, int32 [n].
    """
    return block_of(clusters, seeding.uniform(seed, "block", keys), num_blocks)


def highest_draws(candidates: Array, samples_per_pull: int | None) -> Array:
    """Computes the draw above which a candidate can be skipped when finding the examples that a pull scores.

    Args:
      candidates: Candidates of each block, int64 [total].
      samples_per_pull: Examples that a pull scores; None for all.

    Returns:
      uint64 [total], at or below which `num_drawn` of a block's uniform draws are expected.
    """
    if samples_per_pull is None:
        return np.full(len(candidates), np.iinfo(np.uint64).max, np.uint64)
    share = np.minimum(1.0, num_drawn(samples_per_pull) / np.maximum(candidates, 1))
    # Clipped to the largest float64 below 2**64, because 2**64 itself overflows uint64.
    return np.minimum(share * 2.0**64, np.nextafter(2.0**64, 0)).astype(np.uint64)


def num_groups(candidates: Array, samples_per_pull: int) -> int:
    """Decides how many groups the arms are divided into, from the number of candidates kept.

    Args:
      candidates: Candidates of each block, int64 [total].
      samples_per_pull: Maximum number of candidates kept from a block.
    """
    expected = int(np.minimum(candidates, samples_per_pull).sum())
    return min(max(expected // CANDIDATES_PER_GROUP, 1), MAX_GROUPS)


def first_drawn(
    clusters: Array, blocks: Array, draws: Array, keys: Array, samples_per_pull: int | None
) -> Array:
    """Finds the candidates that a pull of each block scores, which have the lowest draws.

    Args:
      clusters: Integer [n].
      blocks: Integer [n].
      draws: uint64 [n].
      keys: Keys of the candidates, which break ties between draws, uint64 [n].
      samples_per_pull: Examples that a pull scores; None for all.

    Returns:
      Positions sorted by (cluster, block, draw, key), int64 [m].
    """
    order = np.lexsort((keys, draws, blocks, clusters))
    if samples_per_pull is None:
        return order
    return order[places_in_runs(clusters[order], blocks[order]) < samples_per_pull]


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks:
    """Contents of every block of every cluster. An additive statistic.

    The blocks of all clusters are stored in one row, cluster by cluster: block b of cluster c is at `offsets[c] + b`.

    Attributes:
      num_blocks: Blocks of each cluster, int32 [num_clusters]. Statistics can be added only if these are equal.
      examples: Examples in each block, int64 [total].
      tokens: Tokens in each block, int64 [total].
      candidates: Examples of each block in the reserve, which can be scored, int64 [total].
    """

    num_blocks: Array
    examples: Array
    tokens: Array
    candidates: Array

    @classmethod
    def zero(cls, num_blocks: Array) -> "Blocks":
        """Makes the statistic of no examples."""
        total = int(num_blocks.sum(dtype=np.int64))
        examples, tokens, candidates = np.zeros((3, total), dtype=np.int64)
        return cls(np.asarray(num_blocks, dtype=np.int32), examples, tokens, candidates)

    @classmethod
    def of(
        cls, num_blocks: Array, cluster_id: Array, block: Array, tokens: Array, in_reserve: Array
    ) -> "Blocks":
        """Counts examples.

        Args:
          num_blocks: Blocks of each cluster, int32 [num_clusters].
          cluster_id: Integer [n].
          block: Integer [n], below `num_blocks[cluster_id]`.
          tokens: Tokens of each example, integer [n].
          in_reserve: Whether the text of each example is in the reserve, bool [n].

        Raises:
          ValueError: If a block is out of range for its cluster.
        """
        zero = cls.zero(num_blocks)
        outside = (block < 0) | (block >= zero.num_blocks[cluster_id])
        if np.any(outside):
            at = int(np.argmax(outside))
            raise ValueError(
                f"block {block[at]} of cluster {cluster_id[at]}, which has "
                f"{zero.num_blocks[cluster_id[at]]} blocks; were they cut with other options?"
            )
        index = zero.offsets[cluster_id] + block
        size = zero.examples.size
        # bincount sums in float64, exact for integers below 2**53.
        return cls(
            zero.num_blocks,
            np.bincount(index, minlength=size).astype(np.int64),
            np.bincount(index, weights=tokens, minlength=size).astype(np.int64),
            np.bincount(index[np.asarray(in_reserve, dtype=bool)], minlength=size).astype(np.int64),
        )

    def __add__(self, other: "Blocks") -> "Blocks":
        if not np.array_equal(self.num_blocks, other.num_blocks):
            raise ValueError(
                f"blocks of {self.num_blocks.size} clusters ({self.examples.size} blocks) and of "
                f"{other.num_blocks.size} ({other.examples.size} blocks) do not add up; "
                "were they cut with other options?"
            )
        return Blocks(
            self.num_blocks,
            self.examples + other.examples,
            self.tokens + other.tokens,
            self.candidates + other.candidates,
        )

    def __getstate__(self) -> dict[str, Array]:
        """Packs only the nonempty blocks: a split has examples of few blocks, and its statistic is sent between workers."""
        at = np.flatnonzero(self.examples | self.tokens | self.candidates)
        columns = (self.examples, self.tokens, self.candidates)
        examples, tokens, candidates = (column[at] for column in columns)
        return {
            "num_blocks": self.num_blocks,
            "at": at.astype(np.uint32),
            "examples": examples.astype(np.min_scalar_type(examples.max(initial=0))),
            "tokens": tokens,
            "candidates": candidates.astype(np.min_scalar_type(candidates.max(initial=0))),
        }

    def __setstate__(self, state: dict[str, Array]) -> None:
        """Unpacks what `__getstate__` packed."""
        zero = Blocks.zero(state["num_blocks"])
        for name in ("examples", "tokens", "candidates"):
            getattr(zero, name)[state["at"]] = state[name]
        self.__dict__.update(zero.__dict__)

    def without(self, part: "Blocks") -> "Blocks":
        """Subtracts the tokens of examples that cannot be selected.

        The examples and candidates stay counted, so that the pullable blocks do not depend on the budget.
        """
        return dataclasses.replace(self, tokens=self.tokens - part.tokens)

    @property
    def num_clusters(self) -> int:
        """Number of clusters, empty ones included."""
        return int(self.num_blocks.size)

    @functools.cached_property
    def offsets(self) -> Array:
        """Start of each cluster's blocks in the row, and the end of the last, int64 [num_clusters + 1]."""
        return _starts(self.num_blocks)

    @functools.cached_property
    def cluster_id(self) -> Array:
        """Cluster of each block of the row, int64 [total]."""
        return np.repeat(np.arange(self.num_clusters), self.num_blocks)

    @functools.cached_property
    def block(self) -> Array:
        """Index of each block of the row within its cluster, int64 [total]."""
        return np.arange(self.examples.size) - self.offsets[self.cluster_id]

    @functools.cached_property
    def pullable(self) -> Array:
        """Positions in the row of blocks with candidates, ascending, int64."""
        return np.flatnonzero(self.candidates > 0)

    @functools.cached_property
    def pullable_starts(self) -> Array:
        """Start of each cluster's blocks in `pullable`, and the end of the last, int64 [num_clusters + 1]."""
        return np.searchsorted(self.pullable, self.offsets)

    @property
    def is_unreachable(self) -> Array:
        """Whether a block has examples but no candidate, so that it cannot be pulled, bool [total]."""
        return np.asarray((self.examples > 0) & (self.candidates == 0))

    @property
    def candidate_tokens(self) -> Array:
        """Estimates the tokens of each block's candidates from their share of its examples, int64 [total]."""
        share = self.candidates / np.maximum(self.examples, 1)
        return np.floor(self.tokens * share).astype(np.int64)

    def per_cluster(self, values: Array) -> Array:
        """Sums an integer [total] over the blocks of each cluster, int64 [num_clusters]."""
        return np.diff(_starts(values)[self.offsets])

    def __iter__(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yields (cluster_id, block, examples, tokens, candidates) of each nonempty block."""
        nonempty = np.flatnonzero(self.examples)
        columns = (self.cluster_id, self.block, self.examples, self.tokens, self.candidates)
        yield from zip(*(column[nonempty].tolist() for column in columns), strict=True)

    def to_bytes(self) -> bytes:
        """Writes the statistic as npz without pickles; equal statistics give equal bytes."""
        return archives.dump(**dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Blocks":
        """Reads what `to_bytes` wrote."""
        return cls(**archives.parse(data))


def _check_samples(samples_per_pull: int) -> None:
    if samples_per_pull < 1:
        raise ValueError(f"samples_per_pull must be at least 1, got {samples_per_pull}")


def where_nonempty(examples: Array, counts: Array) -> Array:
    """Sets the counts of empty clusters to 0, int32 [num_clusters]."""
    return np.where(np.asarray(examples) > 0, counts, 0).astype(np.int32)


def nearest_power_of_two(values: Array) -> Array:
    """Rounds to the nearest power of two on a logarithmic scale, at least 1; int64, in the input's shape."""
    # Rounding sqrt(2) · x down is rounding x to the nearest exponent.
    return _floor_power_of_two(np.floor(np.sqrt(2.0) * np.asarray(values, np.float64)))


def _floor_power_of_two(values: Array) -> Array:
    """Rounds down to a power of two, at least 1."""
    _, exponent = np.frexp(np.maximum(values, 1).astype(np.float64))
    return np.left_shift(1, exponent.astype(np.int64) - 1)


def _starts(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
