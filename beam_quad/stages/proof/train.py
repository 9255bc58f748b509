"""The trainings of a proof, one piece of work for each contender and seed."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from beam_quad.additive import Tally
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.gradients.proxy import Proxy, default_context_length
from beam_quad.plan.work import Sizes, Work
from beam_quad.proof import Losses, Recipe, Trial, continue_training, measure
from beam_quad.stages.base import NumberedStage
from beam_quad.stages.influence.proxy import ProxyStage
from beam_quad.stages.proof.draw import DrawStage
from beam_quad.stages.proof.measured import DrawMeasured
from beam_quad.stages.proof.start import Start


class Training(NamedTuple):
    """One training, or the starting model without a training.

    Attributes:
      seed: Decides the starting model, the draw of the training texts, and their order.
      drawn: The draw of the training texts; None for the starting model.
    """

    seed: int
    drawn: DrawStage | None


class PlannedTrainings(NamedTuple):
    """What is trained and measured.

    Attributes:
      trainings: Number of trainings.
      num_passes: Passes of a training over its texts.
      num_tokens: Tokens of all trainings, every pass counted.
      measurements: Number of times that a model is measured.
      measured_tokens: Tokens of all measurements.
      num_parameters: Parameters of the model.
    """

    trainings: int
    num_passes: int
    num_tokens: int
    measurements: int
    measured_tokens: int
    num_parameters: int


@dataclasses.dataclass(frozen=True)
class TrainOn(NumberedStage, ProxyStage):
    """Trains a model on every contender's texts and measures its loss on every measured text.

    Takes numbers of trainings and writes one file of losses for each. The first numbers are the starting models, which
    are measured without a training.

    Args:
      measured: The measured texts, which also list the contenders' draws.
      start: The starting model.
      learning_rate: Peak learning rate of the trainings.
    """

    kind = "proof_trainings"
    artifact_name = "trained.json"
    ending = "json"

    measured: DrawMeasured
    start: Start
    learning_rate: float

    @property
    def root(self) -> str:
        return self.measured.root

    @property
    def proxy(self) -> Start:
        return self.start

    def work(self, sizes: Sizes) -> Work:
        planned = self.planned(sizes)
        parameters = planned.num_parameters
        return Work(
            "train",
            planned.trainings,
            # A forward pass takes 2 operations per parameter and token, a training step 6, in float32 whatever the dtype.
            flops=2.0 * parameters * planned.measured_tokens,
            float32_flops=6.0 * parameters * planned.num_tokens,
            # Parameters, gradients and the two moments of AdamW.
            memory_bytes=4 * 4.0 * parameters,
        )

    def planned(self, sizes: Sizes) -> PlannedTrainings:
        """Estimates what is trained and measured."""
        draws, skeleton = self.measured.drawn[0].draws, self.start.skeleton()
        context_length = default_context_length(skeleton.config, self.start.spec)
        recipe = self.start.recipe(skeleton, draws.num_tokens, context_length, self.learning_rate)
        trainings = len(self.measured.drawn) * draws.num_seeds
        measurements = self._num_models + trainings
        return PlannedTrainings(
            trainings,
            recipe.num_passes,
            trainings * recipe.num_passes * draws.num_tokens,
            measurements,
            measurements * self.measured.expected_tokens(sizes),
            skeleton.num_parameters(),
        )

    def pieces(self) -> range:
        return range(len(self._trainings()))

    def statistic(self, piece: int) -> Tally:
        return Tally({"trainings": 1})

    def do(self, piece: int, model: Proxy) -> Tally:
        seed, drawn = self._trainings()[piece]
        trained = self.start.model_of(seed, model)
        found: dict[str, Any] = {"seed": seed}
        if drawn is not None:
            recipe = self._recipe(trained)
            trained = continue_training(trained, drawn.texts(seed, recipe.num_tokens), recipe)
            found |= {"contender": drawn.contender, "num_steps": recipe.num_steps}
            found |= {"recipe": dataclasses.asdict(recipe)}
        for name, texts in self.measured.texts().items():
            losses = measure(trained, texts)
            found[name] = {"sums": losses.sums.tolist(), "counts": losses.counts.tolist()}
        write_json(self.paths(piece)[0], found)
        return Tally({"trainings": 1})

    def told_recipe(self) -> dict[str, Any]:
        """Reads the recipe, which all contenders share, from the first training."""
        found = read_json(self.paths(self._num_models)[0])
        return found["recipe"] | {"num_steps": found["num_steps"]}

    def _recipe(self, model: Proxy) -> Recipe:
        num_tokens = self.measured.num_tokens()
        return self.start.recipe(model.model, num_tokens, model.context_length, self.learning_rate)

    def predicted(self, name: str) -> np.ndarray:
        """Reads the number of predicted tokens of each text of a set, float64 [num_texts]."""
        # The same for every model, trained or not.
        return self._losses(0, name).counts

    def trial(
        self,
        name: str,
        groups: np.ndarray | None = None,
        weights: tuple[float, ...] | None = None,
    ) -> Trial:
        """Reads the losses of a set of texts before and after every training; see `Trial`."""
        before = [self._losses(number, name) for number in range(self._num_models)]
        after: dict[str, list[Losses]] = {drawn.contender: [] for drawn in self.measured.drawn}
        for number, (_, drawn) in enumerate(self._trainings()):
            if drawn is not None:
                after[drawn.contender].append(self._losses(number, name))
        return Trial(before, after, groups, weights)

    def _losses(self, piece: int, name: str) -> Losses:
        found = read_json(self.paths(piece)[0])[name]
        return Losses(np.array(found["sums"], float), np.array(found["counts"], float))

    @property
    def _num_models(self) -> int:
        return self.start.num_models(self.measured.drawn[0].draws.num_seeds)

    def _trainings(self) -> list[Training]:
        drawn = self.measured.drawn
        seeds = range(drawn[0].draws.num_seeds)
        return [
            *(Training(seed, None) for seed in range(self._num_models)),
            *(Training(seed, one) for seed in seeds for one in drawn),
        ]
