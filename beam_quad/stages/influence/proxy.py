"""The proxy model of a run, and stages that pass texts through it."""

import abc
import dataclasses

from beam_quad import identity
from beam_quad.artifacts.cache import cached, cached_proxy, proxy_key
from beam_quad.gradients.proxy import Proxy, ProxySpec, TextReader, load_reader, load_skeleton
from beam_quad.gradients.tracked import Block, find_blocks
from beam_quad.scoring.slices import layer_slices
from beam_quad.stages.base import ModelStage


@dataclasses.dataclass(frozen=True)
class ProxyModel:
    """The proxy model.

    Args:
      spec: Path, dtype, device and limits of the model.
      fingerprint: Hash of its content.
    """

    spec: ProxySpec
    fingerprint: str

    @property
    def key(self) -> str:
        """Key of the model in the process-wide cache."""
        return proxy_key(self.spec, self.fingerprint)

    @property
    def device(self) -> str:
        """Its torch device."""
        return self.spec.device

    def load(self) -> Proxy:
        """Loads the model, once per process."""
        return cached_proxy(self.spec)

    def reader(self) -> TextReader:
        """Loads the tokenizer and the windowing without the weights, once per process."""
        return cached(("reader", self.spec), lambda: load_reader(self.spec))


@dataclasses.dataclass(frozen=True)
class TrackedProxy:
    """The proxy model and the layers whose gradients are used.

    Args:
      proxy: The proxy model.
      layers: The layers, as `gradients.tracked.find_blocks` takes them.
    """

    proxy: ProxyModel
    layers: str

    @property
    def key(self) -> str:
        """Digest of the model's content and the layers."""
        return identity.digest(self)

    def blocks(self, proxy: Proxy) -> tuple[Block, ...]:
        """The tracked blocks of the loaded model."""
        return find_blocks(proxy.model, self.layers)

    def slices(self) -> tuple[tuple[Block, ...], ...]:
        """The tracked blocks, in slices that are fitted one at a time; computed from the model's shapes, once per process."""

        def cut() -> tuple[tuple[Block, ...], ...]:
            return layer_slices(find_blocks(load_skeleton(self.proxy.spec), self.layers))

        return cached(("slices", self.proxy.spec, self.layers), cut)


class ProxyStage(ModelStage):
    """A stage that runs texts through the proxy model."""

    @property
    @abc.abstractmethod
    def proxy(self) -> ProxyModel:
        """The model."""

    @property
    def model_key(self) -> str:
        return self.proxy.key

    @property
    def device(self) -> str:
        return self.proxy.device

    def load(self) -> Proxy:
        return self.proxy.load()
