"""How many texts to set aside when the corpus is read, so that it is not read again for them."""

import math

from beam_quad.bandit import ACCEPTANCES
from beam_quad.clustering import default_num_clusters
from beam_quad.corpus.splits import InputPlan
from pipelines.options import QuadOptions
from pipelines.run_options import BLOCKS_PER_CLUSTER, SAMPLES_PER_PULL


def share_set_aside(options: QuadOptions, plan: InputPlan) -> float:
    """Returns the share of texts to set aside; 1 if pulls score whole blocks."""
    if options.acceptance not in ACCEPTANCES:
        return reserve_rate(plan, options.reserve_examples)
    rule = ACCEPTANCES[options.acceptance]
    if rule.pulls(options.samples_per_pull, options.blocks_per_cluster).is_census:
        return 1.0
    clusters = options.num_clusters or default_num_clusters(max(1, plan.num_rows))
    samples = options.samples_per_pull or SAMPLES_PER_PULL
    wanted = num_candidates(clusters, options.blocks_per_cluster, samples)
    return reserve_rate(plan, options.reserve_examples, wanted)


def num_candidates(num_clusters: int, blocks_per_cluster: int, samples_per_pull: int) -> int:
    """Computes the number of texts to set aside for Quad.

    Eight for each text a pull may score: blocks under other budgets and options then have enough, too.
    """
    return 8 * num_clusters * blocks_per_cluster * samples_per_pull


def reserve_rate(plan: InputPlan, *wanted: int) -> float:
    """Computes the share of texts to set aside: all of a small corpus, a power of 1/2 of a large one.

    Every pipeline sets aside at least Quad's default. If a pipeline needs fewer texts, this costs up to some tens of GB, but
    pipelines then share the artifacts made from the texts, above all the curvature, and need no second reading of the corpus.

    Args:
      plan: The corpus.
      wanted: Requested numbers of texts; the largest counts.
    """
    num_clusters = default_num_clusters(max(1, plan.num_rows))
    most = max(*wanted, num_candidates(num_clusters, BLOCKS_PER_CLUSTER, SAMPLES_PER_PULL))
    share = min(1.0, most / max(1, plan.num_rows))
    return float(2.0 ** math.ceil(math.log2(share)))
