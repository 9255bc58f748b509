"""Figures of everything that was measured, ready for JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.counterfactual.agreement import rank_correlation
from tests.benchmarks.landmarks.propagation import Propagated, Quality

FIELDS = tuple(field.name for field in dataclasses.fields(Quality))


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure over draws and targets.

    Attributes:
      mean: Over all.
      deviation: Standard deviation over the draws of their means over targets.
      targets: Mean over the draws for each target.
    """

    mean: float
    deviation: float
    targets: list[float]

    @classmethod
    def of(cls, qualities: Sequence[Quality], field: str) -> "Spread":
        """Summarises one field of the draws' qualities."""
        values = np.stack([getattr(quality, field) for quality in qualities])
        return cls(
            round(float(values.mean()), 4),
            round(float(values.mean(axis=1).std()), 4),
            [round(float(mean), 4) for mean in values.mean(axis=0)],
        )


def of_propagation(propagated: Propagated) -> dict[str, Any]:
    """Summarises every field, by field, variant, embedding and number of landmarks."""
    return {
        field: {
            variant: {
                name: {
                    str(count): dataclasses.asdict(Spread.of(q, field)) for count, q in by.items()
                }
                for name, by in by_embedding.items()
            }
            for variant, by_embedding in propagated.items()
        }
        for field in FIELDS
    }


def of_exact(exact: Mapping[str, np.ndarray], is_own: np.ndarray) -> dict[str, Any]:
    """Summarises how exact scores single out the target's domain, by field and kind of target."""
    qualities = {kind: [Quality.of(scores, scores, is_own)] for kind, scores in exact.items()}
    return {
        f"exact_{field}": {
            kind: dataclasses.asdict(Spread.of(own, field)) for kind, own in qualities.items()
        }
        for field in ("domain_auc", "domain_share")
    }


def of_sketches(
    exact: Mapping[str, np.ndarray], sketched: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[float]]]:
    """Holds sketches against exact cosines, by figure and kind of target; a number for each target."""
    errors = {kind: sketched[kind] - own for kind, own in exact.items()}
    return {
        "sketch_spearman": {k: _rounded(rank_correlation(sketched[k], exact[k])) for k in exact},
        "sketch_max_error": {k: _rounded(np.abs(errors[k]).max(axis=0)) for k in exact},
        "sketch_error": {k: _rounded(errors[k].std(axis=0)) for k in exact},
        "cosine_deviation": {k: _rounded(exact[k].std(axis=0)) for k in exact},
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]
