"""What a Quad run takes; see `cost`, which it adds this to.

k-means, assignment       2 D              per example and center, D the dimension of an embedding
"""

import dataclasses
import math

from beam_quad.bandit import num_drawn
from beam_quad.bandit.rules import ROUND_MARGIN
from beam_quad.plan import cost, rates
from beam_quad.plan.cost import CostPlan, Machines, StageWork, Workload
from beam_quad.report.formatting import compact, size

_KMEANS_POINTS_PER_CLUSTER = 256
_KMEANS_PASSES = 10
_ROW_ARTIFACT_BYTES = 24  # cluster, similarity, block and tokens of one example, before compression
# Stages that pass over the rows; rules of acceptance have some of them.
_PASSES = (
    "CountBlocks", "CountPassedOver", "GatherEvidence", "CutBlocks", "FitWithinClusters", "PredictWithinClusters",
    "CutRanking*",
)  # fmt: skip
_SCORE_BYTES = 128  # id, score and tokens of a scored example, in the file of its pulls and in that of its round


@dataclasses.dataclass(frozen=True)
class ClusteredWorkload(Workload):
    """What the plan of a run with clusters is computed from.

    Attributes:
      num_clusters: Clusters.
      normalize: Whether scores are divided by the gradient's norm.
    """

    num_clusters: int
    normalize: bool

    def exact_flops(self, num_vectors: int) -> float:
        """FLOPs of the exact scores of one token under so many vectors."""
        return self.scoring.exact_flops(self.window_tokens, num_vectors, self.normalize)


@dataclasses.dataclass(frozen=True)
class QuadWorkload(ClusteredWorkload):
    """What the plan of a run with a bandit is computed from.

    Attributes:
      num_rounds: Rounds after the pilot.
      samples_per_pull: Examples scored in a pull.
      blocks_per_cluster: Blocks of a cluster.
    """

    num_rounds: int
    samples_per_pull: int
    blocks_per_cluster: int

    @property
    def pulls(self) -> int:
        """Expected pulls after the pilot: blocks worth twice the budget, at least 8 a round."""
        blocks = self.num_clusters * self.blocks_per_cluster
        wanted = math.ceil(ROUND_MARGIN * self.budget.amount / max(self.tokens, 1) * blocks)
        return min(max(wanted, 8 * self.num_rounds), blocks - self.num_clusters)


def plan_cost(workload: QuadWorkload, machines: Machines) -> CostPlan:
    """Estimates a Quad run, stage by stage.

    Args:
      workload: Counts and sizes.
      machines: What does the work. The encoder runs in float32 on a CPU, and the curvature is summed in it
        everywhere, whatever the proxy's dtype is.
    """
    w = workload
    pilot, later = w.num_clusters * w.samples_per_pull, w.pulls * w.samples_per_pull
    works = (
        cost.embed_stage(w),
        fit_centers_stage(w),
        assign_stage(w),
        _candidates(w),
        cost.curvature_stage(w),
        score_stage("pilot", "Pilot", pilot, w.exact_flops(w.num_query_vectors), w),
        _halves(w, min(pilot, 64)),
        _rounds(w, later),
        _passes(w),
        cost.write_stage(w),
    )
    choices = f"{w.num_clusters:,} clusters, {w.num_rounds} rounds"
    notes = (cost.corpus_note(w, choices), proxy_note(w))
    return CostPlan.of(works, w.documents, w.splits, machines, cost.float32_work(w), notes)


def _passes(w: QuadWorkload) -> StageWork:
    """Prices what counts the rows' blocks and cuts them, of which the first alone reads files of every split."""
    passes = cost.passes_stage("count, cut", _PASSES, 4, w.documents, w.splits)
    return dataclasses.replace(passes, requests=rates.requests(w.splits, "CountBlocks"))


def fit_centers_stage(w: ClusteredWorkload) -> StageWork:
    """Prices k-means on a sample of the embeddings."""
    points = min(w.documents, _KMEANS_POINTS_PER_CLUSTER * w.num_clusters)
    return StageWork(
        "fit centers",
        ("FitCenters",),
        points,
        requests=rates.requests(w.splits, "FitCenters"),
        # In one process.
        flops_per_core_s=rates.KMEANS_FLOPS_PER_S,
        alone_flops=2.0 * _KMEANS_PASSES * points * w.num_clusters * w.embedding_dim,
        core_s=w.documents * rates.PASS_ROW_S + points * rates.FIT_POINT_S,
        memory_bytes=4.0 * points * w.embedding_dim,
        bytes_stored=2.0 * points * w.embedding_dim + 4.0 * w.num_clusters * w.embedding_dim,
    )


def assign_stage(w: ClusteredWorkload) -> StageWork:
    """Prices the cluster of every example."""
    return StageWork(
        "assign",
        ("AssignClusters",),
        w.documents,
        requests=rates.requests(w.splits, "AssignClusters"),
        cpu_flops=2.0 * w.documents * w.num_clusters * w.embedding_dim,
        core_s=w.documents * rates.ASSIGN_ROW_S,
        memory_bytes=4.0 * w.num_clusters * w.embedding_dim,
        bytes_stored=float(w.documents * _ROW_ARTIFACT_BYTES),
    )


def _candidates(w: QuadWorkload) -> StageWork:
    blocks = w.num_clusters * w.blocks_per_cluster
    drawn = min(blocks * num_drawn(w.samples_per_pull), w.reserve_examples)
    kept = min(blocks * w.samples_per_pull, w.reserve_examples)
    return StageWork(
        "candidates",
        ("GatherCandidates",),
        kept,
        requests=rates.requests(w.splits, "GatherCandidates"),
        core_s=drawn * w.example_text_bytes * rates.SHUFFLED_BYTE_S,
        bytes_shuffled=drawn * w.example_bytes,
        bytes_stored=kept * w.example_bytes,
    )


def _halves(w: QuadWorkload, documents: int) -> StageWork:
    """Prices the scores under the halves of each group."""
    per_token = w.exact_flops(2 * w.num_query_vectors)
    return score_stage("halves", "CompareHalves", documents, per_token, w)


def _rounds(w: QuadWorkload, documents: int) -> StageWork:
    """Prices the rounds after the pilot, in which the groups' vectors are one."""
    name = f"{w.num_rounds} rounds, at most"
    per_token = w.exact_flops(1)
    scored = score_stage(name, "Round*", documents, per_token, w, num_stages=w.num_rounds)
    return dataclasses.replace(scored, alone_s=w.num_rounds * rates.ROUND_S)


def score_stage(
    name: str,
    covers: str,
    documents: int,
    per_token: float,
    w: ClusteredWorkload,
    num_stages: int = 1,
) -> StageWork:
    """Prices the scores of some examples; `covers` names the stages that give them."""
    return StageWork(
        name,
        (covers,),
        documents,
        num_stages=num_stages,
        is_model=True,
        flops=per_token * documents * w.scored_tokens,
        core_s=documents * rates.SCORED_ROW_S,
        memory_bytes=float(w.num_query_vectors * w.scoring.vector_bytes),
        bytes_stored=float(documents * _SCORE_BYTES),
    )


def proxy_note(w: ClusteredWorkload) -> str:
    """Says what a scored token costs, and what is stored of the curvature."""
    forward = w.scoring.forward_flops(w.window_tokens)
    exact = w.scoring.exact_flops(w.window_tokens, normalize=w.normalize)
    return (
        f"proxy: {compact(exact)} FLOPs a scored token, {exact / forward:.2f} x a forward pass; stored: "
        f"{size(w.factor_bytes)} of factors, {size(w.vector_bytes)} of query gradients and vectors"
        f"{cost.fit_note(w)}"
    )
