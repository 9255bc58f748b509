"""The covariances of the inputs and output gradients of every layer: the first pass of the curvature."""

import dataclasses
import functools
import operator
from collections.abc import Iterator
from typing import Any, Literal

from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import Proxy
from beam_quad.scoring import CovarianceSum, covariance_sums
from beam_quad.stages.influence.proxy import ProxyModel, ProxyStage, TrackedProxy
from beam_quad.stages.read.texts import NUM_GROUPS, SampleTexts


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a pass over texts met. An additive statistic.

    Attributes:
      examples: How many texts.
      inputs: Names of the inputs of tracked modules, each by the first module that is given it.
    """

    examples: int
    inputs: frozenset[str]

    def __add__(self, other: "Fitted") -> "Fitted":
        return Fitted(self.examples + other.examples, self.inputs | other.inputs)

    def as_json(self) -> dict[str, Any]:
        """Turns it into what `json.dumps` takes."""
        return {"examples": self.examples, "inputs": sorted(self.inputs)}


class FitStage(ProxyStage):
    """A pass over the sampled texts that leaves sums in files, one a group of texts and kind of sum.

    Too large to be elements, the sums are added by reference.
    """

    def pieces(self) -> range:
        return range(NUM_GROUPS)

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("groups"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (self.group_path(piece, "done"),)

    def part_path(self, name: str, group: int) -> str:
        """Where a group of texts leaves its part of the sum for an input of tracked modules."""
        return self.path("sums", f"{name}-{group:02d}.safetensors")

    def parts(self, name: str) -> Iterator[bytes]:
        """Reads the parts of the sum for an input, in the order of the groups."""
        return (files.read_bytes(self.part_path(name, group)) for group in range(NUM_GROUPS))


@dataclasses.dataclass(frozen=True)
class SumCovariances(FitStage):
    """Sums the Kronecker factors over each group of texts; one file per input of tracked modules and group.

    Takes group numbers and gives counts. An input goes by the name of the first module that is given it.

    Args:
      tracked: The proxy model and its tracked layers.
      sample: The texts.
      labels: "sampled" from the model (the true Fisher), or the texts' own ("empirical").
      seed: The run's seed.
    """

    kind = "covariances"
    artifact_name = "covariances.json"

    tracked: TrackedProxy
    sample: SampleTexts
    labels: Literal["sampled", "empirical"]
    seed: int

    @property
    def root(self) -> str:
        return self.sample.root

    @property
    def proxy(self) -> ProxyModel:
        return self.tracked.proxy

    def do(self, piece: int, model: Proxy) -> Fitted:
        ids, texts = self.sample.read_group(piece)
        blocks = self.tracked.blocks(model)
        sums = covariance_sums(model, blocks, ids, texts, self.seed, self.labels)
        for name, part in sums.items():
            files.write_once(self.part_path(name, piece), part.save())
        fitted = Fitted(len(texts), frozenset(sums))
        write_json(self.paths(piece)[0], fitted.as_json())
        return fitted

    def statistic(self, piece: int) -> Fitted:
        found = read_json(self.paths(piece)[0])
        return Fitted(found["examples"], frozenset(found["inputs"]))

    def finish(self, total: Fitted) -> None:
        if not total.examples:
            raise UsageError(
                "no usable text in the corpus to fit the curvature on; check the texts, and --text_column"
            )
        write_json(self.artifact, total.as_json())

    def inputs(self) -> list[str]:
        """Reads the names of the inputs whose covariances were summed."""
        return list(read_json(self.artifact)["inputs"])

    def total(self, name: str) -> CovarianceSum:
        """Adds up the covariances of an input."""
        return functools.reduce(operator.add, map(CovarianceSum.load, self.parts(name)))
