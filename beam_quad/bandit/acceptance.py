"""Rules of acceptance: what the pulls of a round give, at least tau, best first, within the budget and each cluster's share.

A new rule is a class here, an entry in `ACCEPTANCES` and a test.
"""

import abc
import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from beam_quad.bandit import rules
from beam_quad.bandit.arms import ArmPrior, PullTable
from beam_quad.bandit.blocks import Blocks
from beam_quad.bandit.evidence import Evidence
from beam_quad.bandit.posterior import VarianceComponents, relative_errors
from beam_quad.bandit.pulls import Pulls, SampledPulls, WholePulls
from beam_quad.bandit.state import AcceptedBlock, AcceptedExamples
from beam_quad.bandit.yields import PulledBlocks
from beam_quad.columns import run_lengths, run_starts

Array = np.ndarray[Any, np.dtype[Any]]


class Accepts(enum.Enum):
    """What a rule accepts; a selection follows from each."""

    BLOCKS = enum.auto()
    EXAMPLES = enum.auto()
    PREDICTIONS = enum.auto()


class Acceptance(abc.ABC):
    """A rule of acceptance, and what it has accepted in one replay of the bandit.

    The bandit calls `count` and `accept` in each round, `expect` before each further round, and `finish` once there is none.
    The pilot also sets the spread of influence within clusters (`learn_spread`), and its threshold is found between `count`
    and `accept`.

    Args:
      blocks: What the blocks of the corpus hold.
      budget_tokens: Tokens to select.
      cluster_cap_tokens: The most tokens that one cluster may give.
      ties: Decides between equal clusters, uint64 [num_clusters].
      prior: What is known of the arms before the first pull, or None.

    Attributes:
      name: The value of `--acceptance`.
      summary: What a good pull gives, for the flag's help.
      accepts: What the rule accepts.
      can_pull_repeatedly: Whether a round pulls a second block of an arm if the first is not expected to suffice.
      can_cap_clusters: Whether a cluster's share of the budget can be limited.
      left_tokens: What is missing to the budget, for which the next rounds pull; with predictions, what is expected to be
        missing.
      is_full: Whether nothing more is wanted.
      room: Tokens that each cluster may still give, int64 [num_clusters].
      supply: Tokens in the blocks that each cluster may still give, int64 [num_clusters].
      worth: Tokens that each block could give, int64 [total].
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    accepts: ClassVar[Accepts]
    can_pull_repeatedly: ClassVar[bool] = False
    can_cap_clusters: ClassVar[bool] = True

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

    @classmethod
    def pulls(cls, samples_per_pull: int | None, blocks_per_cluster: int) -> Pulls:
        """Says how pulls are sized; the samples are None for a default by the size of the corpus."""
        return SampledPulls(samples_per_pull, blocks_per_cluster)

    @classmethod
    def check(cls, max_share_per_cluster: float) -> None:
        """Refuses options that the rule cannot follow, with ValueError."""
        if max_share_per_cluster < 1 and not cls.can_cap_clusters:
            raise ValueError(
                f"max_share_per_cluster must be 1 with acceptance {cls.name!r}, got {max_share_per_cluster}: its "
                f"budget is cut over all clusters at once; use acceptance {WholeBlocks.name!r} to cap what one cluster "
                "gives"
            )

    @classmethod
    def obtainable(cls, blocks: Blocks) -> Array:
        """Counts the tokens that each block gives if all that it offers is accepted, int64 [total]."""
        return blocks.tokens

    @classmethod
    def reachable(cls, blocks: Blocks) -> Array:
        """Sums what the blocks that can be pulled give for each cluster, int64 [num_clusters]."""
        return blocks.per_cluster(np.where(blocks.candidates > 0, cls.obtainable(blocks), 0))

    @property
    def blocks(self) -> Sequence[AcceptedBlock]:
        """Blocks that were accepted, in order; empty for rules that accept none."""
        return ()

    @property
    def examples(self) -> AcceptedExamples:
        """Examples that were accepted, in order; empty for rules that accept none."""
        return AcceptedExamples.empty()

    @property
    def accepted_tokens(self) -> int:
        """Tokens accepted so far; with predictions, those expected to reach tau."""
        return self.budget_tokens - self.left_tokens

    def learn_spread(self, table: PullTable, means: Array, known: Evidence | None = None) -> None:
        """Learns from the pilot how far examples lie from the mean of their arm.

        Args:
          table: The pilot's pulls.
          means: Mean influence of each arm, float64 [num_clusters].
          known: What was scored before, and the pilot; None if nothing was scored before.
        """
        if known is not None and known.residuals.size:
            self._residuals = known.residuals
        elif table.influence.size:
            self._residuals = np.sort(table.influence - means[table.cluster_id[table.pull]])

    def count(self, table: PullTable, tokens: Array) -> None:  # noqa: B027 (most rules need it not)
        """Counts the blocks of a round as pulled.

        A rule that accepts from the pulled blocks at once leaves this out: they are part of the supply for which the
        pilot's threshold is found, and `accept` takes them off it.

        Args:
          table: The pulls.
          tokens: Tokens of each pulled block, without those of unscorable examples, int64 [pulls].
        """

    @abc.abstractmethod
    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """Decides what the pulls of a round give.

        Args:
          table: The pulls.
          tokens: As in `count`.
          means: Mean influence of each arm, this round included, float64 [num_clusters].
          tau: The least influence that is accepted.
          number: The round.

        Returns:
          The number of pulls that give something.
        """

    def water_level(self, means: Array) -> float:
        """Finds the mean influence down to which arms are expected to give what is missing; -inf if they never do.

        Args:
          means: Mean influence of each arm, float64 [num_clusters]; nan where unknown.
        """
        supply = np.minimum(self.supply, self.room)
        wanted = rules.WATER_MARGIN * self.left_tokens
        return rules.water_level(means, supply, wanted, self._residuals)

    def expect(self, means: Array, tau: float) -> None:  # noqa: B027 (most rules need it not)
        """Takes notice of the next round's threshold, which changes what predictions are expected to give."""

    def finish(  # noqa: B027 (most rules need it not)
        self, means: Array, tokens: Array, tau: float | None, number: int
    ) -> None:
        """Decides what is accepted once the rounds are over.

        Args:
          means: Mean influence of each arm, float64 [num_clusters].
          tokens: Tokens of each block, without those of unscorable examples, int64 [total].
          tau: The fixed threshold, or None.
          number: The last round.
        """

    @abc.abstractmethod
    def expected_share(self, means: Array, tau: float) -> Array:
        """Estimates the share of a block's worth that a pull of each arm gives, float64 [num_clusters]."""

    def by_cluster(self, means: Array, tau: float) -> tuple[Array, Array]:
        """Counts the pulls that gave something and the tokens they gave, by cluster: two int64 [num_clusters]."""
        return self._accepted_blocks, self._accepted_tokens

    def _withdraw(self, cluster_id: Array, block: Array) -> None:
        """Takes blocks off the supply."""
        place = self._blocks.offsets[cluster_id] + block
        np.subtract.at(self.supply, cluster_id, self.worth[place])

    def _spend(self, cluster_id: Array, tokens: Array) -> None:
        """Takes accepted tokens off the budget and off the room of their clusters."""
        np.subtract.at(self.room, cluster_id, tokens)
        np.add.at(self._accepted_tokens, cluster_id, tokens)
        self.left_tokens -= int(tokens.sum())


class WholeBlocks(Acceptance):
    """Accepts a block whole if its scored examples reach tau on average.

    A block that falls short is left for good. But where something was known before there are few blocks, those of new
    documents, and no better ones may come: then it waits until tau has fallen to it, or the rounds are over.
    """

    name = "block"
    summary = "its whole block"
    accepts = Accepts.BLOCKS

    def __init__(
        self,
        blocks: Blocks,
        budget_tokens: int,
        cluster_cap_tokens: int,
        ties: Array,
        prior: ArmPrior | None = None,
    ) -> None:
        super().__init__(blocks, budget_tokens, cluster_cap_tokens, ties, prior)
        self._accepted: list[AcceptedBlock] = []
        self._waiting = _Offers.none()

    def learn_spread(self, table: PullTable, means: Array, known: Evidence | None = None) -> None:
        """As `Acceptance.learn_spread`: a block counts by its mean, however its examples spread."""

    @property
    def blocks(self) -> Sequence[AcceptedBlock]:
        """Blocks that were accepted, in order."""
        return self._accepted

    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """As `Acceptance.accept`."""
        offers = _Offers(table.cluster_id, table.block, self._judged(table), tokens)
        if self._prior is None:
            self._withdraw(table.cluster_id, table.block)
            return self._take(offers, tau, number)[0].size
        self._waiting = self._waiting.with_more(offers)
        order, _ = self._take(self._waiting, tau, number)
        taken = self._waiting.some(order)
        self._withdraw(taken.cluster_id, taken.block)
        self._waiting = self._waiting.some(np.delete(np.arange(len(self._waiting.block)), order))
        return int(order.size)

    def finish(self, means: Array, tokens: Array, tau: float | None, number: int) -> None:
        """As `Acceptance.finish`: the best of the blocks that wait fill the budget."""
        self._take(self._waiting, -math.inf if tau is None else tau, number)

    def _take(self, offers: "_Offers", tau: float, number: int) -> tuple[Array, Array]:
        """Takes blocks that reach tau; as `take_blocks`."""
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
        self.is_full = self.left_tokens == 0
        return order, taken

    def _judged(self, table: PullTable) -> Array:
        """Mean influence of each pull, drawn towards what was known of its cluster before: float64 [pulls].

        Where only new documents are pulled, a block holds few and few of them are scored: by their mean alone the luckiest
        blocks would be accepted, not the best.
        """
        if self._prior is None:
            return table.means
        own = table.tokens_per_pull
        tokens = own + self._prior.tokens[table.cluster_id]
        weighted = table.means * own + self._prior.weighted[table.cluster_id]
        return np.asarray(weighted / np.maximum(tokens, 1))

    def expected_share(self, means: Array, tau: float) -> Array:
        """As `Acceptance.expected_share`: an arm is pulled in the hope that its mean reaches tau; then it gives all."""
        return np.ones(means.size)


class Instances(Acceptance):
    """Scores blocks whole and accepts just the examples that reach tau."""

    name = "instance"
    summary = "those of its documents that were scored well themselves"
    accepts = Accepts.EXAMPLES
    can_pull_repeatedly = True

    def __init__(
        self,
        blocks: Blocks,
        budget_tokens: int,
        cluster_cap_tokens: int,
        ties: Array,
        prior: ArmPrior | None = None,
    ) -> None:
        super().__init__(blocks, budget_tokens, cluster_cap_tokens, ties, prior)
        self._accepted = [AcceptedExamples.empty()]

    @classmethod
    def pulls(cls, samples_per_pull: int | None, blocks_per_cluster: int) -> Pulls:
        """As `Acceptance.pulls`; blocks are cut to the size of a pull."""
        return WholePulls(samples_per_pull)

    @classmethod
    def obtainable(cls, blocks: Blocks) -> Array:
        """As `Acceptance.obtainable`: what is not in the reserve cannot be scored, and is never accepted."""
        return blocks.candidate_tokens

    @property
    def examples(self) -> AcceptedExamples:
        """Examples that were accepted, in order."""
        return AcceptedExamples.joined(self._accepted)

    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """As `Acceptance.accept`."""
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
        self.room[full_clusters] = 0
        return int(np.unique(table.pull[order]).size)

    def expected_share(self, means: Array, tau: float) -> Array:
        """As `Acceptance.expected_share`."""
        return rules.expected_share(tau, means, self._residuals)


class Propagated(Acceptance):
    """Accepts the examples whose influence is known or predicted to be highest, once the rounds are over.

    Until then a pulled block counts with the share of its tokens that is expected to reach tau.
    """

    name = "propagate"
    summary = "the documents predicted to be best by its scored ones"
    accepts = Accepts.PREDICTIONS
    can_cap_clusters = False

    def __init__(
        self,
        blocks: Blocks,
        budget_tokens: int,
        cluster_cap_tokens: int,
        ties: Array,
        prior: ArmPrior | None = None,
    ) -> None:
        super().__init__(blocks, budget_tokens, cluster_cap_tokens, ties, prior)
        self._pulled = PulledBlocks.none(blocks.num_clusters)

    def count(self, table: PullTable, tokens: Array) -> None:
        """As `Acceptance.count`: what pulled blocks are expected to give is known apart from the supply."""
        self._withdraw(table.cluster_id, table.block)
        self._pulled = self._pulled.with_round(table, tokens)

    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """As `Acceptance.accept`: a pull gives something if one of its scored examples reaches tau."""
        self.expect(means, tau)
        promising = np.unique(table.pull[table.influence >= tau])
        np.add.at(self._accepted_blocks, table.cluster_id[promising], 1)
        return int(promising.size)

    def water_level(self, means: Array) -> float:
        """As `Acceptance.water_level`."""
        return self._pulled.water_level(self.budget_tokens, self.supply, means, self._residuals)

    def expect(self, means: Array, tau: float) -> None:
        """As `Acceptance.expect`: pulled blocks may fill the budget at a level that only exhausted arms reach."""
        self.left_tokens = self._pulled.missing(self.budget_tokens, tau, means, self._residuals)
        self.is_full = self.left_tokens == 0

    def expected_share(self, means: Array, tau: float) -> Array:
        """As `Acceptance.expected_share`."""
        return self._pulled.shares(tau, means, self._residuals)

    def by_cluster(self, means: Array, tau: float) -> tuple[Array, Array]:
        """As `Acceptance.by_cluster`: the tokens are those expected to reach tau."""
        yields = self._pulled.yields(tau, means, self._residuals)
        return self._accepted_blocks, np.floor(yields).astype(np.int64)


class WholeClusters(Acceptance):
    """Accepts clusters whole, in order of their posterior means, once the rounds are over.

    A pull of a large block says no more of it than of its cluster, which the arm knows better. So the rounds only refine
    what is known of clusters. When they are over, the best clusters fill the budget with all their blocks, pulled or not.
    The blocks that are pulled hold two budgets in all, the same number of tokens in every round.

    Arms are pulled in order of their upper bounds, as under every rule. In `tests.benchmarks.bandit` it is no better to pull
    those nearest to the water level first: with 2,000 clusters at a correlation of .05 that found .80 and .85 of the oracle's
    influence, and the order of bounds .79 and .90.
    """

    name = "cluster"
    summary = "its cluster, if that is among the best once the rounds are over"
    accepts = Accepts.BLOCKS

    def __init__(
        self,
        blocks: Blocks,
        budget_tokens: int,
        cluster_cap_tokens: int,
        ties: Array,
        prior: ArmPrior | None = None,
    ) -> None:
        super().__init__(blocks, budget_tokens, cluster_cap_tokens, ties, prior)
        self._tables: list[PullTable] = []
        self._pulled_tokens = 0
        self._components = VarianceComponents(math.nan, 0.0, 0.0)
        self._accepted: list[AcceptedBlock] = []

    @classmethod
    def reachable(cls, blocks: Blocks) -> Array:
        """As `Acceptance.reachable`: a cluster is taken with the blocks that cannot be pulled, too."""
        return blocks.per_cluster(blocks.tokens)

    @property
    def blocks(self) -> Sequence[AcceptedBlock]:
        """Blocks that were accepted, in order; none before the rounds are over."""
        return self._accepted

    @property
    def accepted_tokens(self) -> int:
        """As `Acceptance.accepted_tokens`; 0 before the rounds are over."""
        return int(self._accepted_tokens.sum())

    def learn_spread(self, table: PullTable, means: Array, known: Evidence | None = None) -> None:
        """As `Acceptance.learn_spread`: also learns how far clusters lie apart."""
        self._components = VarianceComponents.of(table) if known is None else known.components()

    def count(self, table: PullTable, tokens: Array) -> None:
        """As `Acceptance.count`: pulled blocks stay in the supply, as their clusters may be taken."""
        self._tables.append(table)

    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """As `Acceptance.accept`: a pull gives something if its cluster is expected to be taken."""
        # The pilot is no part of what the rounds pull.
        if number > 0:
            self._pulled_tokens += int(tokens.sum())
        self.left_tokens = max(
            self.budget_tokens - math.ceil(self._pulled_tokens / rules.ROUND_MARGIN), 0
        )
        self.is_full = self.left_tokens == 0
        return int(np.count_nonzero(self._posterior(means)[table.cluster_id] >= tau))

    def water_level(self, means: Array) -> float:
        """As `Acceptance.water_level`: where whole clusters fill the budget, pulled or not."""
        supply = np.minimum(self.supply, self.room)
        return rules.water_level(self._posterior(means), supply, self.budget_tokens)

    def finish(self, means: Array, tokens: Array, tau: float | None, number: int) -> None:
        """As `Acceptance.finish`: fills the budget; the last cluster is cut, and so is its block in which the budget ends."""
        posterior = self._posterior(means)
        per_cluster = self._blocks.per_cluster(tokens)
        order, taken = take_blocks(
            posterior, per_cluster, self.room, self._ties, -math.inf if tau is None else tau, self.budget_tokens,
            np.arange(posterior.size),
        )  # fmt: skip
        for cluster, give in zip(order.tolist(), taken.tolist(), strict=True):
            own = tokens[self._blocks.offsets[cluster] : self._blocks.offsets[cluster + 1]]
            takes = np.clip(give - (np.cumsum(own) - own), 0, own)
            self._accepted += [
                AcceptedBlock(
                    cluster, int(block), number, float(posterior[cluster]), int(own[block]), int(takes[block])
                )
                for block in np.flatnonzero(takes)
            ]  # fmt: skip
            self._accepted_blocks[cluster] = np.count_nonzero(takes)
        self._spend(order, taken)
        self.left_tokens = self.budget_tokens - self.accepted_tokens

    def expected_share(self, means: Array, tau: float) -> Array:
        """As `Acceptance.expected_share`: a pull counts with its whole block, whatever it finds."""
        return np.ones(means.size)

    def _posterior(self, means: Array) -> Array:
        errors = relative_errors(self._tables, means.size, self._prior)
        return self._components.posterior_means(means, errors)


ACCEPTANCES: dict[str, type[Acceptance]] = {
    rule.name: rule for rule in (WholeBlocks, Instances, Propagated, WholeClusters)
}


@dataclasses.dataclass(frozen=True, eq=False)
class _Offers:
    """Blocks that could be accepted.

    Attributes:
      cluster_id: int64 [n].
      block: int64 [n].
      influence: That by which they are judged, float64 [n].
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


def take_blocks(
    influence: Array,
    tokens: Array,
    room: Array,
    ties: Array,
    tau: float,
    left_tokens: int,
    cluster_id: Array,
) -> tuple[Array, Array]:
    """Takes blocks.

    Args:
      influence: Mean influence of each block's scored examples, float64 [n]; nan is not accepted.
      tokens: Tokens of each block, int64 [n].
      room: What each block's cluster may still give, int64 [n].
      ties: Decides between equals, uint64 [n].
      tau: The least influence that is accepted.
      left_tokens: What is left of the budget.
      cluster_id: Cluster of each block, int64 [n].

    Returns:
      Positions of the blocks taken, in that order, and how many tokens of each are taken, both int64 [taken]. The last
      may be cut by the budget, any by its cluster's room.
    """
    order = rules.ranking(influence, ties)
    order = order[influence[order] >= tau]
    of_cluster = _running_sum(tokens[order], cluster_id[order]) - tokens[order]
    offered = np.clip(room[order] - of_cluster, 0, tokens[order])
    before = np.cumsum(offered) - offered
    taken = np.clip(left_tokens - before, 0, offered)
    return order[taken > 0], taken[taken > 0]


def take_examples(
    influence: Array,
    tokens: Array,
    cluster_id: Array,
    keys: Array,
    room: Array,
    tau: float,
    left_tokens: int,
) -> tuple[Array, Array, bool]:
    """Takes examples, whole.

    Args:
      influence: Influence of each example, float64 [n].
      tokens: Its tokens, int64 [n].
      cluster_id: Its cluster, int64 [n].
      keys: Its key, which decides between equals, uint64 [n].
      room: What each cluster may still give, int64 [num_clusters].
      tau: The least influence that is accepted.
      left_tokens: What is left of the budget.

    Returns:
      Positions of the examples taken, in that order, int64 [taken]; the clusters that are full, because their next
      example no longer fits, int64; and whether the budget is full in the same sense.
    """
    order = rules.ranking(influence, keys)
    order = order[influence[order] >= tau]
    fits = _running_sum(tokens[order], cluster_id[order]) <= room[cluster_id[order]]
    full_clusters = np.unique(cluster_id[order[~fits]])
    order = order[fits]
    count = int(np.searchsorted(np.cumsum(tokens[order]), left_tokens, side="right"))
    is_full = count < order.size or int(tokens[order].sum()) == left_tokens
    return order[:count], full_clusters, is_full


def _running_sum(values: Array, groups: Array) -> Array:
    """Sums values up to and including each position, within its group."""
    order = np.argsort(groups, kind="stable")
    sums = np.cumsum(values[order])
    starts = run_starts(groups[order])
    before = np.concatenate([[0], sums])[starts]
    running = np.empty_like(sums)
    running[order] = sums - np.repeat(before, run_lengths(starts, values.size))
    return running
