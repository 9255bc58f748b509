"""What a document costs by every method, measured: FLOPs by torch's counter, and seconds of CPU time."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from beam_quad import scoring
from beam_quad.distillation import LandmarkDraw, default_num_landmarks
from beam_quad.gradients import Block, Proxy
from beam_quad.gradients.sketches import GradientSketcher
from tests.benchmarks.influence import clocks
from tests.benchmarks.landmarks import embeddings
from tests.benchmarks.landmarks.flops import Shapes
from tests.benchmarks.landmarks.material import Material
from tests.benchmarks.landmarks.propagation import Propagator
from tests.benchmarks.landmarks.sizes import Size

FORWARD, EXACT, SKETCH, CURVATURE = "forward", "exact", "sketch", "curvature"
_ENCODERS = (embeddings.JVP, embeddings.MINILM, embeddings.HASHING)
_ROUNDS = 2

Method = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Cost:
    """A document's cost by one method.

    Attributes:
      flops: As torch counts them: products of matrices.
      formula: As `flops.Shapes` computes them; 0 where there is no formula.
      seconds: CPU time, the median of a few rounds.
      over_forward: CPU time over that of a forward pass, the median of the rounds' ratios.
    """

    flops: float
    formula: float
    seconds: float
    over_forward: float


def measure(material: Material, size: Size) -> tuple[dict[str, Cost], Shapes]:
    """Measures all methods on the same documents of exactly `size.timed_tokens` tokens, in one window.

    Returns:
      Costs by method, and the shapes that the formulas were computed from.
    """
    proxy = dataclasses.replace(material.proxy, context_length=size.timed_tokens)
    texts = _long_texts(material, size)
    # A sentence encoder reads what the proxy reads, in its own tokens.
    read = [proxy.tokenizer.decode(window.tokens) for window in proxy.read(texts).windows]
    methods = _passes(proxy, material.blocks, texts) | _encoders(proxy, texts, read)
    shapes = Shapes.of(proxy.model, size.timed_tokens, embeddings.minilm_tokens(read))
    flops = {name: _count_flops(method) / len(texts) for name, method in methods.items()}
    rounds = [
        {
            name: clocks.timed(method, proxy.device)[1].cpu_seconds
            for name, method in methods.items()
        }
        for _ in range(_ROUNDS)
    ]
    formulas = _formulas(shapes)
    costs = {
        name: Cost(
            flops[name],
            formulas[name],
            statistics.median(own[name] for own in rounds) / len(texts),
            statistics.median(own[name] / own[FORWARD] for own in rounds),
        )
        for name in methods
    }
    return costs, shapes


def propagation_seconds(propagator: Propagator, vectors: np.ndarray) -> float:
    """Times one regression, from the default number of landmarks, and the scores of all others, CPU seconds."""
    keys = propagator.keys
    draw = LandmarkDraw.of(keys, 0, default_num_landmarks(len(keys)))
    _, cost = clocks.timed(lambda: propagator.predict(vectors, draw), torch.device("cpu"))
    return cost.cpu_seconds


def _formulas(shapes: Shapes) -> dict[str, float]:
    return {
        FORWARD: shapes.forward,
        EXACT: shapes.exact,
        SKETCH: shapes.gradient,
        CURVATURE: shapes.curvature,
        **{name: shapes.embedding(name) for name in _ENCODERS},
    }


def _passes(proxy: Proxy, blocks: Sequence[Block], texts: list[str]) -> dict[str, Method]:
    """The methods that run the proxy as a whole."""
    documents = proxy.read(texts)
    vector = scoring.query_gradient(proxy, blocks, texts[:2]).mean()
    exact = scoring.InfluenceScorer(proxy, blocks, {"target": vector}, normalize=True)
    sketcher = GradientSketcher(proxy, blocks)
    ids = [str(row) for row in range(len(texts))]
    sums = scoring.covariance_sums(proxy, blocks, ids, texts, 0)
    bases = {module: scoring.eigenbasis(total) for module, total in sums.items()}

    def fit() -> None:
        scoring.covariance_sums(proxy, blocks, ids, texts, 0)
        scoring.eigenvalue_sums(proxy, blocks, bases, ids, texts, 0)

    return {
        FORWARD: lambda: scoring.PerplexityScorer(proxy).score(documents),
        EXACT: lambda: exact.score(documents),
        SKETCH: lambda: sketcher.sketch(documents),
        CURVATURE: fit,
    }


def _encoders(proxy: Proxy, texts: list[str], read: list[str]) -> dict[str, Method]:
    def embedding(name: str) -> Method:
        encoder = embeddings.embedder(name, proxy)
        return lambda: encoder.embed(texts if name == embeddings.JVP else read)

    return {name: embedding(name) for name in _ENCODERS}


def _count_flops(function: Method) -> float:
    """Counts the FLOPs of matrix products in a call."""
    # The counter knows addmm, but not its form in place.
    in_place = {torch.ops.aten.addmm_: _count_addmm}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        function()
    return float(counter.get_total_flops())


def _count_addmm(total: torch.Size, left: torch.Size, right: torch.Size, **kwargs: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def _long_texts(material: Material, size: Size) -> list[str]:
    """Takes the first texts of the pool that fill a window, uncut."""
    counts = (len(material.proxy.tokenizer(d.text)["input_ids"]) for d in material.pool)
    found = [
        document.text
        for document, count in zip(material.pool, counts, strict=True)
        if count >= size.timed_tokens
    ][: size.num_timed]
    if len(found) < size.num_timed:
        raise SystemExit(
            f"only {len(found)} of {size.num_timed} texts have {size.timed_tokens} tokens"
        )
    return found
