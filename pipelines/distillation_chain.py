"""Builds the chain of Influence Distillation's stages from flags."""

import dataclasses

from beam_quad.artifacts import files
from beam_quad.corpus.seen import content_hash
from beam_quad.distillation import NUM_LANDMARKS
from beam_quad.errors import UsageError
from beam_quad.gradients.optimizer import load_adam
from beam_quad.gradients.tracked import find_blocks
from beam_quad.records import Budget
from beam_quad.selection import EVERYTHING
from beam_quad.selection.near_duplicates import COMPARED_BUDGETS
from beam_quad.selection.shares import Bound, conditions_of
from beam_quad.stages.distillation import allocate, shortlist
from beam_quad.stages.distillation.compare_sketches import CompareSketches
from beam_quad.stages.distillation.distilled import FinishedDistillation
from beam_quad.stages.distillation.draw_landmarks import DrawLandmarks
from beam_quad.stages.distillation.fit_propagation import FitPropagation
from beam_quad.stages.distillation.interactions import InteractionLandmarks, InteractLandmarks
from beam_quad.stages.distillation.landmark_scores import LandmarkScores
from beam_quad.stages.distillation.landmarks import GatherLandmarks
from beam_quad.stages.distillation.propagate import Propagate
from beam_quad.stages.distillation.score_landmarks import ScoreLandmarks
from beam_quad.stages.distillation.second_order import SecondOrderSelection, SolveSecondOrder
from beam_quad.stages.distillation.shortlist import GatherShortlist
from beam_quad.stages.distillation.sketch import Sketching, SketchLandmarks
from beam_quad.stages.influence.score import InfluenceScoring
from beam_quad.stages.read.patterns import ReadPatterns
from beam_quad.stages.write.budget import Cut
from beam_quad.stages.write.shares import CutGroups, GroupKeys
from pipelines.builder import Builder, Chain
from pipelines.distillation_options import DistillationOptions
from pipelines.inputs import Inputs
from pipelines.reserve import reserve_rate

_POLICIES = {
    1: "influence distillation: propagated from landmarks, targets in turn",
    2: "influence distillation: propagated from landmarks, targets in turn, weights of the second order",
}


def build(options: DistillationOptions, inputs: Inputs) -> Chain:
    """Builds the chain of stages.

    Args:
      options: The flags.
      inputs: The inputs found by `look`.

    Returns:
      The chain; nothing is written yet.
    """
    return _DistillationBuilder(options, inputs).build()


class _DistillationBuilder(Builder):
    def __init__(self, options: DistillationOptions, inputs: Inputs) -> None:
        # Twice as many, because some texts of the reserve turn out to be unusable or duplicates.
        landmarks = 2 * (options.num_landmarks or NUM_LANDMARKS)
        rate = reserve_rate(inputs.corpus, options.reserve_examples, landmarks)
        super().__init__(options, inputs, rate, options.budget)
        self.options = options

    def build(self) -> Chain:
        options = self.options
        self.embed()
        propagation = self._propagation()
        influence = self.add(Propagate(self.corpus, propagation))
        targets = tuple(group.name for group in self.query)
        ranking = allocate.Propagated(self.within_budget, influence, targets, groups=self.groups)
        allocated = self._allocate(ranking)
        cut = self.end(allocated, options.budget, "CutBudget", self.groups)
        shares = cut if isinstance(cut, CutGroups) else None
        # Within shares, the groups of the landmarks decide which of them would be taken.
        landmarks = None
        if shares is not None:
            landmarks = self.add(GroupKeys(self.within_budget, shares, propagation))
        selection = allocate.DistilledSelection(allocated, cut, landmarks)
        second = self._second_order(selection, propagation) if options.order == 2 else None
        summary = self.summary(
            title="Influence Distillation selection",
            policy=_POLICIES[options.order],
            query=self.query,
            vectors=propagation.query,
            texts=propagation.query,
            distillation=FinishedDistillation(self.within_budget, selection, second),
            shares=shares,
        )
        return self.finish(second or selection, summary, weights=second, influence=influence)

    def _propagation(self) -> FitPropagation:
        """Adds the stages up to the regression."""
        options = self.options
        drawn = self.add(DrawLandmarks(self.fitted, options.num_landmarks, *self._asked()))
        landmarks = self.add(GatherLandmarks(self.fitted, drawn))
        vectors = self.fit_query()
        if options.curvature == "identity":
            # Sketches do not depend on the query set, so another query set reuses them.
            sketches = self.add(SketchLandmarks(landmarks, self._sketching()))
            scores: LandmarkScores = self.add(CompareSketches(landmarks, sketches, vectors))
        else:
            scoring, halves = (
                InfluenceScoring(self.tracked(), file, normalize=True)
                for file in (vectors.vectors, vectors.halves)
            )
            scores = self.add(ScoreLandmarks(landmarks, scoring, halves))
        return self.add(FitPropagation(scores, vectors, options.ridge, options.seed))

    def _asked(self) -> tuple[ReadPatterns | None, tuple[Bound, ...]]:
        """The shares for which landmarks are drawn, and which rows meet them."""
        bounds = self.fitted_bounds
        if not bounds:
            return None, ()
        return ReadPatterns(self.fitted, conditions_of(bounds)), bounds

    def _sketching(self) -> Sketching:
        options = self.options
        version = ""
        if options.optimizer_state is not None:
            if files.stat(options.optimizer_state) is None:
                raise UsageError(
                    f"--optimizer_state={options.optimizer_state} is not there; write it with "
                    "beam_quad.gradients.optimizer.export_optimizer_state"
                )
            model = self.inputs.skeleton
            with files.local_copy(options.optimizer_state) as path:
                load_adam(path, model, find_blocks(model, options.layers))
                version = self.files["optimizer_state"] = content_hash(path)
        return Sketching(
            self.tracked(),
            options.sketch_dim,
            options.sketch_entries,
            options.seed,
            options.optimizer_state and files.absolute(options.optimizer_state),
            version,
        )

    def _allocate(self, ranking: allocate.Propagated) -> allocate.Allocated:
        """Lets several targets take turns on the examples without near-duplicates."""
        # The second order chooses from a shortlist larger than the budget, and never from more examples.
        budget = self.options.budget if self.options.order == 1 else shortlist.SHORTLIST
        compared = dataclasses.replace(budget, amount=COMPARED_BUDGETS * budget.amount)
        if self.groups is not None:
            # A share may need any example.
            budget = compared = dataclasses.replace(budget, amount=EVERYTHING)
        if self.signs is None:
            return self._held_first(self._take_turns(ranking, ranking, budget))
        # The first turns decide which of several near-duplicates stays; only then is each target's part known.
        num_targets, whole = len(ranking.targets), self.options.budget
        taken = self._take_turns(ranking, ranking, compared, "Compared")
        taken = self._held_first(taken, "Compared")
        found = self.find_near_duplicates(taken, whole, taken.held, num_targets=num_targets)
        if num_targets > 1:
            distinct = dataclasses.replace(ranking, near_duplicates=found)
            taken = self._held_first(self._take_turns(ranking, distinct, budget))
        return dataclasses.replace(taken, near_duplicates=found)

    def _take_turns(
        self,
        ranking: allocate.Propagated,
        among: allocate.Propagated,
        budget: Budget,
        label: str = "",
    ) -> allocate.Allocated:
        """Lets targets take turns among some examples, if there are several targets.

        Args:
          ranking: All examples, ranked for each target.
          among: The examples to share out.
          budget: How much to share out.
          label: Added to the stages' names.
        """
        if len(ranking.targets) == 1:
            return allocate.Allocated(ranking, None)
        bounds = Cut(self.within_budget, among, budget)
        self.stages += bounds.stages(f"BoundTargets{label}", allocate.BOUND_LEVELS)
        weights = tuple(group.weight for group in self.query)
        unit, name = self.options.budget.unit, f"TakeTurns{label}"
        turns = allocate.TakeTurns(self.within_budget, among, bounds, unit, weights, name)
        return allocate.Allocated(ranking, self.add(turns))

    def _held_first(self, allocated: allocate.Allocated, label: str = "") -> allocate.Allocated:
        return dataclasses.replace(allocated, held=self.prefer(self.held, allocated, label))

    def _second_order(
        self, first: allocate.DistilledSelection, propagation: FitPropagation
    ) -> SecondOrderSelection:
        """Computes interactions and solves for the weights of a shortlist."""
        options = self.options
        if (
            options.budget_examples is not None
            and options.budget_examples > shortlist.SHORTLIST.amount
        ):
            raise UsageError(
                f"--order=2 solves for at most {shortlist.SHORTLIST.amount:,} examples; lower --budget_examples, or pass --order=1"
            )
        cut = Cut(self.within_budget, first.allocated, shortlist.SHORTLIST)
        self.stages += cut.stages("CutShortlist")
        exact = InteractionLandmarks(propagation.scores, options.interaction_landmarks)
        gathered = self.add(GatherShortlist(self.within_budget, first, exact, cut))
        interact = self.add(InteractLandmarks(exact, propagation.query, options.interaction_texts))
        solve = SolveSecondOrder(gathered, interact, options.eta, options.shortlist)
        return SecondOrderSelection(self.add(solve))
