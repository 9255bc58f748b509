"""The start of a proof's trainings: a trained model, or a configuration and a random model for each seed."""

import abc
import dataclasses
from typing import Annotated, Any

from beam_quad import identity
from beam_quad.artifacts.cache import cached
from beam_quad.gradients import untrained
from beam_quad.gradients.checkpoints import PROXY
from beam_quad.gradients.proxy import Proxy, load_skeleton, load_tokenizer
from beam_quad.proof import Recipe, default_learning_rate
from beam_quad.stages.influence.proxy import ProxyModel


@dataclasses.dataclass(frozen=True)
class Start(ProxyModel):
    """The starting point of every contender's trainings."""

    @property
    @abc.abstractmethod
    def is_from_scratch(self) -> bool:
        """Whether the model is untrained."""

    @abc.abstractmethod
    def num_models(self, num_seeds: int) -> int:
        """Returns the number of starting models for `num_seeds` seeds."""

    @abc.abstractmethod
    def model_of(self, seed: int, loaded: Proxy) -> Proxy:
        """Returns the starting model of a seed; `loaded` is that of seed 0."""

    @abc.abstractmethod
    def skeleton(self) -> Any:
        """Makes the model without weights, on torch's `meta` device."""

    @abc.abstractmethod
    def load_tokenizer(self) -> Any:
        """Loads the tokenizer."""

    def tokenizer(self) -> Any:
        """Returns the tokenizer, loaded once per process."""
        return cached(("tokenizer", self.key), self.load_tokenizer)

    def recipe(
        self, model: Any, num_tokens: int, context_length: int, learning_rate: float
    ) -> Recipe:
        """Returns the recipe of a training.

        Args:
          model: The model, on any device including `meta`.
          num_tokens: Tokens of the training.
          context_length: Tokens of a window.
          learning_rate: Peak learning rate.
        """
        if not self.is_from_scratch:
            return Recipe.of(num_tokens, context_length, learning_rate)
        num_parameters = model.num_parameters()
        return Recipe.from_scratch(num_tokens, context_length, learning_rate, num_parameters)

    def learning_rate(self) -> float:
        """Returns the default peak learning rate."""
        if not self.is_from_scratch:
            return default_learning_rate(None)
        return default_learning_rate(self.skeleton().num_parameters(exclude_embeddings=True))


@dataclasses.dataclass(frozen=True)
class TrainedModel(Start):
    """A trained model, which every contender continues to train."""

    @property
    def is_from_scratch(self) -> bool:
        return False

    def num_models(self, num_seeds: int) -> int:
        return 1

    def model_of(self, seed: int, loaded: Proxy) -> Proxy:
        return loaded

    def skeleton(self) -> Any:
        return load_skeleton(self.spec)

    def load_tokenizer(self) -> Any:
        return load_tokenizer(self.spec.path, self.spec.revision)


@dataclasses.dataclass(frozen=True)
class Configuration(Start):
    """A configuration without weights. Each seed draws a model, and all contenders start from it.

    Args:
      tokenizer_path: Path of the tokenizer: the configuration's own or that of the selection's proxy.
      tokenizer_revision: Revision of a hub id.
    """

    tokenizer_path: Annotated[str, identity.NotCounted("the fingerprint tells its content")]
    tokenizer_revision: Annotated[str | None, identity.NotCounted("as the path")] = None

    @property
    def is_from_scratch(self) -> bool:
        return True

    def load(self) -> Proxy:
        """Draws the model of seed 0."""
        return self._draw(0)

    def num_models(self, num_seeds: int) -> int:
        return num_seeds

    def model_of(self, seed: int, loaded: Proxy) -> Proxy:
        return loaded if seed == 0 else self._draw(seed)

    def skeleton(self) -> Any:
        return untrained.load_empty_model(self.spec)

    def load_tokenizer(self) -> Any:
        is_own = self.tokenizer_path == self.spec.path
        role = untrained.CONFIGURATION if is_own else PROXY
        tokenizer = load_tokenizer(self.tokenizer_path, self.tokenizer_revision, role)
        untrained.require_vocabulary(self.spec, tokenizer, is_own)
        return tokenizer

    def _draw(self, seed: int) -> Proxy:
        return untrained.load_untrained(self.spec, self.tokenizer(), seed)
