"""The Quad bandit: a policy, and its replay from the scores of all rounds so far."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad.bandit import rules
from beam_quad.bandit.acceptance import ACCEPTANCES, Acceptance, WholeBlocks
from beam_quad.bandit.arms import ArmSums, PullTable, RoundScores
from beam_quad.bandit.blocks import Blocks
from beam_quad.bandit.evidence import Evidence, Prior
from beam_quad.bandit.state import ArmTable, BanditState, RoundRecord, StopReason
from beam_quad.errors import IntegrityError

Array = np.ndarray[Any, np.dtype[Any]]

MAX_ROUNDS = 50


@dataclasses.dataclass(frozen=True)
class QuadPolicy:
    """Quad's bandit over clusters: UCB on mean influence, a threshold, and a token budget.

    Round 0, the pilot, pulls every arm once; it is not counted in `num_rounds`.

    Args:
      budget_tokens: Tokens to select; with 0 nothing is pulled.
      samples_per_pull: Examples that a pull scores; sets the unit of `alpha`.
      num_rounds: Rounds after the pilot, at most 50.
      arms_per_round: Fixed number of arms in each round after the pilot; None pulls as many as the budget needs.
      alpha: Weight of the confidence term, in units of the error of one pull: the standard deviation of influence
        within clusters, pooled over the pilot, divided by sqrt(samples_per_pull). 0 is greedy.
      tau: Fixed threshold, in units of influence; None uses the water level before every round.
      acceptance: Name of the acceptance rule, one of `ACCEPTANCES`.
      max_share_per_cluster: Maximum share of the budget selected from one cluster, in (0, 1].
      seed: Seed of the tie breakers.

    References:
      Zhang et al., Harnessing Diversity for Important Data Selection in Pretraining Large Language Models, ICLR 2025
      (arms, upper bound, threshold). The water level and the sizes of rounds are ours.
    """

    budget_tokens: int
    samples_per_pull: int
    num_rounds: int = 16
    arms_per_round: int | None = None
    alpha: float = 0.5
    tau: float | None = None
    acceptance: str = WholeBlocks.name
    max_share_per_cluster: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget_tokens < 0:
            raise ValueError(
                f"budget_tokens must not be negative, got {self.budget_tokens}; it is how much to select"
            )
        if self.samples_per_pull < 1:
            raise ValueError(
                f"samples_per_pull must be at least 1, got {self.samples_per_pull}; 4 to 10 serve well"
            )
        if not 1 <= self.num_rounds <= MAX_ROUNDS:
            raise ValueError(
                f"num_rounds must lie between 1 and {MAX_ROUNDS}, got {self.num_rounds}; "
                "more would not fit one job's graph"
            )
        if self.arms_per_round is not None and self.arms_per_round < 1:
            raise ValueError(
                f"arms_per_round must be at least 1, got {self.arms_per_round}; "
                "leave it out to pull as many as the budget asks for"
            )
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be finite and >= 0, got {self.alpha}; 0 is greedy")
        if self.tau is not None and not math.isfinite(self.tau):
            raise ValueError(
                f"tau must be finite, got {self.tau}; leave it out for the water level"
            )
        if self.acceptance not in ACCEPTANCES:
            raise ValueError(
                f"acceptance must be one of {tuple(ACCEPTANCES)}, got {self.acceptance!r}"
            )
        if not 0 < self.max_share_per_cluster <= 1:
            raise ValueError(
                f"max_share_per_cluster must lie in (0, 1], got {self.max_share_per_cluster}; "
                "1 lets a single cluster fill the budget"
            )
        self.rule.check(self.max_share_per_cluster)

    @property
    def rule(self) -> type[Acceptance]:
        """The acceptance rule."""
        return ACCEPTANCES[self.acceptance]

    @property
    def cluster_cap_tokens(self) -> int:
        """Maximum number of tokens selected from one cluster, at least 1."""
        return max(math.floor(self.max_share_per_cluster * self.budget_tokens), 1)


def replay(
    policy: QuadPolicy, blocks: Blocks, rounds: Sequence[RoundScores], prior: Prior | None = None
) -> BanditState:
    """Replays the scored rounds and decides the next pulls.

    The scores are the only state carried between rounds, so any worker can compute the bandit's state at any time. The state
    does not depend on the order of the pulls in a round or of the examples in a pull.

    Args:
      policy: What to select, and how.
      blocks: Contents of the corpus's blocks.
      rounds: The scores of rounds 0, 1, ..., each with one entry for every pull that the preceding state requests. Empty
        rounds after the bandit has stopped are allowed and change nothing.
      prior: Earlier scores of the same clusters. With a prior, the pilot pulls a number of arms in proportion to the new
        documents, and the prior stands for the others.

    Raises:
      IntegrityError: If the scores of a round do not belong to the policy's pulls.
      ValueError: If an influence is infinite or an example has no tokens.
    """
    game = _Game(policy, blocks, prior)
    for scores in rounds:
        game.leave_out_unscorable(scores)
        game.play(PullTable.of(scores))
    return game.state()


class _Game:
    """The bandit between two rounds; `pulls` holds the next round's positions in the row of blocks."""

    def __init__(self, policy: QuadPolicy, blocks: Blocks, prior: Prior | None) -> None:
        self.policy = policy
        self.blocks = blocks
        self.tokens = blocks.tokens.copy()
        self.ties = rules.tie_breakers(policy.seed, blocks.num_clusters)
        self.prior = prior
        arms = None
        if prior is not None:
            arms = prior.arms(blocks.num_clusters, policy.samples_per_pull)
        self.arms = ArmSums(blocks.num_clusters, arms)
        self.num_pulled = np.zeros(blocks.num_clusters, dtype=np.int64)
        self.rule = policy.rule(
            blocks, policy.budget_tokens, policy.cluster_cap_tokens, self.ties, arms
        )
        self.deviation = 0.0
        self.tau = math.nan if policy.tau is None else policy.tau
        self.scored = 0
        self.log: list[RoundRecord] = []
        self.round = 0
        # The pilot's pulls are decided before any score is known.
        self.pulls = blocks.pullable[self._next()[self._pilot()]]
        self.stop_reason: StopReason | None = None if self.pulls.size else "no_arm_above_tau"
        if policy.budget_tokens == 0:
            self.pulls, self.stop_reason = self.pulls[:0], "budget_met"

    def leave_out_unscorable(self, scores: RoundScores) -> None:
        """Subtracts the tokens of unscorable examples from their blocks, because such examples are never selected."""
        for pull in scores:
            lost = int(pull.tokens[np.isnan(pull.influence)].sum())
            # `_check` raises an error for a block out of range.
            if lost and pull.block < self.blocks.num_blocks[pull.cluster_id]:
                self.tokens[self.blocks.offsets[pull.cluster_id] + pull.block] -= lost

    def play(self, table: PullTable) -> None:
        self._check(table)
        # A job's graph has a fixed number of rounds; those after the bandit stopped are empty.
        if self.stop_reason is not None:
            return
        self.arms.add(table)
        tokens = self.tokens[self.blocks.offsets[table.cluster_id] + table.block]
        if self.round == 0:
            # With a prior the pilot pulls only some arms, so the spread is pooled with that of earlier pilots.
            known = None
            if self.prior is not None:
                known = self.prior.evidence + Evidence.of_pilot(table)
            self.deviation = known.deviation if known else table.pooled_deviation()
            self.rule.learn_spread(table, self.arms.means, known)
        self.rule.count(table, tokens)
        if self.round == 0:
            # No score precedes the pilot, so it sets its own threshold; later ones are set when pulls are chosen.
            self.tau = self._threshold()
        # An arm may be pulled several times in a round, which `num_pulled[cluster_id] += 1` would count once.
        np.add.at(self.num_pulled, table.cluster_id, 1)
        accepted = self.rule.accept(table, tokens, self.arms.means, self.tau, self.round)
        self._stop_if_full()
        self._record(table, accepted)
        self.round += 1
        self._choose()
        if self.stop_reason is not None:
            self.rule.finish(self.arms.means, self.tokens, self.policy.tau, self.round - 1)

    def state(self) -> BanditState:
        unreachable = self.blocks.is_unreachable
        pulled_nothing = self.round == 0 and self.policy.tau is None
        return BanditState(
            round=self.round,
            tau=None if pulled_nothing else self.tau,
            pulls=_pairs(self.blocks.cluster_id[self.pulls], self.blocks.block[self.pulls]),
            stop_reason=self.stop_reason,
            accepted=tuple(self.rule.blocks),
            accepted_examples=self.rule.examples,
            accepted_tokens=self.rule.accepted_tokens,
            deviation=self.deviation,
            log=tuple(self.log),
            arms=self._arm_table(),
            unreachable_blocks=int(np.count_nonzero(unreachable)),
            unreachable_tokens=int(self.blocks.tokens[unreachable].sum()),
        )

    def _check(self, table: PullTable) -> None:
        # Positions in the row of blocks sort like the pulls of the table, by cluster and block.
        expected = np.sort(self.pulls)
        is_same = np.array_equal(table.cluster_id, self.blocks.cluster_id[expected])
        if not (is_same and np.array_equal(table.block, self.blocks.block[expected])):
            raise IntegrityError(
                f"round {self.round} has scores of {table.num_pulls} pulls, which are not the {expected.size} that the "
                "policy makes; were they scored under another policy, or for other blocks?"
            )

    def _next(self) -> Array:
        """Position of each arm's next block in `blocks.pullable`; past the arm's blocks if none is left."""
        return self.blocks.pullable_starts[:-1] + self.num_pulled

    def _has_next(self) -> Array:
        return np.asarray(self._next() < self.blocks.pullable_starts[1:])

    def _pilot(self) -> Array:
        """Arms of the pilot, ascending: every arm that can be pulled or, with a prior, those with the most new documents."""
        if self.prior is None:
            return np.flatnonzero(self._has_next())
        examples = self.blocks.per_cluster(self.blocks.examples)
        return self.prior.pilot(examples, self._has_next(), self.ties)

    def _threshold(self) -> float:
        """Returns the fixed threshold, or the water level of what can still be accepted."""
        if self.policy.tau is not None:
            return self.policy.tau
        return self.rule.water_level(self.arms.means)

    def _stop_if_full(self) -> None:
        if self.rule.is_full:
            self.stop_reason = "budget_met"

    def _record(self, table: PullTable, num_accepted: int) -> None:
        self.scored += int(table.keys.size)
        self.log.append(
            RoundRecord(
                round=self.round,
                tau=self.tau,
                num_pulls=table.num_pulls,
                num_accepted=num_accepted,
                accepted_tokens=self.rule.accepted_tokens,
                mean_influence=table.mean(),
                scored_examples=self.scored,
            )
        )

    def _choose(self) -> None:
        """Chooses the next round's pulls, or sets the reason to stop."""
        self.pulls = self.pulls[:0]
        if self.stop_reason is not None:
            return
        tau = self._threshold()
        bounds = self._upper_bounds()
        order = rules.ranking(bounds, self.ties)
        # An arm whose upper bound is below tau would be rejected even if its mean were as high as the bound.
        can_give = self._has_next() & (self.rule.room > 0) & (bounds >= tau)
        order = order[can_give[order]]
        # Tested before the number of rounds: if no arm is left, the message must not advise more rounds.
        if order.size == 0:
            self.stop_reason = "no_arm_above_tau"
        elif self.round > self.policy.num_rounds:
            self.stop_reason = "rounds_exhausted"
        else:
            self.tau = tau
            # At a lower threshold the blocks already pulled may be expected to fill the budget.
            self.rule.expect(self.arms.means, tau)
            self._stop_if_full()
            if self.stop_reason is None:
                self.pulls = self._pulls_of(order)

    def _pulls_of(self, order: Array) -> Array:
        """Takes blocks of arms, given in order of score, until they fill the round's share of the budget."""
        if self.policy.arms_per_round is not None:
            return self.blocks.pullable[self._next()[order[: self.policy.arms_per_round]]]
        rounds_left = self.policy.num_rounds - self.round + 1
        wanted = rules.ROUND_MARGIN * self.rule.left_tokens / rounds_left
        places, gives = rules.blocks_in_order(
            first=self._next()[order],
            end=self.blocks.pullable_starts[1:][order],
            worth=self.rule.worth[self.blocks.pullable],
            share=self.rule.expected_share(self.arms.means, self.tau)[order],
            room=self.rule.room[order],
            # With 0, no arm is listed twice in a round.
            wanted_tokens=wanted if self.rule.can_pull_repeatedly else 0.0,
        )
        count = rules.first_until(gives, wanted, self._least_arms())
        return self.blocks.pullable[places[:count]]

    def _least_arms(self) -> int:
        if self.prior is None:
            return rules.MIN_ARMS_PER_ROUND
        # In proportion to the new documents, like the pilot.
        return max(1, int(self.prior.share * rules.MIN_ARMS_PER_ROUND))

    def _upper_bounds(self) -> Array:
        # `alpha` is in units of the standard error of one pull, so it has the same meaning for every scorer.
        pull_error = self.deviation / math.sqrt(self.policy.samples_per_pull)
        return rules.upper_bounds(
            self.arms.means, self.arms.weights, self.policy.alpha * pull_error
        )

    def _arm_table(self) -> ArmTable:
        num_accepted, tokens = self.rule.by_cluster(self.arms.means, self.tau)
        return ArmTable(
            cluster_id=np.arange(self.blocks.num_clusters),
            pulls=self.arms.pulls,
            mean_influence=self.arms.means,
            upper_bound=self._upper_bounds(),
            accepted_blocks=num_accepted,
            accepted_tokens=tokens,
            tokens=self.blocks.per_cluster(self.blocks.tokens),
        )


def _pairs(cluster_id: Array, block: Array) -> tuple[tuple[int, int], ...]:
    return tuple(zip(cluster_id.tolist(), block.tolist(), strict=True))
