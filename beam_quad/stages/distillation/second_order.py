"""Second order: weights for a shortlist of the first order that account for interactions.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad import archives
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.columns import look_up
from beam_quad.distillation import Interactions, cut_support
from beam_quad.distillation.shortlist import list_length, share_weights, solve_list
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.selection import Kept, Standing
from beam_quad.stages.base import Stage
from beam_quad.stages.distillation.allocate import DistilledSelection
from beam_quad.stages.distillation.interactions import InteractLandmarks
from beam_quad.stages.distillation.shortlist import GatherShortlist

# Facts of a target's solution in the manifest.
_FACTS = (
    "eta",
    "regularization",
    "was_raised",
    "active_sets",
    "single_changes",
    "shortlist",
    "shared_with_first_order",
)


@dataclasses.dataclass(frozen=True)
class SolveSecondOrder(Stage):
    """Solves for the weights of each target's shortlist and cuts the support at the budget.

    Takes numbers of targets and returns counts. A target's list is `times` as long as its first-order selection. The
    target then takes as much as in the first order, largest weights first. The unit of η is the step that lowers the
    target's loss most along its first-order selection.

    Args:
      shortlist: The lists, with the first-order selection.
      interactions: The landmarks' interactions.
      eta: η; 0 is the first order, 1 the Newton step.
      times: Length of a target's list over the length of its first-order selection.
    """

    kind = "second_order"
    version = 2
    artifact_name = "second_order.json"

    shortlist: GatherShortlist
    interactions: InteractLandmarks
    eta: float
    times: int

    @property
    def root(self) -> str:
        return self.shortlist.root

    def work(self, sizes: Sizes) -> Work:
        return Work("interactions")

    def pieces(self) -> list[int]:
        return [target for target, taken in enumerate(self._taken()) if taken]

    def prefixes(self) -> tuple[str, ...]:
        return (self.folder,)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (self.path(f"target-{piece:03d}.npz"),)

    def statistic(self, piece: int) -> Tally:
        return Tally({"targets": 1})

    def do(self, piece: int, model: Any) -> Tally:
        first = self.shortlist.first
        found = self.shortlist.read(piece)
        amounts = first.budget.amounts(found["tokens"])
        is_taken = found["priority"] >= first.floor()
        budget = int(amounts[is_taken].sum())
        at = slice(list_length(amounts, budget, self.times))
        amounts, p = amounts[at], found["influence"][at]
        interactions = Interactions.propagate(
            found["coefficients"][at],
            self.interactions.read(piece),
            self._num_examples(),
        )
        # Weights of all targets sum to the number of selectable examples; a target's share is that of its first order.
        total = self._num_examples() * self._taken()[piece] / sum(self._taken())
        result = solve_list(p, amounts, is_taken[at], interactions, budget, total, self.eta)
        order, solved = result.order, result.solved
        solution = {
            "key": found["key"][at][order],
            "weight": solved.weights[order],
            "amount": amounts[order],
            "budget": budget,
            "eta": result.eta,
            "regularization": solved.regularization,
            "was_raised": solved.was_raised,
            "active_sets": solved.num_active_sets,
            "single_changes": solved.num_changes,
            "shortlist": len(p),
            "shared_with_first_order": result.num_shared,
        }
        files.write_once(self.paths(piece)[0], archives.dump(**solution))
        return Tally({"targets": 1})

    def finish(self, total: Tally | None) -> None:
        solutions = {
            target: archives.parse(files.read_bytes(self.paths(target)[0]))
            for target in self.pieces()
        }
        self._write_selection(solutions)
        names = self.shortlist.first.ranking.targets
        facts = {
            names[target]: {name: solution[name].item() for name in _FACTS}
            for target, solution in solutions.items()
        }
        write_json(self.artifact, {**self.interactions.facts(), "targets": facts})

    def _write_selection(self, solutions: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        # Cut for all targets together, so the total meets the budget to within one example.
        numbers = cut_support(
            [own["amount"] for own in solutions.values()],
            [int(own["budget"]) for own in solutions.values()],
            self.shortlist.first.budget.amount,
        )
        supports = [own["weight"] for own in solutions.values()]
        weights = share_weights(supports, numbers, self._num_examples())
        keys, targets = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for (target, solution), number in zip(solutions.items(), numbers, strict=True):
            keys.append(solution["key"][:number])
            targets.append(np.full(number, target))
        whole = {
            "key": np.concatenate(keys),
            "target": np.concatenate(targets),
            "weight": np.concatenate([np.zeros(0), *weights]),
        }
        # `look_up` needs ascending keys.
        order = np.argsort(whole["key"])
        types = (pa.uint64(), pa.int64(), pa.float64())
        schema = pa.schema(list(zip(whole, types, strict=True)))
        columns = {name: own[order] for name, own in whole.items()}
        aligned.write_table(self.path("selection.parquet"), schema, columns)

    def _num_examples(self) -> int:
        """Number of examples in the corpus that can be selected."""
        unscorable = self.shortlist.first.propagation.unscorable()
        return self.shortlist.corpus.num_usable() - len(unscorable)

    def _taken(self) -> list[int]:
        """Number of examples of each target in the first order."""
        taken = self.shortlist.taken()
        return [taken.get(target, 0) for target in range(len(self.interactions.vectors.query))]

    def facts(self) -> dict[str, Any]:
        """Reads the facts of the solutions, for the manifest."""
        return read_json(self.artifact)

    @once_per_process
    def solution(self) -> dict[str, np.ndarray]:
        """Reads the examples with a weight, once per process: `key`, ascending, `target` and `weight`."""
        return aligned.read_columns(self.path("selection.parquet"))


@dataclasses.dataclass(frozen=True)
class SecondOrderSelection:
    """The examples with a second-order weight, up to the budget.

    Args:
      solved: The weights.
    """

    solved: SolveSecondOrder

    @property
    def first(self) -> DistilledSelection:
        """The first-order selection, with the influence of every example."""
        return self.solved.shortlist.first

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        influence = self.first.ranking.influence.read(split)
        takers = np.where(rows.usable, self.takers(rows.keys), -1)
        kept = self.first.kept(rows, influence, takers)
        return dataclasses.replace(kept, twins=self.first.twins(split, rows))

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        return self.first.standing(split, rows)

    def of(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """As `RowWeights`."""
        solution = self.solved.solution()
        weights = look_up(solution["key"], solution["weight"], rows.keys, 0.0)
        return np.where(rows.usable, weights, 0.0)

    def takers(self, keys: np.ndarray) -> np.ndarray:
        """Returns the target that takes each example, by key, int64 [n]; -1 for none."""
        solution = self.solved.solution()
        return look_up(solution["key"], solution["target"], keys, -1)
