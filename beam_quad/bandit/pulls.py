"""How pulls are sized: how many blocks a cluster is cut into, and how many examples of a block are scored."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from beam_quad.bandit.blocks import default_samples_per_pull, num_blocks, num_instance_blocks

Array = np.ndarray[Any, np.dtype[Any]]

_WHOLE_PULL_EXAMPLES = 32


class Pulls(Protocol):
    """How pulls are sized."""

    @property
    def is_census(self) -> bool:
        """Whether a pull scores its whole block."""

    def samples(self, num_examples: int, num_clusters: int) -> int:
        """Says how many examples a pull scores, in expectation if it scores its whole block."""

    def num_blocks(self, examples: Array, reserve: Array) -> Array:
        """Decides into how many blocks each cluster is cut.

        Args:
          examples: Examples of each cluster, int64 [num_clusters].
          reserve: How many of them have their text in the reserve, int64 [num_clusters].

        Returns:
          At least 1 for a cluster with examples, 0 for an empty one; int32 [num_clusters].
        """


@dataclasses.dataclass(frozen=True)
class SampledPulls:
    """A pull scores a few examples, whatever its block holds.

    Args:
      samples_per_pull: Examples that a pull scores; None for a default by the size of the corpus.
      blocks_per_cluster: The most blocks of a cluster, a power of two.
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


@dataclasses.dataclass(frozen=True)
class WholePulls:
    """A pull scores its whole block, which is cut to its size.

    Args:
      samples_per_pull: Examples in a block, about; None for 32.
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
