"""Cost of a Quad run; see `cost`, which it extends.

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
# Stages that pass over the rows; each acceptance rule has some of them.
_PASSES = (
    "CountBlocks", "CountPassedOver", "GatherEvidence", "CutBlocks", "FitWithinClusters", "PredictWithinClusters",
    "CutRanking*",
)  # fmt: skip
_SCORE_BYTES = 128  # id, score and tokens of a scored example, stored twice: in the files of its pulls and of its round


@dataclasses.dataclass(frozen=True)
class ClusteredWorkload(Workload):
    """Inputs of the plan of a run with clusters.

    Attributes:
      num_clusters: Number of clusters.
      normalize: Whether scores are divided by the gradient's norm.
    """

    num_clusters: int
    normalize: bool

    def exact_flops(self, num_vectors: int) -> float:
        """FLOPs of exact scoring per token under `num_vectors` query vectors."""
        return self.scoring.exact_flops(self.window_tokens, num_vectors, self.normalize)


@dataclasses.dataclass(frozen=True)
class QuadWorkload(ClusteredWorkload):
    """Inputs of the plan of a run with a bandit.

    Attributes:
      num_rounds: Rounds after the pilot.
      samples_per_pull: Examples that a pull scores.
      blocks_per_cluster: Blocks of a cluster.
    """

    num_rounds: int
    samples_per_pull: int
    blocks_per_cluster: int

    @property
    def pulls(self) -> int:
        """Expected number of pulls after the pilot: blocks of twice the budget's tokens, at least 8 pulls a round."""
        blocks = self.num_clusters * self.blocks_per_cluster
        wanted = math.ceil(ROUND_MARGIN * self.budget.amount / max(self.tokens, 1) * blocks)
        return min(max(wanted, 8 * self.num_rounds), blocks - self.num_clusters)


def plan_cost(workload: QuadWorkload, machines: Machines) -> CostPlan:
    """Estimates a Quad run, stage by stage.

    Args:
      workload: Counts and sizes.
      machines: The machines of the run. On a CPU the encoder runs in float32, and sums of the curvature are float32
        everywhere, whatever the proxy's dtype.
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
    """Prices the stages that count the rows' blocks and cut them."""
    # Only the first of them reads a file of every split.
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
        # k-means runs in one process, while all other workers wait.
        flops_per_core_s=rates.KMEANS_FLOPS_PER_S,
        alone_flops=2.0 * _KMEANS_PASSES * points * w.num_clusters * w.embedding_dim,
        core_s=w.documents * rates.PASS_ROW_S + points * rates.FIT_POINT_S,
        memory_bytes=4.0 * points * w.embedding_dim,
        bytes_stored=2.0 * points * w.embedding_dim + 4.0 * w.num_clusters * w.embedding_dim,
    )


def assign_stage(w: ClusteredWorkload) -> StageWork:
    """Prices the assignment of every example to a cluster."""
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
    """Prices the scores under the two halves of each query group."""
    per_token = w.exact_flops(2 * w.num_query_vectors)
    return score_stage("halves", "CompareHalves", documents, per_token, w)


def _rounds(w: QuadWorkload, documents: int) -> StageWork:
    """Prices the rounds after the pilot, in which the vectors of all query groups are combined into one."""
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
    """Prices the scores of some examples, computed by the stages that `covers` names."""
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
    """States the cost of a scored token and the stored bytes of the curvature."""
    forward = w.scoring.forward_flops(w.window_tokens)
    exact = w.scoring.exact_flops(w.window_tokens, normalize=w.normalize)
    return (
        f"proxy: {compact(exact)} FLOPs a scored token, {exact / forward:.2f} x a forward pass; stored: "
        f"{size(w.factor_bytes)} of factors, {size(w.vector_bytes)} of query gradients and vectors"
        f"{cost.fit_note(w)}"
    )
