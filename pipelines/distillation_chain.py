"""Flags to objects: the chain of Influence Distillation's stages."""

from beam_quad.artifacts import files
from beam_quad.corpus.seen import content_hash
from beam_quad.distillation import NUM_LANDMARKS
from beam_quad.errors import UsageError
from beam_quad.gradients.optimizer import load_adam
from beam_quad.gradients.tracked import find_blocks
from beam_quad.stages.distillation import allocate, interactions, shortlist
from beam_quad.stages.distillation.compare_sketches import CompareSketches
from beam_quad.stages.distillation.distilled import FinishedDistillation
from beam_quad.stages.distillation.draw_landmarks import DrawLandmarks
from beam_quad.stages.distillation.fit_propagation import FitPropagation
from beam_quad.stages.distillation.landmarks import GatherLandmarks
from beam_quad.stages.distillation.propagate import Propagate
from beam_quad.stages.distillation.score_landmarks import ScoreLandmarks
from beam_quad.stages.distillation.second_order import SecondOrderSelection, SolveSecondOrder
from beam_quad.stages.distillation.shortlist import GatherShortlist
from beam_quad.stages.distillation.sketch import Sketching, SketchLandmarks
from beam_quad.stages.influence.query_vectors import FitQueryVectors, halves_path
from beam_quad.stages.influence.score import InfluenceScoring
from beam_quad.stages.write.budget import cut_levels
from beam_quad.stages.write.summary import Summary
from pipelines.builder import Builder, Chain, reserve_rate
from pipelines.distillation_options import DistillationOptions
from pipelines.inputs import Inputs

# Two of four levels bound the targets' cuts closely; see `selection.allocation`.
_BOUND_LEVELS = 2
_POLICIES = {
    1: "influence distillation: propagated from landmarks, targets in turn",
    2: "influence distillation: propagated from landmarks, targets in turn, weights of the second order",
}


def build(options: DistillationOptions, inputs: Inputs) -> Chain:
    """Builds the chain of stages.

    Args:
      options: The flags.
      inputs: What `look` found.

    Returns:
      The chain; nothing is written yet.
    """
    return _DistillationBuilder(options, inputs).build()


class _DistillationBuilder(Builder):
    def __init__(self, options: DistillationOptions, inputs: Inputs) -> None:
        landmarks = 2 * (options.num_landmarks or NUM_LANDMARKS)
        rate = reserve_rate(inputs.corpus, options.reserve_examples, landmarks)
        super().__init__(options, inputs, rate, dict.fromkeys(options.query, 1.0), options.budget)
        self.options = options

    def build(self) -> Chain:
        options = self.options
        self.embed()
        propagation = self._propagation()
        ranking = self._propagate(propagation)
        allocated = self._allocate(ranking)
        # The rounds of the second order go on for longer, and count their steps otherwise.
        rounds = () if options.order == 1 else (allocated.rounds_dir,)
        cut = self.folder("allocation", ranking.folder, options.budget, "cut", *rounds)
        self.tasks += cut_levels(self.corpus, allocated, options.budget, cut, "CutBudget")
        selection = allocate.DistilledSelection(allocated, options.budget, cut)
        second = self._second_order(selection, propagation) if options.order == 2 else None
        identity = self.identity()
        summary = Summary(
            config=identity.config,
            configuration=identity.configuration,
            fingerprints=identity.fingerprints,
            corpus=self.corpus,
            output=self.output,
            budget=options.budget,
            title="Influence Distillation selection",
            policy=_POLICIES[options.order],
            query=self.query,
            query_dir=self.folders["query"],
            texts_dir=self.folders["query"],
            distillation=FinishedDistillation(self.corpus, selection, propagation, second),
        )
        return self.finish(second or selection, summary, weights=second)

    def _propagation(self) -> FitPropagation:
        """Adds the stages up to the regression."""
        options = self.options
        folder = self.folder("landmarks", self.corpus_id, options.num_landmarks, options.seed)
        self.tasks += [
            DrawLandmarks(self.corpus, folder, options.num_landmarks),
            GatherLandmarks(self.corpus, folder),
        ]
        vectors = self.fit_query()
        halves = halves_path(self.folders["query"])
        by_sketches = options.curvature == "identity"
        score = self._compare_sketches if by_sketches else self._score_landmarks
        scores = score(folder, vectors, halves)
        fitted = self.folder("propagation", scores, options.ridge, options.seed)
        task = FitPropagation(
            folder, scores, self.folders["query"], options.ridge, options.seed, fitted
        )
        self.tasks.append(task)
        return task

    def _score_landmarks(self, folder: str, vectors: str, halves: str) -> str:
        """Adds the stage that scores landmarks by passes through the proxy; returns the folder of the scores."""
        options = self.options
        scoring, of_halves = (
            InfluenceScoring(
                self.proxy(), self.inputs.proxy_fingerprint, options.layers, path, normalize=True
            )
            for path in (vectors, halves)
        )
        scores = self.folder("landmark_scores", folder, scoring.key)
        self.tasks.append(ScoreLandmarks(scoring, of_halves, folder, scores))
        return scores

    def _compare_sketches(self, folder: str, vectors: str, halves: str) -> str:
        """Adds the stages that score landmarks by sketches, which another query set finds made."""
        sketching = self._sketching()
        sketches = self.folder("sketches", folder, sketching.key)
        scores = self.folder("landmark_scores", sketches, vectors)
        self.tasks += [
            SketchLandmarks(sketching, folder, sketches),
            CompareSketches(sketching, vectors, halves, folder, sketches, scores),
        ]
        return scores

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
            self.proxy(),
            self.inputs.proxy_fingerprint,
            options.layers,
            options.sketch_dim,
            options.sketch_entries,
            options.seed,
            options.optimizer_state and files.absolute(options.optimizer_state),
            version,
        )

    def _propagate(self, propagation: FitPropagation) -> allocate.Propagated:
        folder = self.folder("propagated", self.corpus_id, propagation.folder)
        self.tasks.append(Propagate(self.corpus, propagation.folder, folder))
        names = tuple(group.name for group in self.query)
        return allocate.Propagated(folder, propagation.folder, names)

    def _allocate(self, ranking: allocate.Propagated) -> allocate.Allocated:
        """Adds the stages in which several targets take turns."""
        if len(ranking.targets) == 1:
            return allocate.Allocated(ranking, None)
        # The second order chooses among more than the budget holds, and never among more than this.
        budget = self.options.budget if self.options.order == 1 else shortlist.SHORTLIST
        # Which examples are too long goes by what is selected in the end.
        what = (ranking.folder, self.budget, budget)
        bounds = self.folder("allocation", *what, "bounds")
        rounds = self.folder("allocation", *what, "rounds")
        self.tasks += cut_levels(
            self.corpus, ranking, budget, bounds, "BoundTargets", _BOUND_LEVELS
        )
        self.tasks.append(
            allocate.PlayRounds(self.corpus, ranking, budget, bounds, _BOUND_LEVELS, rounds)
        )
        return allocate.Allocated(ranking, rounds)

    def _second_order(
        self, first: allocate.DistilledSelection, propagation: FitPropagation
    ) -> SecondOrderSelection:
        """Adds the stages that compute interactions and solve for the weights of a shortlist."""
        options = self.options
        most = shortlist.SHORTLIST.amount
        if options.budget_examples is not None and options.budget_examples > most:
            raise UsageError(
                f"--order=2 solves for at most {most:,} examples; lower --budget_examples, or pass --order=1"
            )
        exact = interactions.InteractionLandmarks(
            propagation.landmarks_dir, propagation.scores_dir, options.interaction_landmarks
        )
        ranking = first.allocated.ranking.folder
        cut = self.folder("allocation", ranking, self.budget, shortlist.SHORTLIST, "cut")
        gathered = GatherShortlist(
            self.corpus, first, exact, cut,
            self.folder("shortlist", ranking, cut, first.cut_dir, exact),
        )  # fmt: skip
        vectors = next(t for t in self.tasks if isinstance(t, FitQueryVectors))
        interact = interactions.InteractLandmarks(
            exact, vectors, options.interaction_texts,
            self.folder("interactions", exact, vectors.folder, options.interaction_texts),
        )  # fmt: skip
        folder = self.folder(
            "second_order", gathered.folder, interact.folder, options.eta, options.shortlist
        )
        self.tasks += [
            *cut_levels(self.corpus, first.allocated, shortlist.SHORTLIST, cut, "CutShortlist"),
            gathered,
            interact,
            SolveSecondOrder(gathered, interact, options.eta, options.shortlist, folder),
        ]
        return SecondOrderSelection(first, folder)
