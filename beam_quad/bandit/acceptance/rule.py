"""What the bandit asks of an acceptance rule, and the accounts that all rules keep."""

import abc
import enum
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from beam_quad.bandit import rules
from beam_quad.bandit.arms import ArmPrior, PullTable
from beam_quad.bandit.blocks import Blocks
from beam_quad.bandit.evidence import Evidence
from beam_quad.bandit.pulls import Pulls, SampledPulls
from beam_quad.bandit.state import AcceptedBlock, AcceptedExamples

Array = np.ndarray[Any, np.dtype[Any]]


class Accepts(enum.Enum):
    """What a rule accepts; the selection is built from it."""

    BLOCKS = enum.auto()
    EXAMPLES = enum.auto()
    PREDICTIONS = enum.auto()


class Acceptance(abc.ABC):
    """An acceptance rule and what it has accepted in one replay of the bandit.

    The bandit calls `count` and `accept` in each round, `expect` before each further round, and `finish` after the last.
    In the pilot it also calls `learn_spread`, and sets the threshold between `count` and `accept`.

    Args:
      blocks: Contents of the corpus's blocks.
      budget_tokens: Tokens to select.
      cluster_cap_tokens: Maximum number of tokens selected from one cluster.
      ties: Tie breaker of each cluster, uint64 [num_clusters].
      prior: Knowledge of the arms before the first pull, or None.

    Attributes:
      name: The value of `--acceptance`.
      summary: What a good pull gives, for the flag's help.
      accepts: What the rule accepts.
      can_pull_repeatedly: Whether a round pulls a second block of an arm if the first is not expected to suffice.
      left_tokens: Tokens missing from the budget, for which the next rounds pull; the expected number if the rule predicts.
      is_full: Whether the budget needs no further pulls.
      room: Tokens that each cluster may still give, int64 [num_clusters].
      supply: Tokens in the blocks that each cluster can still give, int64 [num_clusters].
      worth: Obtainable tokens of each block, int64 [total].
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    accepts: ClassVar[Accepts]
    can_pull_repeatedly: ClassVar[bool] = False

    def __init__(
        self,
        blocks: Blocks,
        budget_tokens: int,
        cluster_cap_tokens: int,
        ties: Array,
        prior: ArmPrior | None = None,
    ) -> None:
        self.budget_tokens = budget_tokens
        self.left_tokens = budget_tokens
        self.is_full = False
        self.room: Array = np.full(blocks.num_clusters, cluster_cap_tokens, dtype=np.int64)
        self.supply = self.reachable(blocks)
        self.worth = self.obtainable(blocks)
        self._blocks = blocks
        self._ties = ties
        self._prior = prior
        self._residuals = rules.WHOLE_BLOCKS
        self._accepted_blocks: Array = np.zeros(blocks.num_clusters, dtype=np.int64)
        self._accepted_tokens: Array = np.zeros(blocks.num_clusters, dtype=np.int64)
        self.begin()

    def begin(self) -> None:  # noqa: B027 (a rule may keep nothing)
        """Sets what the rule itself keeps from round to round, at the start."""

    @classmethod
    def pulls(cls, samples_per_pull: int | None, blocks_per_cluster: int) -> Pulls:
        """Chooses how pulls are sized; `samples_per_pull` is None for a default derived from the corpus size."""
        return SampledPulls(samples_per_pull, blocks_per_cluster)

    @classmethod  # noqa: B027 (most rules support all options)
    def check(cls, max_share_per_cluster: float) -> None:
        """Raises ValueError if the rule does not support the options."""

    @classmethod
    def obtainable(cls, blocks: Blocks) -> Array:
        """Counts the tokens obtainable from each block, int64 [total]."""
        return blocks.tokens

    @classmethod
    def reachable(cls, blocks: Blocks) -> Array:
        """Sums the obtainable tokens of each cluster's pullable blocks, int64 [num_clusters]."""
        # A block without a candidate is never pulled, and so never judged.
        return blocks.per_cluster(np.where(blocks.candidates > 0, cls.obtainable(blocks), 0))

    @property
    def blocks(self) -> Sequence[AcceptedBlock]:
        """Accepted blocks, in order; empty for rules that do not accept blocks."""
        return ()

    @property
    def examples(self) -> AcceptedExamples:
        """Accepted examples, in order; empty for rules that do not accept examples."""
        return AcceptedExamples.empty()

    @property
    def accepted_tokens(self) -> int:
        """Tokens accepted so far; the tokens expected to reach tau if the rule predicts."""
        return self.budget_tokens - self.left_tokens

    def learn_spread(self, table: PullTable, means: Array, known: Evidence | None = None) -> None:
        """Learns from the pilot how far examples lie from the mean of their arm.

        Args:
          table: The pilot's pulls.
          means: Mean influence of each arm, float64 [num_clusters].
          known: Evidence of earlier runs and this pilot; None if there was no earlier run.
        """
        # After earlier runs, this pilot pulls only a few arms, so the residuals of all pilots are used.
        if known is not None and known.residuals.size:
            self._residuals = known.residuals
        elif table.influence.size:
            self._residuals = np.sort(table.influence - means[table.cluster_id[table.pull]])

    def count(self, table: PullTable, tokens: Array) -> None:  # noqa: B027 (most rules need it not)
        """Records the blocks of a round as pulled.

        A rule that accepts from pulled blocks in the same round does nothing here. The pilot's threshold is computed from
        a supply that still includes these blocks, and `accept` removes them from it.

        Args:
          table: The pulls.
          tokens: Tokens of each pulled block, without those of unscorable examples, int64 [pulls].
        """

    @abc.abstractmethod
    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """Accepts from the pulls of a round.

        Args:
          table: The pulls.
          tokens: As in `count`.
          means: Mean influence of each arm, this round included, float64 [num_clusters].
          tau: Lowest influence accepted.
          number: The round.

        Returns:
          Number of pulls from which something was accepted.
        """

    def water_level(self, means: Array) -> float:
        """Finds the mean influence down to which arms are expected to fill the budget; -inf if they cannot fill it.

        Args:
          means: Mean influence of each arm, float64 [num_clusters]; nan if unknown.
        """
        # A cluster gives neither more than it has left nor more than its share.
        supply = np.minimum(self.supply, self.room)
        wanted = rules.WATER_MARGIN * self.left_tokens
        return rules.water_level(means, supply, wanted, self._residuals)

    def expect(self, means: Array, tau: float) -> None:  # noqa: B027 (most rules need it not)
        """Updates the expected tokens to the next round's threshold, for rules that predict."""

    def finish(  # noqa: B027 (most rules need it not)
        self, means: Array, tokens: Array, tau: float | None, number: int
    ) -> None:
        """Completes the selection after the last round.

        Args:
          means: Mean influence of each arm, float64 [num_clusters].
          tokens: Tokens of each block, without those of unscorable examples, int64 [total].
          tau: The fixed threshold, or None.
          number: The last round.
        """

    @abc.abstractmethod
    def expected_share(self, means: Array, tau: float) -> Array:
        """Estimates the share of a block's worth that a pull of each arm contributes, float64 [num_clusters]."""

    def by_cluster(self, means: Array, tau: float) -> tuple[Array, Array]:
        """Counts accepted pulls and accepted tokens by cluster: two int64 [num_clusters]."""
        return self._accepted_blocks, self._accepted_tokens

    def _withdraw(self, cluster_id: Array, block: Array) -> None:
        """Removes blocks from the supply."""
        place = self._blocks.offsets[cluster_id] + block
        np.subtract.at(self.supply, cluster_id, self.worth[place])

    def _spend(self, cluster_id: Array, tokens: Array) -> None:
        """Subtracts accepted tokens from the budget and from the room of their clusters."""
        np.subtract.at(self.room, cluster_id, tokens)
        np.add.at(self._accepted_tokens, cluster_id, tokens)
        self.left_tokens -= int(tokens.sum())
