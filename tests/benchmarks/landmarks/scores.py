"""Cosines of documents' gradients with targets: exact, by code that knows no sketches, and by sketches."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from beam_quad import scoring
from beam_quad.gradients.sketches import GradientSketcher
from tests.benchmarks.landmarks.material import Material

PLAIN, EKFAC = "plain", "ekfac"
# What is propagated: exact scores of the landmarks, and those that come of their sketches.
SKETCHED = "ekfac_sketched"
# Documents whose sketches are held at a time: 34 MB at the default length.
_SKETCHED_AT_ONCE = 64

# By kind, then by domain, then by block.
Vectors = dict[str, dict[str, dict[str, torch.Tensor]]]


def target_vectors(material: Material, num_factors: int) -> Vectors:
    """Makes each target's vector: its mean gradient, plain and times the inverse of an EK-FAC curvature.

    Args:
      material: Targets and model.
      num_factors: Documents of the pool that the curvature is fitted on, with the package's defaults.

    Returns:
      The vectors by kind and domain.
    """
    proxy, blocks = material.proxy, material.blocks
    plain = {
        domain: scoring.query_gradient(proxy, blocks, texts).mean()
        for domain, texts in material.queries.items()
    }
    texts = material.texts[:num_factors]  # the pool is in the order of a hash
    ids = [str(row) for row in range(len(texts))]
    sums = scoring.covariance_sums(proxy, blocks, ids, texts, 0)
    bases = {module: scoring.eigenbasis(total) for module, total in sums.items()}
    squares = scoring.eigenvalue_sums(proxy, blocks, bases, ids, texts, 0)
    curvature = scoring.Curvature.from_parts(bases, squares)
    return {
        PLAIN: plain,
        EKFAC: {domain: curvature.precondition(vector) for domain, vector in plain.items()},
    }


def exact_cosines(
    material: Material, vectors: Vectors, say: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """Computes cosines by exact influence, which forms no document's gradient.

    Returns:
      By kind, float64 [num_documents, num_targets].
    """
    groups = {f"{kind} {domain}": v for kind in vectors for domain, v in vectors[kind].items()}
    scorer = scoring.InfluenceScorer(material.proxy, material.blocks, groups, normalize=True)
    scores = scorer.score(material.texts)
    say(f"exact influence of {len(scores):,} documents on {len(groups)} vectors")
    return _by_kind(vectors, scores / [_norm(vector) for vector in groups.values()])


def sketch_cosines(
    material: Material, vectors: Vectors, say: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """Computes cosines by sketches, with the package's defaults, as a run does for its landmarks.

    Returns:
      By kind, float64 [num_documents, num_targets].
    """
    sketcher = GradientSketcher(material.proxy, material.blocks)
    targets = np.stack(
        [
            sketcher.sketch_vector(vector)[0]
            for by_domain in vectors.values()
            for vector in by_domain.values()
        ]
    )
    texts = material.texts
    products = [
        sketcher.sketch(texts[start : start + _SKETCHED_AT_ONCE]) @ targets.T
        for start in range(0, len(texts), _SKETCHED_AT_ONCE)
    ]
    kept, total = sketcher.entries.num_kept, sum(b.shape[0] * b.shape[1] for b in material.blocks)
    say(f"sketches of {sketcher.dim:,} numbers, of {kept:,} of {total:,} entries")
    return _by_kind(vectors, np.concatenate(products).astype(np.float64))


def _by_kind(vectors: Vectors, columns: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(vectors, np.split(columns, len(vectors), axis=1), strict=True))


def _norm(vector: Mapping[str, torch.Tensor]) -> float:
    return float(
        torch.stack([block.double().square().sum() for block in vector.values()]).sum().sqrt()
    )
