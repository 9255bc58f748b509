"""What a Quad run would cost; see `cost`, which it adds this to.

k-means, assignment       2 D              per example and center, D the dimension of an embedding
"""

import dataclasses
import math

from beam_quad.bandit import num_drawn
from beam_quad.bandit.rules import ROUND_MARGIN
from beam_quad.report import cost
from beam_quad.report.cost import CostPlan, StageCost, Workload
from beam_quad.report.devices import Device
from beam_quad.report.formatting import compact, size

_KMEANS_POINTS_PER_CLUSTER = 256
_KMEANS_PASSES = 10
_ROW_ARTIFACT_BYTES = 24  # cluster, similarity, block and tokens of one example, before compression
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


def plan_cost(workload: QuadWorkload, proxy_device: Device, float32_device: Device) -> CostPlan:
    """Estimates a Quad run, stage by stage.

    Args:
      workload: Counts and sizes.
      proxy_device: Where the proxy runs, at the rate of its dtype.
      float32_device: The same at the rate of float32, in which the encoder runs, and the curvature is
        summed, whatever the proxy's dtype is.

    Returns:
      The plan. Each stage takes the longer of its computing and its reading.

    Raises:
      ValueError: If the two are not as many devices.
    """
    w, cpu = workload, Device.cpu(workload.cores)
    pilot, later = w.num_clusters * w.samples_per_pull, w.pulls * w.samples_per_pull
    stages = (
        cost.embed_stage(w, proxy_device, float32_device),
        fit_centers_stage(w),
        assign_stage(w, cpu),
        _candidates(w),
        cost.curvature_stage(w, proxy_device, float32_device),
        score_stage("pilot", "Pilot", pilot, w.exact_flops(w.num_query_vectors), w, proxy_device),
        _halves(w, min(pilot, 64), proxy_device),
        _rounds(w, later, proxy_device),
        cost.write_stage(w),
    )
    choices = f"{w.num_clusters:,} clusters, {w.num_rounds} rounds"
    return CostPlan(
        stages, w, proxy_device, float32_device, cpu,
        float32_work=cost.float32_work(w),
        notes=(cost.corpus_note(w, choices), proxy_note(w)),
    )  # fmt: skip


def fit_centers_stage(w: ClusteredWorkload) -> StageCost:
    """Prices k-means on a sample of the embeddings."""
    points = min(w.documents, _KMEANS_POINTS_PER_CLUSTER * w.num_clusters)
    flops = 2.0 * _KMEANS_PASSES * points * w.num_clusters * w.embedding_dim
    return StageCost(
        "fit centers",
        points,
        flops,
        Device.cpu(1).hours(flops),  # in one process
        bytes_stored=2.0 * points * w.embedding_dim + 4.0 * w.num_clusters * w.embedding_dim,
        covers=("FitCenters",),
    )


def assign_stage(w: ClusteredWorkload, cpu: Device) -> StageCost:
    """Prices the cluster of every example."""
    flops = 2.0 * w.documents * w.num_clusters * w.embedding_dim
    stored = float(w.documents * _ROW_ARTIFACT_BYTES)
    hours, covers = cpu.hours(flops), ("AssignClusters",)
    return StageCost("assign", w.documents, flops, hours, bytes_stored=stored, covers=covers)


def _candidates(w: QuadWorkload) -> StageCost:
    blocks = w.num_clusters * w.blocks_per_cluster
    drawn = min(blocks * num_drawn(w.samples_per_pull), w.reserve_examples)
    kept = min(blocks * w.samples_per_pull, w.reserve_examples)
    return StageCost(
        "candidates",
        kept,
        0.0,
        0.0,
        bytes_shuffled=drawn * w.example_bytes,
        bytes_stored=kept * w.example_bytes,
        covers=("GatherCandidates",),
    )


def _halves(w: QuadWorkload, documents: int, proxy_device: Device) -> StageCost:
    """Prices the scores under the halves of each group."""
    per_token = w.exact_flops(2 * w.num_query_vectors)
    return score_stage("halves", "CompareHalves", documents, per_token, w, proxy_device)


def _rounds(w: QuadWorkload, documents: int, proxy_device: Device) -> StageCost:
    """Prices the rounds after the pilot, in which the groups' vectors are one."""
    name = f"{w.num_rounds} rounds, at most"
    return score_stage(name, "Round*", documents, w.exact_flops(1), w, proxy_device)


def score_stage(
    name: str,
    covers: str,
    documents: int,
    per_token: float,
    w: ClusteredWorkload,
    device: Device,
) -> StageCost:
    """Prices the scores of some examples; `covers` names the stages that give them."""
    flops = per_token * documents * w.scored_tokens
    stored = float(documents * _SCORE_BYTES)
    return StageCost(
        name, documents, flops, device.hours(flops), True, bytes_stored=stored, covers=(covers,)
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
