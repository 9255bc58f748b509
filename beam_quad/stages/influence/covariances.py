"""The covariances of the inputs and output gradients of every layer: the first pass of the curvature."""

import dataclasses
from typing import Literal

from beam_quad.additive import Tally
from beam_quad.artifacts import files
from beam_quad.artifacts.cache import cached_proxy, proxy_key
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import Proxy, ProxySpec
from beam_quad.gradients.tracked import find_blocks
from beam_quad.scoring import (
    covariance_sums,
)
from beam_quad.stages.base import ModelTask
from beam_quad.stages.read.corpus import read_json, write_json
from beam_quad.stages.read.texts import NUM_GROUPS, read_group


@dataclasses.dataclass(frozen=True)
class Fit:
    """What the curvature is fitted with.

    Args:
      proxy: The proxy model.
      proxy_fingerprint: Content of the proxy model.
      layers: Tracked layers.
      labels: "sampled" from the model (the true Fisher), or the texts' own ("empirical").
      sample_dir: Folder of `SampleTexts`.
      seed: The run's seed.
    """

    proxy: ProxySpec
    proxy_fingerprint: str
    layers: str
    labels: Literal["sampled", "empirical"]
    sample_dir: str
    seed: int


class FitTask(ModelTask):
    """A task that passes examples through the proxy."""

    fit: Fit

    @property
    def model_key(self) -> str:
        return proxy_key(self.fit.proxy, self.fit.proxy_fingerprint)

    @property
    def device(self) -> str:
        return self.fit.proxy.device

    def load(self) -> Proxy:
        return cached_proxy(self.fit.proxy)


@dataclasses.dataclass
class SumCovariances(FitTask):
    """Sums the Kronecker factors over each group of texts; one file per input of tracked modules and group.

    Takes group numbers and gives counts. Too large to be elements, the sums rest in files and are added by reference. An
    input goes by the name of the first module that is given it.

    Args:
      fit: What to fit with.
      folder: Where the sums go.
    """

    fit: Fit
    folder: str

    @property
    def name(self) -> str:
        return "SumCovariances"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "covariances.json")

    def pieces(self) -> range:
        return range(NUM_GROUPS)

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "covariances"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (files.join(self.folder, "covariances", f"group-{piece:02d}.done"),)

    def read(self, piece: int) -> Tally:
        return Tally(read_json(self.paths(piece)[0]))

    def do(self, piece: int, model: Proxy) -> Tally:
        ids, texts = read_group(self.fit.sample_dir, piece)
        blocks = find_blocks(model.model, self.fit.layers)
        sums = covariance_sums(model, blocks, ids, texts, self.fit.seed, self.fit.labels)
        for name, part in sums.items():
            files.write_once(part_path(self.folder, "covariances", name, piece), part.save())
        counts = {f"input/{name}": 1 for name in sums} | {"examples": len(texts)}
        write_json(self.paths(piece)[0], counts)
        return Tally(counts)

    def finish(self, total: Tally) -> None:
        if not total["examples"]:
            raise UsageError(
                "no usable text in the corpus to fit the curvature on; check the texts, and --text_column"
            )
        inputs = sorted(n.removeprefix("input/") for n in total.counts if n.startswith("input/"))
        write_json(self.artifact, {"examples": total["examples"], "inputs": inputs})


def part_path(folder: str, kind: str, name: str, group: int) -> str:
    """Where one group of examples leaves a part of a sum, by the kind of the sum and its name."""
    return files.join(folder, kind, f"{name}-{group:02d}.safetensors")
