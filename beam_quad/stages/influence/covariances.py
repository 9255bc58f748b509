"""The covariances of the inputs and output gradients of every layer: the first pass of the curvature."""

import abc
import dataclasses
import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal

from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring import CovarianceSum, covariance_sums
from beam_quad.stages.influence.proxy import ProxyModel, ProxyStage, TrackedProxy
from beam_quad.stages.read.texts import NUM_GROUPS, SampleTexts


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Counts of a pass over texts. An additive statistic.

    Attributes:
      examples: Number of texts, each counted once for all slices.
      inputs: Names of the blocks that share an input, by the name of the first module with this input.
    """

    examples: int
    inputs: dict[str, list[str]]

    def __add__(self, other: "Fitted") -> "Fitted":
        # Every group of texts finds the same inputs; each slice adds its own.
        return Fitted(self.examples + other.examples, self.inputs | other.inputs)

    def as_json(self) -> dict[str, Any]:
        """Returns a dictionary for `json.dumps`."""
        return {"examples": self.examples, "inputs": dict(sorted(self.inputs.items()))}


class FitStage(ProxyStage):
    """A pass over the sampled texts that writes sums to files, one per input and group of texts.

    Takes (slice of the tracked layers, group of texts). The sums are too large for elements of a pipeline, so a later
    stage reads and adds the files.
    """

    def fit_work(
        self, sizes: Sizes, documents: int, flops: float, sums: float, stored: float
    ) -> Work:
        """States the work of a pass.

        Args:
          sizes: Sizes of the corpus.
          documents: Number of texts.
          flops: Floating-point operations per token, with those of the sums.
          sums: Those of the sums, which run in float32 whatever the proxy's dtype.
          stored: Stored bytes of a group's sums.
        """
        tokens = documents * sizes.scored_tokens
        return Work(
            "curvature",
            documents,
            flops=(flops - sums) * tokens,
            float32_flops=sums * tokens,
            memory_bytes=sizes.scoring.fit_peak_bytes,
            bytes_stored=NUM_GROUPS * stored,
        )

    @abc.abstractmethod
    def slices(self) -> tuple[tuple[Block, ...], ...]:
        """Returns the tracked blocks, in slices that are fitted one at a time."""

    def pieces(self) -> list[tuple[int, int]]:
        slices = range(len(self.slices()))
        return [(number, group) for number in slices for group in range(NUM_GROUPS)]

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("done"),)

    def paths(self, piece: tuple[int, int]) -> tuple[str, ...]:
        number, group = piece
        return (self.path("done", f"{number:03d}-{group:02d}.json"),)

    def part_path(self, name: str, group: int) -> str:
        """Path of one group's part of the sum for an input of tracked modules."""
        return self.path("sums", f"{name}-{group:02d}.safetensors")

    def parts(self, name: str) -> Iterator[BinaryIO]:
        """Opens the parts of the sum for an input one at a time, in the order of the groups."""
        # A fixed order gives the same bits on every run; one open file bounds the memory.
        for group in range(NUM_GROUPS):
            with files.open_read(self.part_path(name, group)) as file:
                yield file


@dataclasses.dataclass(frozen=True)
class SumCovariances(FitStage):
    """Sums the Kronecker factors over each group of texts, in one file per group and input of tracked modules.

    An input is named by the first module that receives it.

    Args:
      tracked: The proxy model and its tracked layers.
      sample: The texts.
      labels: "sampled" from the model (the true Fisher), or the texts' own ("empirical").
      seed: The run's seed.
    """

    kind = "covariances"
    version = 2
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

    def work(self, sizes: Sizes) -> Work:
        costs = sizes.scoring
        flops = costs.covariance_flops(sizes.window_tokens, self.labels)
        number = self.sample.expected(sizes)
        return self.fit_work(
            sizes, number, flops, costs.covariance_sum_flops, costs.covariance_bytes
        )

    def slices(self) -> tuple[tuple[Block, ...], ...]:
        return self.tracked.slices()

    def do(self, piece: tuple[int, int], model: Proxy) -> Fitted:
        number, group = piece
        ids, texts = self.sample.read_group(group)
        blocks = self.slices()[number]
        sums = covariance_sums(model, blocks, ids, texts, self.seed, self.labels)
        inputs = {name: list(total.gradients) for name, total in sums.items()}
        # Every slice passes over the same texts; only slice 0 counts them.
        fitted = Fitted(len(texts) if number == 0 else 0, inputs)
        # Each sum is freed once it is written, which lowers the peak of memory.
        for name in list(sums):
            with files.writing(self.part_path(name, group)) as file:
                sums.pop(name).save(file)
        # Last, because the piece counts as done once this file is there.
        write_json(self.paths(piece)[0], fitted.as_json())
        return fitted

    def statistic(self, piece: tuple[int, int]) -> Fitted:
        found = read_json(self.paths(piece)[0])
        return Fitted(found["examples"], found["inputs"])

    def finish(self, total: Fitted) -> None:
        if not total.examples:
            raise UsageError(
                "no usable text in the corpus to fit the curvature on; check the texts, and --text_column"
            )
        write_json(self.artifact, total.as_json())

    def inputs(self) -> dict[str, list[str]]:
        """Reads the names of the blocks that share each input, by the input's name."""
        inputs: dict[str, list[str]] = read_json(self.artifact)["inputs"]
        return inputs

    def inputs_of(self, blocks: Sequence[Block]) -> dict[str, tuple[Block, ...]]:
        """Groups the blocks of a slice by their input, in order."""
        input_of = {block: name for name, own in self.inputs().items() for block in own}
        stacks: dict[str, tuple[Block, ...]] = {}
        for block in blocks:
            stacks[input_of[block.name]] = (*stacks.get(input_of[block.name], ()), block)
        return stacks

    def total(self, name: str) -> CovarianceSum:
        """Adds up the covariances of an input."""
        return functools.reduce(operator.add, map(CovarianceSum.load, self.parts(name)))
