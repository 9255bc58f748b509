"""A rule for single examples: a pull scores its whole block and gives the best of it."""

from typing import Any

import numpy as np

from beam_quad.bandit import rules
from beam_quad.bandit.acceptance.filling import take_examples
from beam_quad.bandit.acceptance.rule import Acceptance, Accepts
from beam_quad.bandit.arms import PullTable
from beam_quad.bandit.blocks import Blocks
from beam_quad.bandit.pulls import Pulls, WholePulls
from beam_quad.bandit.state import AcceptedExamples

Array = np.ndarray[Any, np.dtype[Any]]


class Instances(Acceptance):
    """Scores whole blocks and accepts only the examples that reach tau."""

    name = "instance"
    summary = "those of its documents that were scored well themselves"
    accepts = Accepts.EXAMPLES
    can_pull_repeatedly = True

    def begin(self) -> None:
        """As `Acceptance.begin`."""
        self._accepted = [AcceptedExamples.empty()]

    @classmethod
    def pulls(cls, samples_per_pull: int | None, blocks_per_cluster: int) -> Pulls:
        """As `Acceptance.pulls`; blocks are cut to the size of a pull."""
        return WholePulls(samples_per_pull)

    @classmethod
    def obtainable(cls, blocks: Blocks) -> Array:
        """As `Acceptance.obtainable`: only candidates, because examples outside the reserve cannot be scored."""
        return blocks.candidate_tokens

    @property
    def examples(self) -> AcceptedExamples:
        """Accepted examples, in order."""
        return AcceptedExamples.joined(self._accepted)

    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """As `Acceptance.accept`."""
        # Every example of a pulled block is judged now, so none of it is left for a later round.
        self._withdraw(table.cluster_id, table.block)
        cluster_id = table.cluster_id[table.pull]
        order, full_clusters, self.is_full = take_examples(
            table.influence, table.tokens, cluster_id, table.keys, self.room, tau, self.left_tokens
        )
        self._accepted.append(
            AcceptedExamples(
                keys=table.keys[order],
                tokens=table.tokens[order],
                influence=table.influence[order],
                cluster_id=cluster_id[order],
                block=table.block[table.pull][order],
                round=np.full(order.size, number),
            )
        )
        self._spend(cluster_id[order], table.tokens[order])
        # The next example of these clusters did not fit; the tokens left over would only cause further pulls.
        self.room[full_clusters] = 0
        return int(np.unique(table.pull[order]).size)

    def expected_share(self, means: Array, tau: float) -> Array:
        """As `Acceptance.expected_share`."""
        return rules.expected_share(tau, means, self._residuals)
