"""The trainings of a proof: one piece of work for each contender and seed."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from beam_quad.additive import Tally
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.gradients.proxy import Proxy
from beam_quad.proof import Losses, Recipe, Trial, continue_training, measure
from beam_quad.stages.base import NumberedStage
from beam_quad.stages.influence.proxy import ProxyModel, ProxyStage
from beam_quad.stages.proof.draw import DrawStage
from beam_quad.stages.proof.measured import DrawMeasured


class Training(NamedTuple):
    """One training.

    Attributes:
      drawn: What is trained on.
      seed: Which draw of it, in which order.
    """

    drawn: DrawStage
    seed: int


@dataclasses.dataclass(frozen=True)
class TrainOn(NumberedStage, ProxyStage):
    """Goes on training the proxy on every contender's texts, and measures the losses of every measured text.

    Takes numbers of trainings, 0 for none at all, and writes one file of losses each.

    Args:
      measured: The texts to measure, which know the contenders.
      model_to_train: The proxy.
      learning_rate: Of the trainings.
    """

    kind = "proof_trainings"
    artifact_name = "trained.json"
    ending = "json"

    measured: DrawMeasured
    model_to_train: ProxyModel
    learning_rate: float

    @property
    def root(self) -> str:
        return self.measured.root

    @property
    def proxy(self) -> ProxyModel:
        return self.model_to_train

    def pieces(self) -> range:
        return range(1 + len(self._trainings()))

    def statistic(self, piece: int) -> Tally:
        return Tally({"trainings": 1})

    def do(self, piece: int, model: Proxy) -> Tally:
        trained = model
        found: dict[str, Any] = {}
        if piece:
            drawn, seed = self._trainings()[piece - 1]
            recipe = self.recipe(model.context_length)
            trained = continue_training(model, drawn.texts(seed, recipe.num_tokens), recipe)
            found |= {"contender": drawn.contender, "seed": seed}
            found |= {"recipe": dataclasses.asdict(recipe), "num_steps": recipe.num_steps}
        for name, texts in self.measured.texts().items():
            losses = measure(trained, texts)
            found[name] = {"sums": losses.sums.tolist(), "counts": losses.counts.tolist()}
        write_json(self.paths(piece)[0], found)
        return Tally({"trainings": 1})

    def recipe(self, context_length: int) -> Recipe:
        """How every contender trains."""
        return Recipe.of(self.measured.num_tokens(), context_length, self.learning_rate)

    def predicted(self, name: str) -> np.ndarray:
        """Reads how many tokens of each text of a set are predicted, float64 [num_texts]."""
        return self._losses(0, name).counts

    def trial(
        self,
        name: str,
        groups: np.ndarray | None = None,
        weights: tuple[float, ...] | None = None,
    ) -> Trial:
        """Reads what the trainings did to the loss of a set of texts; see `Trial`."""
        before = [self._losses(0, name)]
        after: dict[str, list[Losses]] = {drawn.contender: [] for drawn in self.measured.drawn}
        for number, training in enumerate(self._trainings(), 1):
            after[training.drawn.contender].append(self._losses(number, name))
        return Trial(before, after, groups, weights)

    def _losses(self, piece: int, name: str) -> Losses:
        found = read_json(self.paths(piece)[0])[name]
        return Losses(np.array(found["sums"], float), np.array(found["counts"], float))

    def _trainings(self) -> list[Training]:
        drawn = self.measured.drawn
        return [Training(one, seed) for seed in range(drawn[0].draws.num_seeds) for one in drawn]
