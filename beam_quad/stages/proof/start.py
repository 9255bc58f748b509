"""What the trainings of a proof start from: a trained model, or a configuration from which each seed draws a model."""

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
    """A model from which every contender's trainings start alike."""

    @property
    @abc.abstractmethod
    def is_from_scratch(self) -> bool:
        """Whether it knows nothing."""

    @abc.abstractmethod
    def num_models(self, num_seeds: int) -> int:
        """How many models the trainings of so many seeds start from."""

    @abc.abstractmethod
    def model_of(self, seed: int, loaded: Proxy) -> Proxy:
        """The model that a seed starts from; `loaded` is that of seed 0."""

    @abc.abstractmethod
    def skeleton(self) -> Any:
        """Makes the model without weights, on torch's `meta` device."""

    @abc.abstractmethod
    def load_tokenizer(self) -> Any:
        """Loads its tokenizer."""

    def tokenizer(self) -> Any:
        """Its tokenizer, loaded once per process."""
        return cached(("tokenizer", self.key), self.load_tokenizer)

    def recipe(
        self, model: Any, num_tokens: int, context_length: int, learning_rate: float
    ) -> Recipe:
        """How it is trained.

        Args:
          model: Its model, on any device, `meta` too.
          num_tokens: Tokens of a contender.
          context_length: Tokens of its windows.
          learning_rate: The peak.
        """
        if not self.is_from_scratch:
            return Recipe.of(num_tokens, context_length, learning_rate)
        num_parameters = model.num_parameters()
        return Recipe.from_scratch(num_tokens, context_length, learning_rate, num_parameters)

    def learning_rate(self) -> float:
        """The peak of the learning rate, if none is asked for."""
        if not self.is_from_scratch:
            return default_learning_rate(None)
        return default_learning_rate(self.skeleton().num_parameters(exclude_embeddings=True))


@dataclasses.dataclass(frozen=True)
class TrainedModel(Start):
    """A model that goes on training."""

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
    """A configuration without weights: each seed draws a model, from which all contenders start.

    Args:
      tokenizer_path: Where its tokenizer is stored: beside it, or that of the selection's proxy.
      tokenizer_revision: Of a hub id.
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
