"""A rule by prediction: the scored examples of a cluster say which of its other examples are good."""

from typing import Any

import numpy as np

from beam_quad.bandit.acceptance.rule import Acceptance, Accepts
from beam_quad.bandit.acceptance.whole_blocks import WholeBlocks
from beam_quad.bandit.arms import PullTable
from beam_quad.bandit.yields import PulledBlocks

Array = np.ndarray[Any, np.dtype[Any]]


class Propagated(Acceptance):
    """Accepts the examples with the highest known or predicted influence after the rounds.

    During the rounds, a pulled block counts with the share of its tokens expected to reach tau.
    """

    name = "propagate"
    summary = "the documents predicted to be best by its scored ones"
    accepts = Accepts.PREDICTIONS

    @classmethod
    def check(cls, max_share_per_cluster: float) -> None:
        """As `Acceptance.check`: a cluster's share cannot be limited."""
        if max_share_per_cluster < 1:
            raise ValueError(
                f"max_share_per_cluster must be 1 with acceptance {cls.name!r}, got {max_share_per_cluster}: its "
                f"budget is cut over all clusters at once; use acceptance {WholeBlocks.name!r} to cap what one cluster "
                "gives"
            )

    def begin(self) -> None:
        """As `Acceptance.begin`."""
        self._pulled = PulledBlocks.none(self._blocks.num_clusters)

    def count(self, table: PullTable, tokens: Array) -> None:
        """As `Acceptance.count`: moves the blocks from the supply to the pulled blocks, which have their own estimate."""
        self._withdraw(table.cluster_id, table.block)
        self._pulled = self._pulled.with_round(table, tokens)

    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """As `Acceptance.accept`: counts a pull if one of its scored examples reaches tau."""
        # Expected anew: the round's own scores change what the pulled blocks will give.
        self.expect(means, tau)
        promising = np.unique(table.pull[table.influence >= tau])
        np.add.at(self._accepted_blocks, table.cluster_id[promising], 1)
        return int(promising.size)

    def water_level(self, means: Array) -> float:
        """As `Acceptance.water_level`."""
        # For the whole budget rather than the rest: how much pulled blocks give depends on the level.
        return self._pulled.water_level(self.budget_tokens, self.supply, means, self._residuals)

    def expect(self, means: Array, tau: float) -> None:
        """As `Acceptance.expect`: pulled blocks may fill the budget at a level that only exhausted arms reach.

        The budget then counts as full, although no arm can be pulled at that level.
        """
        self.left_tokens = self._pulled.missing(self.budget_tokens, tau, means, self._residuals)
        self.is_full = self.left_tokens == 0

    def expected_share(self, means: Array, tau: float) -> Array:
        """As `Acceptance.expected_share`."""
        return self._pulled.shares(tau, means, self._residuals)

    def by_cluster(self, means: Array, tau: float) -> tuple[Array, Array]:
        """As `Acceptance.by_cluster`, with the tokens expected to reach tau."""
        yields = self._pulled.yields(tau, means, self._residuals)
        return self._accepted_blocks, np.floor(yields).astype(np.int64)
