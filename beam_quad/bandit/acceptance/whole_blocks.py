"""Quad's own rule: a good pull gives its whole block."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad.bandit.acceptance.filling import take_blocks
from beam_quad.bandit.acceptance.rule import Acceptance, Accepts
from beam_quad.bandit.arms import PullTable
from beam_quad.bandit.evidence import Evidence
from beam_quad.bandit.state import AcceptedBlock

Array = np.ndarray[Any, np.dtype[Any]]


class WholeBlocks(Acceptance):
    """Accepts a whole block if the mean influence of its scored examples reaches tau.

    Without a prior, a block that falls short is rejected for good. With a prior, only the few blocks of new documents are
    pulled and no better ones may follow, so a block waits until tau falls to its mean or the rounds end.
    """

    name = "block"
    summary = "its whole block"
    accepts = Accepts.BLOCKS

    def begin(self) -> None:
        """As `Acceptance.begin`."""
        self._accepted: list[AcceptedBlock] = []
        self._waiting = _Offers.none()

    def learn_spread(self, table: PullTable, means: Array, known: Evidence | None = None) -> None:
        """As `Acceptance.learn_spread`: nothing to learn, because a block is judged by its mean alone."""

    @property
    def blocks(self) -> Sequence[AcceptedBlock]:
        """Accepted blocks, in order."""
        return self._accepted

    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """As `Acceptance.accept`."""
        offers = _Offers(table.cluster_id, table.block, self._judged(table), tokens)
        if self._prior is None:
            # A rejected block never comes back, so all pulled blocks leave the supply.
            self._withdraw(table.cluster_id, table.block)
            return self._take(offers, tau, number).size
        # A waiting block can still be accepted, so only accepted blocks leave the supply.
        self._waiting = self._waiting.with_more(offers)
        order = self._take(self._waiting, tau, number)
        taken = self._waiting.some(order)
        self._withdraw(taken.cluster_id, taken.block)
        self._waiting = self._waiting.some(np.delete(np.arange(len(self._waiting.block)), order))
        return order.size

    def finish(self, means: Array, tokens: Array, tau: float | None, number: int) -> None:
        """As `Acceptance.finish`: fills the budget with the best waiting blocks."""
        self._take(self._waiting, -math.inf if tau is None else tau, number)

    def _take(self, offers: "_Offers", tau: float, number: int) -> Array:
        """Accepts the blocks that reach tau and records them; returns their positions, int64 [taken]."""
        cluster_id = offers.cluster_id
        order, taken = take_blocks(
            offers.influence,
            offers.tokens,
            self.room[cluster_id],
            self._ties[cluster_id],
            tau,
            self.left_tokens,
            cluster_id,
        )
        columns = (*(column[order] for column in dataclasses.astuple(offers)), taken)
        self._accepted += [
            AcceptedBlock(cluster, block, number, mean, size, take)
            for cluster, block, mean, size, take in zip(*(c.tolist() for c in columns), strict=True)
        ]
        np.add.at(self._accepted_blocks, cluster_id[order], 1)
        self._spend(cluster_id[order], taken)
        # The last block is cut to what is left, so the budget is met exactly.
        self.is_full = self.left_tokens == 0
        return order

    def _judged(self, table: PullTable) -> Array:
        """Mean influence of each pull, shrunk towards the prior of its cluster, float64 [pulls].

        With a prior, blocks hold only new documents and few of them are scored. Judged by those scores alone, the luckiest
        blocks would be accepted rather than the best.
        """
        if self._prior is None:
            return table.means
        own = table.tokens_per_pull
        tokens = own + self._prior.tokens[table.cluster_id]
        weighted = table.means * own + self._prior.weighted[table.cluster_id]
        return np.asarray(weighted / np.maximum(tokens, 1))

    def expected_share(self, means: Array, tau: float) -> Array:
        """As `Acceptance.expected_share`: 1, because a block that reaches tau is accepted whole."""
        return np.ones(means.size)


@dataclasses.dataclass(frozen=True, eq=False)
class _Offers:
    """Blocks that could be accepted.

    Attributes:
      cluster_id: int64 [n].
      block: int64 [n].
      influence: Influence by which each block is judged, float64 [n].
      tokens: int64 [n].
    """

    cluster_id: Array
    block: Array
    influence: Array
    tokens: Array

    @classmethod
    def none(cls) -> "_Offers":
        nothing = np.zeros(0, dtype=np.int64)
        return cls(nothing, nothing, nothing.astype(np.float64), nothing)

    def with_more(self, other: "_Offers") -> "_Offers":
        columns = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return _Offers(*(np.concatenate(pair) for pair in columns))

    def some(self, at: Array) -> "_Offers":
        return _Offers(*(column[at] for column in dataclasses.astuple(self)))
