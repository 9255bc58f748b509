"""Sizes of pulls: the number of blocks of a cluster, and the number of examples scored in a block."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from beam_quad.bandit.blocks import (
    default_samples_per_pull,
    nearest_power_of_two,
    num_blocks,
    num_instance_blocks,
    where_nonempty,
)

Array = np.ndarray[Any, np.dtype[Any]]

_WHOLE_PULL_EXAMPLES = 32


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterSizes:
    """Sizes of clusters.

    Attributes:
      examples: Examples of each cluster, int64 [num_clusters].
      reserve: Examples of each cluster with text in the reserve, int64 [num_clusters].
    """

    examples: Array
    reserve: Array

    @property
    def num_examples(self) -> int:
        """Examples of all clusters."""
        return int(self.examples.sum())


class Pulls(Protocol):
    """How pulls are sized."""

    @property
    def is_census(self) -> bool:
        """Whether a pull scores its whole block."""

    def samples(self, num_examples: int, num_clusters: int) -> int:
        """Returns the number of examples that a pull scores; the expected number if it scores its whole block."""

    def num_blocks(self, examples: Array, reserve: Array) -> Array:
        """Decides how many blocks each cluster is cut into.

        Args:
          examples: Examples of each cluster, int64 [num_clusters].
          reserve: Examples of each cluster with text in the reserve, int64 [num_clusters].

        Returns:
          At least 1 for a cluster with examples, 0 for an empty one; int32 [num_clusters].
        """

    def of_part(self, part: ClusterSizes, whole: ClusterSizes) -> tuple[int, Array]:
        """Sizes the pulls of a part of a corpus, so that they score as many of its examples as pulls of the whole would.

        Returns:
          As `samples` and `num_blocks`.
        """


@dataclasses.dataclass(frozen=True)
class SampledPulls:
    """A pull scores a few examples of its block, whatever the block's size.

    Args:
      samples_per_pull: Examples that a pull scores; None for a default derived from the corpus size.
      blocks_per_cluster: Maximum number of blocks of a cluster, a power of two.
    """

    samples_per_pull: int | None
    blocks_per_cluster: int

    @property
    def is_census(self) -> bool:
        """As `Pulls.is_census`."""
        return False

    def samples(self, num_examples: int, num_clusters: int) -> int:
        """As `Pulls.samples`."""
        if self.samples_per_pull is not None:
            return self.samples_per_pull
        return default_samples_per_pull(num_examples, num_clusters)

    def num_blocks(self, examples: Array, reserve: Array) -> Array:
        """As `Pulls.num_blocks`."""
        samples = self.samples(int(examples.sum()), len(examples))
        return num_blocks(examples, reserve, samples, self.blocks_per_cluster)

    def of_part(self, part: ClusterSizes, whole: ClusterSizes) -> tuple[int, Array]:
        """As `Pulls.of_part`: blocks stay about as large as in the whole; if they are smaller, a pull scores fewer examples."""
        samples = self.samples(whole.num_examples, len(whole.examples))
        of_whole = self.num_blocks(whole.examples, whole.reserve)
        share = of_whole * part.examples / np.maximum(whole.examples, 1)
        counts = where_nonempty(part.examples, nearest_power_of_two(share))
        # Powers of two keep blocks only about as large, so the samples follow the mean sizes of blocks.
        per_block = part.num_examples / max(int(counts.sum()), 1)
        of_whole_block = whole.num_examples / max(int(of_whole.sum()), 1)
        return max(1, min(samples, round(samples * per_block / of_whole_block))), counts


@dataclasses.dataclass(frozen=True)
class WholePulls:
    """A pull scores its whole block, and blocks are cut to the size of a pull.

    Args:
      samples_per_pull: Approximate number of examples in a block; None for 32.
    """

    samples_per_pull: int | None

    @property
    def is_census(self) -> bool:
        """As `Pulls.is_census`."""
        return True

    def samples(self, num_examples: int, num_clusters: int) -> int:
        """As `Pulls.samples`."""
        return _WHOLE_PULL_EXAMPLES if self.samples_per_pull is None else self.samples_per_pull

    def num_blocks(self, examples: Array, reserve: Array) -> Array:
        """As `Pulls.num_blocks`."""
        return num_instance_blocks(
            examples, reserve, self.samples(int(examples.sum()), len(examples))
        )

    def of_part(self, part: ClusterSizes, whole: ClusterSizes) -> tuple[int, Array]:
        """As `Pulls.of_part`: the part is sized on its own, because every pulled block is scored whole."""
        samples = self.samples(part.num_examples, len(part.examples))
        return samples, self.num_blocks(part.examples, part.reserve)
