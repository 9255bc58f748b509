"""Cost of a run of Influence Distillation; see `cost`, which it extends.

Of l landmarks, T targets, D dimensions of an embedding, and n kept entries of a gradient, padded to a power of two:

    landmark        exact scoring of the normalised gradient, and of the first landmarks under the targets' halves too;
                    where it is sketched: forward, backward for activations, and out in multiply-adds every token and
                    tracked block, which form the gradient; n log2 n sums and differences, which compress it; and 2 every
                    number of its sketch and vector, 3 vectors a target with those of its halves
    fit             twice the kernel, 2 l² D, and its factor, l³ / 3; 2 l³ for its inverse, which leaves landmarks out one
                    by one
    propagate       2 l (D + 2 T) every example: the kernel in single precision, its product with T duals in double, which
                    takes twice as long
    interactions    every text of a target: a forward and a backward that some landmarks share; every landmark two more
                    backward passes, through the backward itself and through the forward; and the gradients of all
                    landmarks, once for every few of them
"""

import dataclasses
import math

from beam_quad.plan import cost, rates
from beam_quad.plan.cost import CostPlan, Machines, StageWork, Workload
from beam_quad.report.formatting import compact, size
from beam_quad.scoring.costs import ScoringCosts

_FLOAT64_FLOPS_PER_S = rates.FLOAT64_RATE * rates.CORE_FLOPS_PER_S
_VECTORS_PER_TARGET = 3  # its own, and those of its halves
_LANDMARKS_UNDER_HALVES = 64  # those of the first group of `stages.distillation.score_landmarks`
_SCORE_BYTES = 64  # id, tokens and score of a landmark on a target
_INFLUENCE_BYTES = 4
# As in `stages.distillation.interactions`: landmarks that share a forward pass over a target's texts, and landmarks per piece;
# the gradients of all landmarks are computed again for each piece.
_LANDMARKS_PER_PASS = 8
_LANDMARKS_PER_PIECE = 16
_FLOAT64_BYTES = 8
_PREDICTING_BYTES = 12  # of a number of a landmark: in double precision, and scaled in single
_LANDMARK_BYTES = 32  # key, tokens, id and group of a landmark, twice


@dataclasses.dataclass(frozen=True)
class SecondOrder:
    """Inputs of the cost of interactions.

    Attributes:
      scoring: Costs of the proxy with its attention written out, as second derivatives need it.
      num_landmarks: Landmarks whose interactions are exact.
      num_texts: Texts of all targets that make up their curvatures.
      mean_tokens: Tokens of a mean text of them.
      shortlist_examples: Examples of all shortlists.
    """

    scoring: ScoringCosts
    num_landmarks: int
    num_texts: int
    mean_tokens: float
    shortlist_examples: int


@dataclasses.dataclass(frozen=True)
class DistillationWorkload(Workload):
    """Inputs of the plan.

    Attributes:
      num_landmarks: Examples with exact influence.
      is_sketched: Whether influence uses sketched gradients, which another query set can reuse, rather than passes that
        form no gradient.
      sketch_dim: Maximum length of a sketch.
      sketch_entries: Maximum number of kept entries of a gradient.
      num_passes: Passes over the propagated influence to share, cut and weight the budget.
      second_order: Inputs of the cost of interactions, or None in the first order.
    """

    num_landmarks: int
    is_sketched: bool
    sketch_dim: int
    sketch_entries: int
    num_passes: int
    second_order: SecondOrder | None

    @property
    def num_targets(self) -> int:
        """Targets: each has a vector."""
        return self.num_query_vectors

    @property
    def kept_entries(self) -> int:
        """Entries of a gradient that are kept."""
        return min(self.sketch_entries, sum(math.prod(b.shape) for b in self.scoring.blocks))

    @property
    def sketch_length(self) -> int:
        """Length of a sketch."""
        return min(self.sketch_dim, self.kept_entries)

    @property
    def gradient_flops(self) -> float:
        """FLOPs of an example's gradient, both passes included."""
        return self.scored_tokens * self.scoring.query_flops(self.window_tokens)

    @property
    def transform_flops(self) -> float:
        """FLOPs of compressing a gradient."""
        if self.sketch_dim >= self.kept_entries:
            return 0.0
        bits = (self.kept_entries - 1).bit_length()
        return float((1 << bits) * bits)

    def exact_flops(self, num_vectors: int) -> float:
        """FLOPs of the cosines of an example's gradient with vectors, by passes that form no gradient."""
        per_token = self.scoring.exact_flops(self.window_tokens, num_vectors, normalize=True)
        return self.scored_tokens * per_token

    @property
    def forward_flops(self) -> float:
        """FLOPs of one forward pass of an example."""
        return self.scored_tokens * self.scoring.forward_flops(self.window_tokens)


def plan_cost(workload: DistillationWorkload, machines: Machines) -> CostPlan:
    """Estimates a run of Influence Distillation, stage by stage.

    Args:
      workload: Counts and sizes.
      machines: Machines of the run. Curvature is summed, and landmarks' gradients are formed and compressed, in float32
        regardless of the proxy's dtype.
    """
    w = workload
    second_order = () if w.second_order is None else (_interact(w, w.second_order),)
    works = (
        cost.embed_stage(w),
        cost.curvature_stage(w),
        _landmarks(w),
        _fit(w),
        _propagate(w),
        _allocate(w),
        *second_order,
        cost.write_stage(w),
    )
    sketched = ("landmarks' gradients",) if w.is_sketched else ()
    targets = f"{w.num_targets} target{'s' if w.num_targets > 1 else ''}"
    flops = math.fsum(work.total_flops for work in works)
    notes = (
        cost.corpus_note(w, f"{w.num_landmarks:,} landmarks, {targets}"),
        _proxy_note(w),
        _selection_note(w, flops),
    )
    return CostPlan.of(
        works, w.documents, w.splits, machines, cost.float32_work(w, *sketched), notes
    )


def _landmarks(w: DistillationWorkload) -> StageWork:
    n, num_vectors = w.num_landmarks, _VECTORS_PER_TARGET * w.num_targets
    gathered = n * (w.example_bytes + 2.0 * w.embedding_dim)
    stored = gathered + float(n * _SCORE_BYTES * w.num_targets)
    if w.is_sketched:
        passes = n * w.scored_tokens * w.scoring.exact_flops(w.window_tokens, num_vectors=0)
        cosines = 2.0 * w.sketch_length * num_vectors
        single = n * (w.gradient_flops + w.transform_flops + cosines) - passes
        stored += 2.0 * n * w.sketch_length
    else:
        under_halves = min(n, _LANDMARKS_UNDER_HALVES) * w.exact_flops(num_vectors - w.num_targets)
        passes, single = n * w.exact_flops(w.num_targets) + under_halves, 0.0
    covers = (
        "DrawLandmarks",
        "GatherLandmarks",
        "SketchLandmarks",
        "CompareSketches",
        "ScoreLandmarks",
    )
    return StageWork(
        "landmarks",
        covers,
        n,
        num_stages=3,
        requests=rates.requests(w.splits, rates.PASS, rates.PASS),
        is_model=True,
        flops=passes,
        float32_flops=single,
        core_s=n * rates.SCORED_ROW_S + w.documents * rates.PASS_ROW_S,
        memory_bytes=float(num_vectors * w.scoring.vector_bytes),
        bytes_shuffled=gathered,
        bytes_stored=stored,
    )


def _fit(w: DistillationWorkload) -> StageWork:
    n = w.num_landmarks
    flops = 2 * (2.0 * n**2 * w.embedding_dim + n**3 / 3) + 2.0 * n**3
    # One file holds the landmarks with their duals, another their exact and predicted influence.
    stored = n * (2.0 * w.embedding_dim + 4 * _FLOAT64_BYTES * w.num_targets + _LANDMARK_BYTES)
    return StageWork(
        "fit",
        ("FitPropagation",),
        n,
        # In one process.
        alone_flops=flops,
        flops_per_core_s=_FLOAT64_FLOPS_PER_S,
        memory_bytes=3.0 * _FLOAT64_BYTES * n**2,
        bytes_stored=stored,
    )


def _propagate(w: DistillationWorkload) -> StageWork:
    flops = (
        2.0 * w.documents * w.num_landmarks * (w.embedding_dim + w.num_targets / rates.FLOAT64_RATE)
    )
    influence_bytes = _INFLUENCE_BYTES * w.num_targets
    return StageWork(
        "propagate",
        ("Propagate",),
        w.documents,
        requests=rates.requests(w.splits, "AssignClusters"),
        cpu_flops=flops,
        memory_bytes=float(_PREDICTING_BYTES * w.num_landmarks * w.embedding_dim),
        bytes_stored=float(w.documents * influence_bytes),
    )


def _allocate(w: DistillationWorkload) -> StageWork:
    return StageWork(
        "allocate",
        ("Bound*", "Cut*", "TakeTurns*", "GatherShortlist", "SumTaken", "FindBestLeft"),
        w.documents,
        num_stages=w.num_passes,
        requests=rates.requests(w.splits, *[rates.PASS] * w.num_passes),
        core_s=w.documents * w.num_targets * w.num_passes * rates.PRIORITY_S,
    )


def _interact(w: DistillationWorkload, order: SecondOrder) -> StageWork:
    """Prices the landmarks' interactions, and the shortlists with their places among these landmarks."""
    n = order.num_landmarks
    length = min(order.mean_tokens, w.context_length)
    tokens = order.num_texts * min(order.mean_tokens, w.context_length * w.max_windows)
    products = tokens * product_flops(order.scoring, length, n, min(n, _LANDMARKS_PER_PASS))
    gradients = w.num_targets * n * (1 + n / _LANDMARKS_PER_PIECE) * w.gradient_flops
    flops = products + gradients + 2.0 * w.num_targets * n**2 * w.kept_entries
    lists = float(order.shortlist_examples * _FLOAT64_BYTES * n)
    return StageWork(
        "interactions",
        ("InteractLandmarks",),
        n,
        is_model=True,
        float32_flops=flops,
        memory_bytes=float(_LANDMARKS_PER_PIECE * w.scoring.vector_bytes),
        bytes_shuffled=lists,
        bytes_stored=lists + w.num_targets * _FLOAT64_BYTES * n**2,
    )


def product_flops(
    scoring: ScoringCosts, length: float, num_vectors: int, num_sharing: int
) -> float:
    """Counts products of vectors with a Gauss-Newton matrix, per token of its texts.

    Args:
      scoring: Costs of the proxy with its attention written out.
      length: Tokens of a window.
      num_vectors: Vectors.
      num_sharing: Vectors that share a forward and a backward pass.
    """
    both_passes = scoring.pass_flops(length) + scoring.gradient_sum_flops
    backward = both_passes - scoring.forward_flops(length)
    return num_vectors * (both_passes / max(num_sharing, 1) + 2 * backward)


def _proxy_note(w: DistillationWorkload) -> str:
    stored = {
        "sketches": 2.0 * w.num_landmarks * w.sketch_length if w.is_sketched else 0.0,
        "factors": w.factor_bytes,
        "query gradients and vectors": w.vector_bytes,
    }
    landmark = (
        w.gradient_flops + w.transform_flops if w.is_sketched else w.exact_flops(w.num_targets)
    )
    return (
        f"proxy: {compact(landmark)} FLOPs a landmark, {landmark / max(w.forward_flops, 1):.2f} x a forward pass; stored: "
        f"{', '.join(f'{size(number)} of {what}' for what, number in stored.items() if number)}"
        f"{cost.fit_note(w)}; the fit of the propagation in float64 at half the cores' rate"
    )


def _selection_note(w: DistillationWorkload, flops: float) -> str:
    """Compares the selection's FLOPs with a forward pass and with exact influence of every example, which it avoids."""
    note = f"selection: {flops:.1e} FLOPs in all"
    forward, exact = (
        w.documents * each for each in (w.forward_flops, w.exact_flops(w.num_targets))
    )
    if not forward:
        return note
    return (
        f"{note}, {flops / forward:.2g} x one forward pass of every example, "
        f"{flops / exact:.2g} x the exact influence of every example"
    )
