"""Interactions of landmarks' gradients in a target's loss: exact products with its Gauss-Newton matrix.

The gain of a step on one example's gradient depends on the other steps: two examples that teach the same are worth less
than twice one of them.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from beam_quad import archives, seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.distillation import KernelRidge
from beam_quad.distillation.shortlist import landmark_interactions
from beam_quad.gradients.hessian import curvature_products
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.gradients.windows import Documents
from beam_quad.plan.work import Sizes, TextSizes, Work
from beam_quad.scoring import Curvature, InfluenceScorer, ScoringCosts, query_gradient, tensors
from beam_quad.stages.distillation.landmark_scores import LandmarkScores
from beam_quad.stages.influence.proxy import ProxyModel, ProxyStage
from beam_quad.stages.influence.query_vectors import FitQueryVectors
from beam_quad.stages.read.query import Query

_LANDMARKS_PER_PIECE = 16
# The most full-length vectors in memory at a time, and the most entries in all of them: 1 GB of float32, plus copies.
_DENSE_VECTORS = 8
_DENSE_ENTRIES = 1 << 28


_FLOAT64_BYTES = 8


def product_flops(
    scoring: ScoringCosts, length: float, num_vectors: int, num_sharing: int
) -> float:
    """Counts products of vectors with a Gauss-Newton matrix, per token of its texts.

    Every vector takes two more backward passes: through the backward pass itself and through the forward pass.

    Args:
      scoring: Costs of the proxy with eager attention.
      length: Tokens of a window.
      num_vectors: Vectors.
      num_sharing: Vectors that share a forward and a backward pass.
    """
    both_passes = scoring.pass_flops(length) + scoring.gradient_sum_flops
    backward = both_passes - scoring.forward_flops(length)
    return num_vectors * (both_passes / max(num_sharing, 1) + 2 * backward)


@dataclasses.dataclass(frozen=True)
class InteractionLandmarks:
    """The landmarks with exact interactions: the first scored ones in the order of the draw, by reference.

    Args:
      scores: The landmarks' scores.
      number: The most landmarks to use.
    """

    scores: LandmarkScores
    number: int

    @property
    def folder(self) -> str:
        """Folder of the scores."""
        return self.scores.folder

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.scores.landmarks.corpus.seed

    def expected(self, sizes: Sizes) -> int:
        """Returns the expected number of landmarks."""
        return min(self.number, self.scores.landmarks.drawn.expected(sizes))

    def table(self) -> pa.Table:
        """Reads `key`, `text` and `embedding`, ascending by key; once per process."""
        return cached(("interaction landmarks", self.folder, self.number), self._read)

    def ridge(self, bandwidth: float, ridge: float) -> KernelRidge:
        """Fits a regression on these landmarks, to propagate interactions."""
        table = self.table()
        embeddings = aligned.unpack_vectors(table.column("embedding"), aligned.EMBEDDING_DTYPE)
        # Only the regression's coefficients are used, and they do not depend on its targets.
        keys, nothing = table.column("key").to_numpy(), np.zeros((table.num_rows, 1))
        return KernelRidge.fit(embeddings, nothing, keys, ridge=ridge, bandwidth=bandwidth)

    def _read(self) -> pa.Table:
        # Groups and the landmarks in them are in the order of the draw, so the first ones are a uniform sample.
        tables: list[pa.Table] = []
        left = self.number
        for group in self.scores.landmarks.groups():
            if left <= 0:
                break
            scored = self.scores.read(group).column("key").to_numpy()
            table = self.scores.landmarks.read(group, ["key", "text", "embedding"])
            table = table.filter(pa.array(np.isin(table.column("key").to_numpy(), scored)))
            tables.append(table.slice(0, left))
            left -= tables[-1].num_rows
        return pa.concat_tables(tables).sort_by("key")


@dataclasses.dataclass(frozen=True)
class InteractLandmarks(ProxyStage):
    """Computes the exact interactions of landmarks in each target's loss, G_L H_T G_Lᵀ, some rows at a time.

    Takes (target, first row) and returns counts. H_T is the Gauss-Newton matrix of some of the target's texts. If the
    inverse curvature P is applied to the target's vector, training is assumed to step along P g, and H_T becomes P H_T
    P. The matrix is divided by the norm of the target's vector, as the vector is. A row is the product P H_T P g of one
    landmark and its products with the gradients of all landmarks, computed as scores. Nothing is sketched, because the
    noise of sketches is not symmetric, and P amplifies it.

    Args:
      landmarks: The landmarks.
      vectors: The targets' vectors and their curvature.
      num_texts: Texts of each target in its Gauss-Newton matrix, drawn by hash.
    """

    kind = "interactions"
    version = 2
    artifact_name = "interactions.json"

    landmarks: InteractionLandmarks
    vectors: FitQueryVectors
    num_texts: int

    @property
    def root(self) -> str:
        return self.vectors.root

    @property
    def proxy(self) -> ProxyModel:
        return self.vectors.proxy

    def work(self, sizes: Sizes) -> Work:
        number, num_targets = self.landmarks.expected(sizes), len(sizes.query)
        products = math.fsum(
            min(self.num_texts, group.documents) * self._product_flops(sizes, group, number)
            for group in sizes.query
        )
        # The gradients of all landmarks are computed again for each piece.
        gradients = (
            num_targets * number * (1 + number / _LANDMARKS_PER_PIECE) * sizes.gradient_flops
        )
        entries = sum(math.prod(block.shape) for block in sizes.scoring.blocks)
        return Work(
            "interactions",
            number,
            float32_flops=products + gradients + 2.0 * num_targets * number**2 * entries,
            memory_bytes=float(_LANDMARKS_PER_PIECE * sizes.scoring.vector_bytes),
            bytes_stored=float(num_targets * _FLOAT64_BYTES * number**2),
        )

    def _product_flops(self, sizes: Sizes, group: TextSizes, number: int) -> float:
        """Counts the products of landmarks with the Gauss-Newton matrix of a mean text of a target."""
        tokens = min(group.mean_tokens, sizes.context_length * sizes.max_windows)
        length = min(group.mean_tokens, sizes.context_length)
        costs, sharing = sizes.eager_scoring, min(number, _DENSE_VECTORS)
        return tokens * product_flops(costs, length, number, sharing)

    def pieces(self) -> list[tuple[int, int]]:
        rows = range(0, self.landmarks.table().num_rows, _LANDMARKS_PER_PIECE)
        return [(target, first) for target in range(len(self.vectors.query)) for first in rows]

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("rows"),)

    def paths(self, piece: tuple[int, int]) -> tuple[str, ...]:
        target, first = piece
        return (self.path("rows", f"{target:03d}-{first:05d}.npz"),)

    def statistic(self, piece: tuple[int, int]) -> Tally:
        found = archives.parse(files.read_bytes(self.paths(piece)[0]))
        return self._count(piece, int(found["num_texts"]))

    def do(self, piece: tuple[int, int], model: Proxy) -> Tally:
        target, first = piece
        texts = self.landmarks.table().column("text").to_pylist()
        documents = self._documents(model, self.vectors.query[target])
        blocks = self.vectors.tracked.blocks(model)
        # Products hold several full-length vectors at a time; a larger proxy gets fewer.
        step = min(
            _DENSE_VECTORS, max(1, _DENSE_ENTRIES // sum(math.prod(b.shape) for b in blocks))
        )
        own = texts[first : first + _LANDMARKS_PER_PIECE]
        parts = [
            self._interact(model, blocks, documents, own[start : start + step], texts)
            for start in range(0, len(own), step)
        ]
        rows, norms = (np.concatenate(part) for part in zip(*parts, strict=True))
        rows /= self.vectors.groups()[self.vectors.query[target].name]["norm"]
        num_texts = len(documents.loss_tokens)
        made = archives.dump(rows=rows, norms=norms, num_texts=num_texts)
        files.write_once(self.paths(piece)[0], made)
        return self._count(piece, num_texts)

    def finish(self, total: Tally) -> None:
        facts = {"landmarks": self.landmarks.table().num_rows, "texts": total.counts}
        write_json(self.artifact, facts)

    def facts(self) -> dict[str, Any]:
        """Reads the number of `landmarks`, and the number of `texts` of each target in its curvature."""
        return read_json(self.artifact)

    def read(self, target: int) -> np.ndarray:
        """Reads Q_L = (1/l) G_L H_T G_Lᵀ of a target, float64 [l, l], landmarks by ascending key."""
        found = [
            archives.parse(files.read_bytes(self.paths(piece)[0]))
            for piece in self.pieces()
            if piece[0] == target
        ]
        rows, norms = (np.concatenate([part[name] for part in found]) for name in ("rows", "norms"))
        return landmark_interactions(rows, norms)

    def _count(self, piece: tuple[int, int], num_texts: int) -> Tally:
        target, first = piece
        return Tally({self.vectors.query[target].name: num_texts if first == 0 else 0})

    def _documents(self, proxy: Proxy, query: Query) -> Documents:
        """Draws some of a target's texts with a loss, by hash."""
        texts = query.read().texts
        order = seeding.lowest(self.landmarks.seed, "interaction text", seeding.keys(texts))
        documents = proxy.read([texts[int(i)] for i in order])
        drawn = np.flatnonzero(documents.loss_tokens)[: self.num_texts]
        return documents.take(drawn.tolist())

    def _interact(
        self,
        proxy: Proxy,
        blocks: Sequence[Block],
        documents: Documents,
        own: Sequence[str],
        texts: Sequence[str],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Computes the rows of some landmarks. Their gradients are divided by their norms, those of `texts` are not.

        Returns:
          The rows, float64 [num_own, num_texts], and the norms of the own gradients, float64 [num_own].
        """
        gradients = [query_gradient(proxy, blocks, [text]).gradients for text in own]
        norms = [tensors.norm(gradient) for gradient in gradients]
        steps = [
            {name: block / norm for name, block in gradient.items()}
            for gradient, norm in zip(gradients, norms, strict=True)
        ]
        # Training steps along P g, so P applies on both sides of H: to the steps and to their products.
        self._precondition(steps, proxy.device)
        curved = curvature_products(proxy, blocks, documents, steps).mean()
        self._precondition(curved, proxy.device)
        vectors = {str(number): vector for number, vector in enumerate(curved)}
        return InfluenceScorer(proxy, blocks, vectors).score(texts).T, np.array(norms)

    def _precondition(self, vectors: list[dict[str, torch.Tensor]], device: torch.device) -> None:
        """Applies the inverse curvature of the targets' vectors, in place."""
        for curvature in self.vectors.curvatures():
            moved = _on(curvature, device)
            for own in vectors:
                own |= moved.precondition({block: own[block] for block in moved.blocks})


def _on(curvature: Curvature, device: torch.device) -> Curvature:
    moved = {
        name: dataclasses.replace(
            block,
            gradient_vectors=block.gradient_vectors.to(device),
            activation_vectors=block.activation_vectors.to(device),
            eigenvalues=block.eigenvalues.to(device),
        )
        for name, block in curvature.blocks.items()
    }
    return Curvature(moved)
