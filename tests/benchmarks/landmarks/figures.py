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
    """Summarises how exact scores single out the target's domain, by kind of target."""
    qualities = {kind: [Quality.of(scores, scores, is_own)] for kind, scores in exact.items()}
    return {
        field: {kind: dataclasses.asdict(Spread.of(own, field)) for kind, own in qualities.items()}
        for field in ("auc", "own_share")
    }


def of_sketches(
    exact: Mapping[str, np.ndarray], sketched: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Holds sketches against exact cosines, by kind of target: the worst target's rank correlation, the largest error."""
    return {
        kind: {
            "spearman": round(float(rank_correlation(sketched[kind], own).min()), 5),
            "max_error": round(float(np.abs(sketched[kind] - own).max()), 5),
            "deviation": round(float(own.std(axis=0).mean()), 5),
        }
        for kind, own in exact.items()
    }
