"""From the landmarks to all others: how well kernel ridge regression predicts what was not computed."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from beam_quad.distillation import KernelRidge, LandmarkDraw
from tests.benchmarks.counterfactual.agreement import (
    area_under_curve,
    rank_correlation,
    share_on_top,
)

_TOP = 0.05


@dataclasses.dataclass(frozen=True)
class Quality:
    """How good scores of documents are, for each target.

    Attributes:
      spearman: Rank correlation with the exact scores, float64 [num_targets].
      top_share: Share of the exact scores' top 5 % among the scores' own, likewise.
      domain_auc: How often a document of the target's domain scores above another, likewise.
      domain_share: Share of the target's domain among the best scores, as many as it has documents, likewise.
    """

    spearman: np.ndarray
    top_share: np.ndarray
    domain_auc: np.ndarray
    domain_share: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, exact: np.ndarray, is_own: np.ndarray) -> "Quality":
        """Judges scores, float64 [n, num_targets], by the exact ones and by the domains, bool [n, num_targets]."""
        columns = list(zip(scores.T, is_own.T, strict=True))
        return cls(
            rank_correlation(scores, exact),
            _shared_top(scores, exact),
            np.array([area_under_curve(own, mask) for own, mask in columns]),
            np.array([share_on_top(own, mask) for own, mask in columns]),
        )


# By variant, embedding and number of landmarks: the quality of every draw.
Propagated = dict[str, dict[str, dict[int, list[Quality]]]]


@dataclasses.dataclass(frozen=True)
class Propagator:
    """Propagates scores of landmarks and judges what comes out on all other documents.

    Attributes:
      keys: Of the documents, uint64 [n].
      given: What the landmarks' scores are taken from, by variant, float64 [n, num_targets].
      exact: What is to be predicted, likewise.
      is_own: Whether a document is of the target's domain, bool [n, num_targets].
    """

    keys: np.ndarray
    given: dict[str, np.ndarray]
    exact: dict[str, np.ndarray]
    is_own: np.ndarray

    def qualities(
        self, embedded: Mapping[str, np.ndarray], num_landmarks: Sequence[int], num_seeds: int
    ) -> Propagated:
        """Judges the predictions from every embedding, number of landmarks and draw."""
        found: Propagated = {variant: {name: {} for name in embedded} for variant in self.exact}
        for name, vectors in embedded.items():
            for count in num_landmarks:
                for seed in range(num_seeds):
                    draw = LandmarkDraw.of(self.keys, seed, count)
                    for variant, quality in self._judged(vectors, draw):
                        found[variant][name].setdefault(count, []).append(quality)
        return found

    def predict(self, vectors: np.ndarray, draw: LandmarkDraw) -> np.ndarray:
        """Fits to the landmarks and predicts all other documents, float64 [n - num_landmarks, variants x targets]."""
        chosen = draw.contains(self.keys)
        # One factor for all targets of all variants.
        scores = np.concatenate(list(self.given.values()), axis=1)
        ridge = KernelRidge.fit(vectors[chosen], scores[chosen], self.keys[chosen], seed=draw.seed)
        return ridge.predict(vectors[~chosen])

    def _judged(self, vectors: np.ndarray, draw: LandmarkDraw) -> Iterator[tuple[str, Quality]]:
        is_other = ~draw.contains(self.keys)
        predicted = np.split(self.predict(vectors, draw), len(self.exact), axis=1)
        for (variant, exact), own in zip(self.exact.items(), predicted, strict=True):
            yield variant, Quality.of(own, exact[is_other], self.is_own[is_other])


def _shared_top(scores: np.ndarray, exact: np.ndarray) -> np.ndarray:
    num_top = max(1, round(_TOP * len(exact)))
    best, truly = (np.argsort(-s, axis=0, kind="stable")[:num_top] for s in (scores, exact))
    shared = [len(np.intersect1d(a, b)) for a, b in zip(best.T, truly.T, strict=True)]
    return np.array(shared) / num_top
