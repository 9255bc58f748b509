"""Flags to objects: the chain of Influence Distillation's stages."""

from beam_quad.distillation import NUM_LANDMARKS
from beam_quad.errors import UsageError
from beam_quad.io import files
from beam_quad.transforms import allocate, curvature, landmarks, propagate
from beam_quad.transforms.budget import cut_levels
from beam_quad.transforms.distilled import FinishedDistillation
from beam_quad.transforms.summary import Summary
from pipelines.builder import Builder, Chain, power_of_half
from pipelines.distillation_options import DistillationOptions
from pipelines.inputs import Inputs

# Two of four levels bound the targets' cuts closely; see `distillation.allocation`.
_BOUND_LEVELS = 2


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
        wanted = max(options.reserve_examples, 2 * (options.num_landmarks or NUM_LANDMARKS))
        rate = power_of_half(wanted, inputs.corpus)
        super().__init__(options, inputs, rate, dict.fromkeys(options.query, 1.0))
        self.options = options

    def build(self) -> Chain:
        options = self.options
        self.embed()
        propagation = self._propagation()
        ranking = self._propagate(propagation)
        allocated = self._allocate(ranking)
        cut = self.folder("allocation", ranking.folder, options.budget, "cut")
        self.tasks += cut_levels(self.corpus, allocated, options.budget, cut, "CutBudget")
        selection = allocate.DistilledSelection(allocated, options.budget, cut, propagation.folder)
        summary = Summary(
            config=self.config(),
            configuration=self.fingerprint(),
            fingerprints=self.fingerprints(),
            corpus=self.corpus,
            output=self.output,
            budget=options.budget,
            title="Influence Distillation selection",
            policy="influence distillation: propagated from landmarks, targets in turn",
            query=self.query,
            query_dir=self.folders["query"],
            distillation=FinishedDistillation(self.corpus, selection, propagation),
        )
        return self.finish(selection, options.budget, summary)

    def _propagation(self) -> propagate.FitPropagation:
        """Adds the stages up to the regression."""
        options = self.options
        folder = self.folder("landmarks", self.corpus_id, options.num_landmarks, options.seed)
        sketching = self._sketching()
        sketches = self.folder("sketches", folder, sketching.key)
        self.tasks += [
            landmarks.DrawLandmarks(self.corpus, folder, options.num_landmarks),
            landmarks.GatherLandmarks(self.corpus, folder),
            landmarks.SketchLandmarks(sketching, folder, sketches),
        ]
        vectors = self.fit_query()
        fitted = self.folder("propagation", sketches, vectors, options.ridge)
        halves = curvature.halves_path(self.folders["query"])
        task = propagate.FitPropagation(
            sketching, folder, sketches, vectors, halves, options.ridge, fitted
        )
        self.tasks.append(task)
        return task

    def _sketching(self) -> landmarks.Sketching:
        options = self.options
        version = ""
        if options.optimizer_state is not None:
            found = files.stat(options.optimizer_state)
            if found is None:
                raise UsageError(
                    f"--optimizer_state={options.optimizer_state} is not there; write it with "
                    "beam_quad.gradients.optimizer.export_optimizer_state"
                )
            version = found.version
        return landmarks.Sketching(
            self.proxy(),
            self.inputs.proxy_fingerprint,
            options.layers,
            options.sketch_dim,
            options.sketch_entries,
            options.seed,
            options.optimizer_state and files.absolute(options.optimizer_state),
            version,
        )

    def _propagate(self, propagation: propagate.FitPropagation) -> allocate.Propagated:
        folder = self.folder("propagated", self.corpus_id, propagation.folder)
        self.tasks.append(propagate.Propagate(self.corpus, propagation.folder, folder))
        return allocate.Propagated(folder, tuple(group.name for group in self.query))

    def _allocate(self, ranking: allocate.Propagated) -> allocate.Allocated:
        """Adds the stages in which several targets take turns."""
        if len(ranking.targets) == 1:
            return allocate.Allocated(ranking, None)
        budget = self.options.budget
        bounds = self.folder("allocation", ranking.folder, budget, "bounds")
        rounds = self.folder("allocation", ranking.folder, budget, "rounds")
        self.tasks += cut_levels(
            self.corpus, ranking, budget, bounds, "BoundTargets", _BOUND_LEVELS
        )
        self.tasks.append(
            allocate.PlayRounds(self.corpus, ranking, budget, bounds, _BOUND_LEVELS, rounds)
        )
        return allocate.Allocated(ranking, rounds)
