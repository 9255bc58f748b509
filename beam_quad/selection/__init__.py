"""What is selected: rankings, where a budget ends in them, and the rows that are kept and why. NumPy only."""

from beam_quad.selection.accounts import Amount, RowCounts, SourceCounts, count_rows, source_of
from beam_quad.selection.allocation import (
    Contenders,
    RoundRobin,
    allocate,
    num_contenders,
    tie_draws,
)
from beam_quad.selection.budget import MAX_DRAW, CutExamples, cut_blocks
from beam_quad.selection.caps import by_cluster, cap_clusters, heavy_clusters, within_caps
from beam_quad.selection.changes import (
    SHARD_CHANGED,
    SHARD_GONE,
    Changes,
    all_left,
    changes_of,
)
from beam_quad.selection.held import held_first
from beam_quad.selection.joint_ranks import JointRanks, RankCounts
from beam_quad.selection.kept import (
    Kept,
    Taken,
    keep_accepted,
    keep_for_targets,
    keep_predicted,
    keep_ranked,
    known_influence,
    or_estimate,
)
from beam_quad.selection.means import cluster_weighted_mean, weighted_mean
from beam_quad.selection.parts import part_runs
from beam_quad.selection.ranking import (
    NUM_LEVELS,
    BucketAmounts,
    BudgetSearch,
    amounts_of,
    cut_draws,
    even_ranks,
    is_reached,
    nearest_ranks,
    pack_ranks,
    priorities,
    random_ranks,
    rank_usable,
    ranks_from,
    search_budget,
)

__all__ = [
    "MAX_DRAW",
    "NUM_LEVELS",
    "SHARD_CHANGED",
    "SHARD_GONE",
    "Amount",
    "BucketAmounts",
    "BudgetSearch",
    "Changes",
    "Contenders",
    "CutExamples",
    "JointRanks",
    "Kept",
    "RankCounts",
    "RoundRobin",
    "RowCounts",
    "SourceCounts",
    "Taken",
    "all_left",
    "allocate",
    "amounts_of",
    "by_cluster",
    "cap_clusters",
    "changes_of",
    "cluster_weighted_mean",
    "count_rows",
    "cut_blocks",
    "cut_draws",
    "even_ranks",
    "heavy_clusters",
    "held_first",
    "is_reached",
    "keep_accepted",
    "keep_for_targets",
    "keep_predicted",
    "keep_ranked",
    "known_influence",
    "nearest_ranks",
    "num_contenders",
    "or_estimate",
    "pack_ranks",
    "part_runs",
    "priorities",
    "random_ranks",
    "rank_usable",
    "ranks_from",
    "search_budget",
    "source_of",
    "tie_draws",
    "weighted_mean",
    "within_caps",
]
