"""What a selection costs, put together from what one document costs; in FLOPs or in seconds."""

import dataclasses
from collections.abc import Iterator, Mapping

import torch
import transformers

from beam_quad.distillation import default_num_landmarks
from tests.benchmarks.landmarks import clocked, embeddings
from tests.benchmarks.landmarks.clocked import Cost
from tests.benchmarks.landmarks.flops import Shapes
from tests.benchmarks.scale.proxies import MODELS

EMBEDDERS = (embeddings.JVP, embeddings.MINILM, embeddings.HASHING)
# Tokens of a document, documents of the target, and documents that its curvature is fitted on.
_LENGTH, _NUM_QUERY, _NUM_FACTORS = 1000, 200, 1024
_CORPORA = (10**6, 10**9)


@dataclasses.dataclass(frozen=True)
class Selection:
    """The parts of a selection's cost for one target, and what it is compared with.

    Attributes:
      num_landmarks: Landmarks.
      embedding: Of every document.
      landmarks: Their exact gradients.
      target: Gradients of the target's documents, and EK-FAC's fit.
      propagation: The regression, and every document's score.
      forward: One forward pass of every document.
      exact: Exact influence of every document, with the same target.
    """

    num_landmarks: int
    embedding: float
    landmarks: float
    target: float
    propagation: float
    forward: float
    exact: float

    @property
    def total(self) -> float:
        """All parts."""
        return self.embedding + self.landmarks + self.target + self.propagation

    @property
    def over_forward(self) -> float:
        """Cost over one forward pass of every document."""
        return self.total / self.forward

    @property
    def over_exact(self) -> float:
        """Cost over exact influence of every document, which needs the target too."""
        return self.total / (self.exact + self.target)


# Proxy, number of documents, embedding, cost.
Row = tuple[str, int, str, Selection]


def in_flops(
    shapes: Shapes, name: str, num_documents: int, num_query: int, num_factors: int
) -> Selection:
    """Counts a selection by formulas."""
    count = min(num_documents, default_num_landmarks(num_documents))
    scored = num_documents * shapes.propagation(name, count)
    return Selection(
        num_landmarks=count,
        embedding=num_documents * shapes.embedding(name),
        landmarks=count * (shapes.gradient + shapes.transform),
        target=num_query * shapes.gradient + num_factors * shapes.curvature,
        propagation=shapes.regression(name, count) + scored,
        forward=num_documents * shapes.forward,
        exact=num_documents * shapes.exact,
    )


def in_seconds(
    costs: Mapping[str, Cost],
    name: str,
    propagation: float,
    num_documents: int,
    num_query: int,
    num_factors: int,
) -> Selection:
    """Adds up measured CPU seconds; `propagation` is that of the whole pool."""
    count = min(num_documents, default_num_landmarks(num_documents))
    gradient = costs[clocked.SKETCH].seconds
    return Selection(
        num_landmarks=count,
        embedding=num_documents * costs[name].seconds,
        landmarks=count * gradient,
        target=num_query * gradient + num_factors * costs[clocked.CURVATURE].seconds,
        propagation=propagation,
        forward=num_documents * costs[clocked.FORWARD].seconds,
        exact=num_documents * costs[clocked.EXACT].seconds,
    )


def extrapolated() -> Iterator[Row]:
    """Counts selections from large corpora with larger proxies."""
    for model, config in MODELS.items():
        with torch.device("meta"):
            skeleton = transformers.AutoModelForCausalLM.from_config(config)
        # A thousand tokens are more than MiniLM reads, in whatever tokens.
        shapes = Shapes.of(skeleton, _LENGTH, _LENGTH)
        for num_documents in _CORPORA:
            for name in EMBEDDERS:
                cost = in_flops(shapes, name, num_documents, _NUM_QUERY, _NUM_FACTORS)
                yield model, num_documents, name, cost
