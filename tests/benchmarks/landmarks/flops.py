"""What a document costs in FLOPs, from shapes alone: products of matrices, 2 a multiply-add, and little else.

Passes of the proxy are counted by `beam_quad.scoring.costs` and embeddings by `beam_quad.embedding`, all tangents of a
JVP among them. What is added here, of l landmarks, d dimensions and n kept entries, padded to a power of two:

    transform      n log2 n sums that compress a gradient
    propagation    2 l (d + 1) a document and target; before that l² d + l³ / 3 multiply-adds for the regression
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from beam_quad.embedding import EmbedderCosts, EmbedderSpec, JvpSpec, embedder_costs
from beam_quad.embedding.jvp_costs import jvp_costs
from beam_quad.gradients import Block, ProxySpec, find_blocks
from beam_quad.gradients.sketches import DEFAULT_ENTRIES
from beam_quad.scoring import ScoringCosts
from tests.benchmarks.landmarks import embeddings


@dataclasses.dataclass(frozen=True)
class Shapes:
    """FLOPs of documents of one window, for one model.

    Attributes:
      blocks: The tracked layers.
      scoring: Costs of the model's passes.
      embedders: Costs of embeddings, by name.
      length: Tokens of a document.
      minilm_length: The same in MiniLM's own tokens, before it cuts them.
    """

    blocks: tuple[Block, ...]
    scoring: ScoringCosts
    embedders: Mapping[str, EmbedderCosts]
    length: int
    minilm_length: float

    @classmethod
    def of(cls, model: Any, length: int, minilm_length: float) -> "Shapes":
        """Reads off a model, which may be without weights; its attention layers are tracked."""
        blocks = find_blocks(model, "attention")
        embedders = {
            embeddings.JVP: jvp_costs(model, JvpSpec(ProxySpec("")), length),
            embeddings.MINILM: embedder_costs(EmbedderSpec(embeddings.MINILM)),
            embeddings.HASHING: embedder_costs(EmbedderSpec(embeddings.HASHING)),
        }
        return cls(blocks, ScoringCosts.of(model, blocks), embedders, length, minilm_length)

    @property
    def forward(self) -> float:
        """One forward pass."""
        return self.length * self.scoring.forward_flops(self.length)

    @property
    def exact(self) -> float:
        """The exact cosine with one target."""
        return self.length * self.scoring.exact_flops(self.length, normalize=True)

    @property
    def gradient(self) -> float:
        """The gradient of a landmark, before it is compressed, or of one of a target's documents."""
        return self.length * self.scoring.query_flops(self.length)

    @property
    def transform(self) -> float:
        """What compresses a gradient."""
        kept = min(DEFAULT_ENTRIES, sum(math.prod(block.shape) for block in self.blocks))
        padded = 1 << (kept - 1).bit_length()
        return padded * math.log2(padded)

    @property
    def curvature(self) -> float:
        """The two passes that EK-FAC is fitted by, without the decompositions between them."""
        costs, length = self.scoring, self.length
        return length * (costs.covariance_flops(length) + costs.eigenvalue_flops(length))

    def embedding(self, name: str) -> float:
        """The embedding."""
        length = self.minilm_length if name == embeddings.MINILM else self.length
        return self.embedders[name].flops(length)

    def propagation(self, name: str, num_landmarks: int) -> float:
        """The score for one target, from those of the landmarks."""
        return 2.0 * num_landmarks * (self.embedders[name].dim + 1)

    def regression(self, name: str, num_landmarks: int) -> float:
        """The landmarks' kernel and its Cholesky factor, once for all documents."""
        return 2.0 * num_landmarks**2 * self.embedders[name].dim + num_landmarks**3 / 3
