"""Results of a finished Influence Distillation for the manifest and the report."""

import dataclasses
import math
from typing import Any

import numpy as np

from beam_quad.report import comparison
from beam_quad.report import data as page
from beam_quad.selection import RowCounts
from beam_quad.selection.shown import highest
from beam_quad.stages.distillation.allocate import DistilledSelection
from beam_quad.stages.distillation.fit_propagation import FitPropagation, ScoredLandmarks
from beam_quad.stages.distillation.second_order import SecondOrderSelection
from beam_quad.stages.read.corpus import Corpus

_SHOWN_EXAMPLES = 8
_LEAST_SHOWN = 3
_SHOWN_CHARACTERS = 2000


@dataclasses.dataclass(frozen=True)
class FinishedDistillation:
    """A finished Influence Distillation, by reference.

    Args:
      corpus: The corpus, within the budget.
      selection: The targets' first-order selection.
      second_order: The targets' second-order selection, or None.
    """

    corpus: Corpus
    selection: DistilledSelection
    second_order: SecondOrderSelection | None = None

    @property
    def propagation(self) -> FitPropagation:
        """The regression that propagated influence."""
        return self.selection.propagation

    def num_scored(self) -> int:
        """Number of examples with an exact score: the landmarks."""
        return len(self._landmarks().keys)

    def manifest(self, counts: RowCounts) -> dict[str, Any]:
        """Builds the distillation's part of the manifest.

        Args:
          counts: Counts of rows by outcome; only those of each target are used.
        """
        found = self.propagation.facts()
        drawn = self.propagation.landmarks.num_landmarks()
        second = {"second_order": self.second_order.solved.facts()} if self.second_order else {}
        return {
            "landmarks": {
                "scored": found["landmarks"],
                "unscorable": drawn - found["landmarks"],
                "targets_took_turns_on_all": self.selection.allocated.is_exact(),
                "bandwidth": found["bandwidth"],
            },
            "targets": {
                target.name: _in_manifest(target) | {"halves": self.halves()[target.name]}
                for target in self.targets(counts)
            },
            **second,
        }

    def targets(self, counts: RowCounts) -> tuple[page.Target, ...]:
        """Returns for every target its selection and the selection's worth, estimated from the landmarks."""
        landmarks = self._uniform()
        agreement = self.propagation.facts()["held_out_rank_correlation"]
        takers = self._would_take(landmarks, landmarks.held_out)
        if self.second_order is not None:
            # The second order solves for all weights at once. Replacing one landmark's influence by its held-out value
            # would give another solution, so no held-out selection exists.
            takers = np.full(len(takers), -1)
        taken = self._takers(landmarks)
        names = self.selection.ranking.targets
        facts = self.second_order.solved.facts()["targets"] if self.second_order is not None else {}
        shared = {name: own["shared_with_first_order"] for name, own in facts.items()}
        return tuple(
            page.Target(
                name=name,
                selected_documents=counts.of_target(name).documents,
                selected_tokens=counts.of_target(name).tokens,
                influence=landmarks.influence[:, number],
                tokens=landmarks.tokens,
                held_out=landmarks.held_out[:, number],
                would_take=takers == number,
                agreement=agreement[name],
                taken=taken == number,
                shared=shared.get(name),
            )
            for number, name in enumerate(names)
        )

    def halves(self) -> dict[str, float | None]:
        """Agreement of the landmarks' influence on the two halves of each target's texts, by target."""
        return dict(self.propagation.facts()["halves"])

    def best(self) -> dict[str, tuple[page.Example, ...]]:
        """Reads the landmarks of highest influence on each target."""
        columns = zip(self.selection.ranking.targets, self._landmarks().influence.T, strict=True)
        return {name: self._examples(own, self._highest(own)) for name, own in columns}

    def worst(self) -> tuple[page.Example, ...]:
        """Reads the landmarks of lowest influence, each by its highest influence on any target."""
        influence = self._landmarks().influence.max(axis=1)
        return self._examples(influence, highest(-influence, _SHOWN_EXAMPLES))

    def shown_keys(self) -> np.ndarray:
        """Returns the keys of the landmarks of `best` and `worst`, uint64 [m]."""
        influence = self._landmarks().influence
        lowest = highest(-influence.max(axis=1), _SHOWN_EXAMPLES)
        return self._landmarks().keys[np.concatenate([lowest, *map(self._highest, influence.T)])]

    def _highest(self, influence: np.ndarray) -> np.ndarray:
        num_targets = len(self.selection.ranking.targets)
        return highest(influence, max(_LEAST_SHOWN, _SHOWN_EXAMPLES // num_targets))

    def _examples(self, influence: np.ndarray, landmarks: np.ndarray) -> tuple[page.Example, ...]:
        known = self._landmarks()
        return tuple(
            page.Example(
                example_id=known.example_ids[at],
                text=self._text(int(known.groups[at]), known.keys[at])[:_SHOWN_CHARACTERS],
                influence=float(influence[at]),
                tokens=int(known.tokens[at]),
                key=int(known.keys[at]),
            )
            for at in landmarks.tolist()
        )

    def _takers(self, landmarks: ScoredLandmarks) -> np.ndarray:
        """Returns the target that took each landmark, int64 [n]; -1 for none."""
        if self.second_order is not None:
            return self.second_order.takers(landmarks.keys)
        # The corpus is ranked in single precision, so ties must fall the same way here.
        return self._would_take(landmarks, landmarks.influence.astype(np.float32))

    def _would_take(self, landmarks: ScoredLandmarks, influence: np.ndarray) -> np.ndarray:
        """Returns the target that would take each landmark given its influence, int64 [n]; -1 for none."""
        takers = self.selection.would_take(influence, landmarks.keys)
        return np.where(self.corpus.can_be(landmarks.keys, landmarks.tokens), takers, -1)

    def _uniform(self) -> ScoredLandmarks:
        """The landmarks that stand for the corpus: without those that were drawn for shares."""
        found = self._landmarks()
        uniform = self.propagation.landmarks.drawn.load().uniform
        at = np.flatnonzero(np.isin(found.keys, uniform))
        return ScoredLandmarks(
            found.keys[at],
            found.tokens[at],
            [found.example_ids[i] for i in at.tolist()],
            found.groups[at],
            found.influence[at],
            found.held_out[at],
        )

    def _landmarks(self) -> ScoredLandmarks:
        return self.propagation.scored_landmarks()

    def _text(self, group: int, key: Any) -> str:
        table = self.propagation.landmarks.read(group, ["key", "text"])
        row = np.flatnonzero(table.column("key").to_numpy() == key)[0]
        return str(table.column("text")[int(row)].as_py())


def _in_manifest(target: page.Target) -> dict[str, Any]:
    contrast = comparison.compare_target(target)
    num_exact = 0 if target.taken is None else int(target.taken.sum())
    return {
        "documents": target.selected_documents,
        "tokens": target.selected_tokens,
        "held_out_rank_correlation": target.agreement,
        "influence": {
            "random_mean": _mean(comparison.stratified_mean(comparison.landmarks(target), None)),
            "selected_mean": contrast.selection.mean if contrast is not None else None,
        },
        "landmarks": num_exact,
        "predicted": target.selected_documents - num_exact,
    }


def _mean(estimate: comparison.Estimate | None) -> float | None:
    return estimate.mean if estimate is not None and math.isfinite(estimate.mean) else None
