"""The message to a user whose budget was not met."""

import numpy as np

from beam_quad.bandit.acceptance import Accepts, WholeBlocks
from beam_quad.bandit.blocks import Blocks
from beam_quad.bandit.policy import MAX_ROUNDS, QuadPolicy
from beam_quad.bandit.state import BanditState


def meets_budget(policy: QuadPolicy, state: BanditState) -> bool:
    """Tells whether a bandit accepted its budget, to less than an example if it accepts them one by one."""
    return state.stop_reason == "budget_met" or state.accepted_tokens >= policy.budget_tokens


def shortfall_message(
    policy: QuadPolicy, blocks: Blocks, state: BanditState, filled_tokens: int | None = None
) -> str | None:
    """Explains in one line how many tokens are missing, why, and which option helps.

    Args:
      policy: The policy.
      blocks: The blocks.
      state: The bandit at the end.
      filled_tokens: Tokens of the budget that a ranking made after the rounds fills; None without one.

    Returns:
      The line; None while the bandit still runs or if the budget was met.
    """
    if filled_tokens is None and meets_budget(policy, state):
        return None
    missing = policy.budget_tokens - (
        state.accepted_tokens if filled_tokens is None else filled_tokens
    )
    if state.stop_reason is None or missing <= 0:
        return None
    return (
        f"{missing:,} of {policy.budget_tokens:,} tokens are missing ({missing / policy.budget_tokens:.1%}): "
        + _reason_and_remedy(policy, blocks, state)
    )


def _reason_and_remedy(policy: QuadPolicy, blocks: Blocks, state: BanditState) -> str:
    # Causes that no option of the rounds can change come first: too few tokens, then the cap on clusters.
    per_cluster = policy.rule.reachable(blocks)
    in_reach, cap = int(per_cluster.sum()), policy.cluster_cap_tokens
    if in_reach < policy.budget_tokens:
        return (
            f"the blocks that can be scored hold only {in_reach:,} tokens, and blocks without a candidate "
            f"{state.unreachable_tokens:,}; give a larger corpus or lower --budget_tokens"
        )
    if int(np.minimum(per_cluster, cap).sum()) < policy.budget_tokens:
        return (
            f"no cluster may give more than {cap:,} tokens (--max_share_per_cluster {policy.max_share_per_cluster:g}); "
            "raise --max_share_per_cluster"
        )
    if state.stop_reason == "rounds_exhausted":
        return _out_of_rounds(policy)
    if state.stop_reason == "budget_met":
        if policy.tau is not None and policy.rule.accepts is Accepts.PREDICTIONS:
            return (
                f"fewer examples are predicted to reach --tau {policy.tau:g} than the scores of their clusters promised; "
                "lower --tau, or leave it out for a threshold that follows the budget"
            )
        if policy.rule.accepts is Accepts.EXAMPLES:
            return _out_of_scored(policy)
        return (
            "without near-duplicates, and within shares, the documents do not fill it; give a larger corpus, lower "
            + ("--budget_tokens" if policy.tau is None else "--budget_tokens or --tau")
            + ", or pass --near_duplicates=keep"
        )
    if policy.tau is not None:
        return (
            f"no cluster with blocks left can be expected to reach --tau {policy.tau:g}; "
            "lower --tau, or leave it out for a threshold that follows the budget"
        )
    return (
        "every block that could have been accepted was pulled, and those that fell short were left; "
        "give a larger corpus or lower --budget_tokens"
        + (", or raise --max_share_per_cluster" if policy.max_share_per_cluster < 1 else "")
    )


def _out_of_scored(policy: QuadPolicy) -> str:
    return (
        f"near-duplicates were left out, and --acceptance={policy.acceptance} takes only documents that it scored, of which "
        f"no more are left; pass --acceptance={WholeBlocks.name}, which takes others too, or --near_duplicates=keep"
        + (", or lower --tau" if policy.tau is not None else "")
        + (", or raise --max_share_per_cluster" if policy.max_share_per_cluster < 1 else "")
    )


def _out_of_rounds(policy: QuadPolicy) -> str:
    if policy.arms_per_round is not None:
        return (
            f"{policy.num_rounds} rounds of {policy.arms_per_round} arms were too few; "
            "raise --num_rounds or --arms_per_round, or leave the latter out"
        )
    if policy.num_rounds < MAX_ROUNDS:
        remedy = f"raise --num_rounds (at most {MAX_ROUNDS})"
        return f"{policy.num_rounds} rounds were too few; {remedy}" + (
            ", or lower --tau" if policy.tau is not None else ""
        )
    return f"{policy.num_rounds} rounds, the most there can be, were too few; " + (
        "lower --tau" if policy.tau is not None else "raise --num_clusters or lower --budget_tokens"
    )
