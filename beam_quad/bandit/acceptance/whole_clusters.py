"""A rule for whole clusters: the rounds only find out which clusters are best."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad.bandit import rules
from beam_quad.bandit.acceptance.filling import take_blocks
from beam_quad.bandit.acceptance.rule import Acceptance, Accepts
from beam_quad.bandit.arms import PullTable
from beam_quad.bandit.blocks import Blocks
from beam_quad.bandit.evidence import Evidence
from beam_quad.bandit.posterior import VarianceComponents, relative_errors
from beam_quad.bandit.state import AcceptedBlock

Array = np.ndarray[Any, np.dtype[Any]]


class WholeClusters(Acceptance):
    """Accepts whole clusters after the rounds, in order of posterior mean.

    A few scores say no more about a large block than about its cluster, and the cluster's mean rests on more of them. The
    rounds therefore only refine the cluster means. After the last round, the best clusters fill the budget with all their
    blocks, pulled or not. The rounds pull twice the budget in all, an equal number of tokens each.

    Arms are pulled in order of their upper bounds, as under every rule. Pulling the arms nearest to the water level first is
    no better in `tests.benchmarks.bandit`: with 2,000 clusters and an intra-cluster correlation of .05 it finds .80 and .85 of
    the oracle's influence, and the order of upper bounds finds .79 and .90.
    """

    name = "cluster"
    summary = "its cluster, if that is among the best once the rounds are over"
    accepts = Accepts.BLOCKS

    def begin(self) -> None:
        """As `Acceptance.begin`."""
        self._tables: list[PullTable] = []
        self._pulled_tokens = 0
        self._components = VarianceComponents(math.nan, 0.0, 0.0)
        self._accepted: list[AcceptedBlock] = []

    @classmethod
    def reachable(cls, blocks: Blocks) -> Array:
        """As `Acceptance.reachable`: all tokens, because an accepted cluster includes blocks that cannot be pulled."""
        return blocks.per_cluster(blocks.tokens)

    @property
    def blocks(self) -> Sequence[AcceptedBlock]:
        """Accepted blocks, in order; empty until the rounds are over."""
        return self._accepted

    @property
    def accepted_tokens(self) -> int:
        """As `Acceptance.accepted_tokens`; 0 until the rounds are over."""
        return int(self._accepted_tokens.sum())

    def learn_spread(self, table: PullTable, means: Array, known: Evidence | None = None) -> None:
        """As `Acceptance.learn_spread`, with the variance between clusters, which sets the shrinkage."""
        self._components = VarianceComponents.of(table) if known is None else known.components()

    def count(self, table: PullTable, tokens: Array) -> None:
        """As `Acceptance.count`: pulled blocks stay in the supply, because their clusters may be accepted."""
        self._tables.append(table)

    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """As `Acceptance.accept`: counts a pull if its cluster is expected to be accepted."""
        # The pilot's tokens do not count towards the two budgets that the rounds pull.
        if number > 0:
            self._pulled_tokens += int(tokens.sum())
        # A round pulls ROUND_MARGIN · left_tokens / rounds left, so dividing by the same margin keeps all rounds equal.
        self.left_tokens = max(
            self.budget_tokens - math.ceil(self._pulled_tokens / rules.ROUND_MARGIN), 0
        )
        self.is_full = self.left_tokens == 0
        return int(np.count_nonzero(self._posterior(means)[table.cluster_id] >= tau))

    def water_level(self, means: Array) -> float:
        """As `Acceptance.water_level`: the level at which whole clusters, pulled or not, fill the budget."""
        # For the whole budget, because nothing is accepted before the rounds are over.
        supply = np.minimum(self.supply, self.room)
        return rules.water_level(self._posterior(means), supply, self.budget_tokens)

    def finish(self, means: Array, tokens: Array, tau: float | None, number: int) -> None:
        """As `Acceptance.finish`: fills the budget with whole clusters, and cuts the last cluster and its last block."""
        posterior = self._posterior(means)
        per_cluster = self._blocks.per_cluster(tokens)
        order, taken = take_blocks(
            posterior, per_cluster, self.room, self._ties, -math.inf if tau is None else tau, self.budget_tokens,
            np.arange(posterior.size),
        )  # fmt: skip
        for cluster, give in zip(order.tolist(), taken.tolist(), strict=True):
            own = tokens[self._blocks.offsets[cluster] : self._blocks.offsets[cluster + 1]]
            # Blocks are random parts of their cluster, so it makes no difference which of them are left out.
            takes = np.clip(give - (np.cumsum(own) - own), 0, own)
            self._accepted += [
                AcceptedBlock(
                    cluster, int(block), number, float(posterior[cluster]), int(own[block]), int(takes[block])
                )
                for block in np.flatnonzero(takes)
            ]  # fmt: skip
            self._accepted_blocks[cluster] = np.count_nonzero(takes)
        self._spend(order, taken)
        # During the rounds these were the tokens left to pull; now they are those missing from the budget.
        self.left_tokens = self.budget_tokens - self.accepted_tokens

    def expected_share(self, means: Array, tau: float) -> Array:
        """As `Acceptance.expected_share`: 1, because a pull counts with its whole block whatever its scores."""
        return np.ones(means.size)

    def _posterior(self, means: Array) -> Array:
        errors = relative_errors(self._tables, means.size, self._prior)
        return self._components.posterior_means(means, errors)
