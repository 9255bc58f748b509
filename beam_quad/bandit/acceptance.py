"""Acceptance rules: what a round's pulls contribute to the selection.

Every rule accepts in order of influence, down to the threshold tau, within the token budget and the share of each cluster.
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
      can_cap_clusters: Whether a cluster's share of the budget can be limited.
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
        self.begin()

    def begin(self) -> None:  # noqa: B027 (a rule may keep nothing)
        """Sets what the rule itself keeps from round to round, at the start."""

    @classmethod
    def pulls(cls, samples_per_pull: int | None, blocks_per_cluster: int) -> Pulls:
        """Chooses how pulls are sized; `samples_per_pull` is None for a default derived from the corpus size."""
        return SampledPulls(samples_per_pull, blocks_per_cluster)

    @classmethod
    def check(cls, max_share_per_cluster: float) -> None:
        """Raises ValueError if the rule does not support the options."""
        if max_share_per_cluster < 1 and not cls.can_cap_clusters:
            raise ValueError(
                f"max_share_per_cluster must be 1 with acceptance {cls.name!r}, got {max_share_per_cluster}: its "
                f"budget is cut over all clusters at once; use acceptance {WholeBlocks.name!r} to cap what one cluster "
                "gives"
            )

    @classmethod
    def obtainable(cls, blocks: Blocks) -> Array:
        """Counts the tokens obtainable from each block, int64 [total]."""
        return blocks.tokens

    @classmethod
    def reachable(cls, blocks: Blocks) -> Array:
        """Sums the obtainable tokens of each cluster's pullable blocks, int64 [num_clusters]."""
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
            return self._take(offers, tau, number)[0].size
        # A waiting block can still be accepted, so only accepted blocks leave the supply.
        self._waiting = self._waiting.with_more(offers)
        order, _ = self._take(self._waiting, tau, number)
        taken = self._waiting.some(order)
        self._withdraw(taken.cluster_id, taken.block)
        self._waiting = self._waiting.some(np.delete(np.arange(len(self._waiting.block)), order))
        return int(order.size)

    def finish(self, means: Array, tokens: Array, tau: float | None, number: int) -> None:
        """As `Acceptance.finish`: fills the budget with the best waiting blocks."""
        self._take(self._waiting, -math.inf if tau is None else tau, number)

    def _take(self, offers: "_Offers", tau: float, number: int) -> tuple[Array, Array]:
        """Accepts the blocks that reach tau and records them; returns as `take_blocks`."""
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


class Propagated(Acceptance):
    """Accepts the examples with the highest known or predicted influence after the rounds.

    During the rounds, a pulled block counts with the share of its tokens expected to reach tau.
    """

    name = "propagate"
    summary = "the documents predicted to be best by its scored ones"
    accepts = Accepts.PREDICTIONS
    can_cap_clusters = False

    def begin(self) -> None:
        """As `Acceptance.begin`."""
        self._pulled = PulledBlocks.none(self._blocks.num_clusters)

    def count(self, table: PullTable, tokens: Array) -> None:
        """As `Acceptance.count`: moves the blocks from the supply to the pulled blocks, which have their own estimate."""
        self._withdraw(table.cluster_id, table.block)
        self._pulled = self._pulled.with_round(table, tokens)

    def accept(self, table: PullTable, tokens: Array, means: Array, tau: float, number: int) -> int:
        """As `Acceptance.accept`: counts a pull if one of its scored examples reaches tau."""
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
        self.left_tokens = self.budget_tokens - self.accepted_tokens

    def expected_share(self, means: Array, tau: float) -> Array:
        """As `Acceptance.expected_share`: 1, because a pull counts with its whole block whatever its scores."""
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


def take_blocks(
    influence: Array,
    tokens: Array,
    room: Array,
    ties: Array,
    tau: float,
    left_tokens: int,
    cluster_id: Array,
) -> tuple[Array, Array]:
    """Takes the blocks that reach tau, highest influence first, until the budget is full.

    Args:
      influence: Mean influence of each block's scored examples, float64 [n]; nan is not accepted.
      tokens: Tokens of each block, int64 [n].
      room: Tokens that each block's cluster may still give, int64 [n].
      ties: Tie breaker of each block, uint64 [n].
      tau: Lowest influence accepted.
      left_tokens: Tokens left in the budget.
      cluster_id: Cluster of each block, int64 [n].

    Returns:
      Positions of the taken blocks in order, and the tokens taken from each, both int64 [taken]. The budget may cut the last
      block, and the room of its cluster may cut any block.
    """
    order = rules.ranking(influence, ties)
    order = order[influence[order] >= tau]
    # Better blocks of the same cluster use up its room first, and better blocks of any cluster the budget.
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
    """Takes the examples that reach tau, highest influence first, without cutting one.

    Args:
      influence: Influence of each example, float64 [n].
      tokens: Tokens of each example, int64 [n].
      cluster_id: Cluster of each example, int64 [n].
      keys: Key of each example, which breaks ties, uint64 [n].
      room: Tokens that each cluster may still give, int64 [num_clusters].
      tau: Lowest influence accepted.
      left_tokens: Tokens left in the budget.

    Returns:
      Positions of the taken examples in order, int64 [taken]; the clusters whose next example did not fit, int64; and
      whether the budget is full, exactly or because the next example did not fit.
    """
    order = rules.ranking(influence, keys)
    order = order[influence[order] >= tau]
    # The sum includes examples that do not fit: a smaller example is not taken ahead of a better one that was left out.
    fits = _running_sum(tokens[order], cluster_id[order]) <= room[cluster_id[order]]
    full_clusters = np.unique(cluster_id[order[~fits]])
    order = order[fits]
    count = int(np.searchsorted(np.cumsum(tokens[order]), left_tokens, side="right"))
    is_full = count < order.size or int(tokens[order].sum()) == left_tokens
    return order[:count], full_clusters, is_full


def _running_sum(values: Array, groups: Array) -> Array:
    """Computes the cumulative sum of values within each group."""
    order = np.argsort(groups, kind="stable")
    sums = np.cumsum(values[order])
    starts = run_starts(groups[order])
    before = np.concatenate([[0], sums])[starts]
    running = np.empty_like(sums)
    running[order] = sums - np.repeat(before, run_lengths(starts, values.size))
    return running
