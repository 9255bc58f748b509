"""The gradient of each query group, and its query vector: the gradient preconditioned by the curvature."""

import contextlib
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from beam_quad.additive import ByName, Tally, add_fields
from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.gradients.windows import tokenize
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring import Curvature, GradientSum, query_gradient
from beam_quad.scoring.halves import HALVES, deal_halves, half_shares
from beam_quad.scoring.query import NUM_PARTS
from beam_quad.scoring.tensors import TensorReader
from beam_quad.scoring.vectors import (
    Vectors,
    VectorWriter,
    combine_vectors,
    join_slices,
    load_vectors,
)
from beam_quad.stages.base import Stage
from beam_quad.stages.influence.eigenvalues import AddEigenvalues, Eigendecompose, set_threads
from beam_quad.stages.influence.proxy import ProxyModel, ProxyStage, TrackedProxy
from beam_quad.stages.read.query import Query, parts_of

_Gradient = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class GroupCounts:
    """Counts of the texts of a query group. An additive statistic.

    Attributes:
      by_half: Number of usable texts by half.
      tokens: Tokens of the group's texts.
      unused: Number of unusable texts by reason.
    """

    by_half: Tally
    tokens: int
    unused: Tally

    def __add__(self, other: "GroupCounts") -> "GroupCounts":
        return add_fields(self, other)

    @property
    def documents(self) -> int:
        """Number of usable texts."""
        return sum(self.by_half.counts.values())

    def as_json(self) -> dict[str, Any]:
        """Returns a dictionary for `json.dumps`."""
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "unused": {reason: n for reason, n in sorted(self.unused.counts.items()) if n},
            "by_half": self.by_half.counts,
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "GroupCounts":
        """Restores counts from the result of `as_json`."""
        return cls(Tally(found["by_half"]), found["tokens"], Tally(found["unused"]))


@dataclasses.dataclass(frozen=True)
class SumQueryGradients(ProxyStage):
    """Sums the gradients of the query groups over parts of their files, one slice of the layers at a time.

    Takes (group number, part of its files, slice) and returns counts. The gradients are stored in files, one for each
    half of the texts. Scores under the two halves show how much they depend on the choice of query texts.

    Args:
      tracked: The proxy model and its tracked layers.
      query: The query set.
    """

    kind = "query_gradients"
    artifact_name = "gradients.json"

    tracked: TrackedProxy
    query: tuple[Query, ...]

    @property
    def root(self) -> str:
        return self.query[0].root

    @property
    def proxy(self) -> ProxyModel:
        return self.tracked.proxy

    def work(self, sizes: Sizes) -> Work:
        costs, tokens = sizes.scoring, sizes.query_tokens
        sums = costs.gradient_sum_flops
        parts = sum(min(NUM_PARTS, group.splits) for group in sizes.query)
        return Work(
            "curvature",
            flops=(costs.query_flops(sizes.window_tokens) - sums) * tokens,
            # Sums run in float32 whatever the proxy's dtype.
            float32_flops=sums * tokens,
            memory_bytes=costs.fit_peak_bytes,
            bytes_stored=float(len(HALVES) * parts * costs.vector_bytes),
        )

    def pieces(self) -> list[tuple[int, int, int]]:
        slices = range(len(self.tracked.slices()))
        parts = parts_of(self.query, NUM_PARTS)
        return [(group, part, number) for number in slices for group, part in parts]

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("parts"),)

    def paths(self, piece: tuple[int, int, int]) -> tuple[str, ...]:
        group, part, number = piece
        stem = self.path("parts", f"{group:03d}-{part:02d}-{number:03d}")
        return (f"{stem}.json", *(f"{stem}-{half}.safetensors" for half in HALVES))

    def statistic(self, piece: tuple[int, int, int]) -> ByName[GroupCounts]:
        group, _, number = piece
        if number > 0:  # Every slice reads the same texts; only slice 0 counts them.
            return ByName()
        counts = GroupCounts.from_json(read_json(self.paths(piece)[0]))
        return ByName({self.query[group].name: counts})

    def do(self, piece: tuple[int, int, int], model: Proxy) -> ByName[GroupCounts]:
        group, part, number = piece
        found = self.query[group].read(part, NUM_PARTS)
        texts, blocks = found.texts, self.tracked.slices()[number]
        by_half: dict[str, int] = {}
        for half, own in enumerate(deal_halves(texts, part)):
            gradients = query_gradient(model, blocks, own)
            with files.writing(self.paths(piece)[1 + half]) as file:
                gradients.save(file)
            by_half[str(half)] = gradients.num_examples
        tokens = sum(len(ids) for ids in tokenize(model.tokenizer, texts))
        # Texts without a loss are counted as unused, as such rows of the corpus are.
        unused = found.unused + Tally(model.without_loss(texts))
        counts = GroupCounts(Tally(by_half), tokens, unused)
        write_json(self.paths(piece)[0], counts.as_json())
        return self.statistic(piece)

    def finish(self, total: ByName[GroupCounts]) -> None:
        for name, counts in total.named.items():
            if not counts.documents:
                raise UsageError(
                    f"no text of query group {name!r} can be used; pass other query files"
                )
        write_json(self.artifact, {name: own.as_json() for name, own in total.named.items()})

    def counts(self) -> dict[str, GroupCounts]:
        """Reads the counts of each group, in order."""
        found = read_json(self.artifact)
        return {group.name: GroupCounts.from_json(found[group.name]) for group in self.query}

    @contextlib.contextmanager
    def opened(self, number: int) -> Iterator["SliceGradients"]:
        """Opens the gradient files of a slice."""
        with contextlib.ExitStack() as stack:
            readers: dict[str, list[TensorReader]] = {}
            for group, part in parts_of(self.query, NUM_PARTS):
                for half in HALVES:
                    file = files.open_read(self.paths((group, part, number))[1 + half])
                    own = readers.setdefault(half_name(self.query[group].name, half), [])
                    own.append(TensorReader(stack.enter_context(file)))
            yield SliceGradients(readers)


@dataclasses.dataclass(frozen=True)
class SliceGradients:
    """The gradients of a slice of the layers, in open files.

    Args:
      readers: Open files of the parts, by name of the half.
    """

    readers: Mapping[str, Sequence[TensorReader]]

    def mean(self, half: str, blocks: Sequence[Block]) -> dict[str, torch.Tensor]:
        """Returns the mean gradient of a nonempty half, by block, from its parts."""
        names = [block.name for block in blocks]

        def read(reader: TensorReader) -> GradientSum:
            return GradientSum.load(reader, names)

        parts = files.in_parallel(read, self.readers[half])
        return functools.reduce(operator.add, parts).mean()


@dataclasses.dataclass(frozen=True)
class FitQueryVectors(Stage):
    """Preconditions the mean gradients of each query group and of its halves to query vectors.

    Takes slices of the tracked layers and writes files of vectors for each. The curvature of an input is read once for
    all groups. Memory holds the curvature of one input at a time, with the gradients of one group.

    Args:
      gradients: The query gradients.
      curvature: EK-FAC's curvature (`AddEigenvalues`), K-FAC's (`Eigendecompose`), or None for the identity.
      damping_ratio: Damping over the mean eigenvalue of each block; None with the identity.
    """

    kind = "query"
    version = 6
    artifact_name = "query.json"

    gradients: SumQueryGradients
    curvature: AddEigenvalues | Eigendecompose | None
    damping_ratio: float | None

    @property
    def root(self) -> str:
        return self.gradients.root

    @property
    def tracked(self) -> TrackedProxy:
        """The proxy model and its tracked layers."""
        return self.gradients.tracked

    @property
    def proxy(self) -> ProxyModel:
        """The proxy model."""
        return self.tracked.proxy

    @property
    def query(self) -> tuple[Query, ...]:
        """The query set."""
        return self.gradients.query

    def work(self, sizes: Sizes) -> Work:
        costs = sizes.scoring
        # The vector of each group, and those of its halves.
        stored = float((1 + len(HALVES)) * len(sizes.query) * costs.vector_bytes)
        return Work("curvature", memory_bytes=costs.fit_peak_bytes, bytes_stored=stored)

    def pieces(self) -> range:
        return range(len(self.tracked.slices()))

    def prefixes(self) -> tuple[str, ...]:
        return (self.folder,)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (
            self.vectors.path(piece),
            self.halves.path(piece),
            self.path("norms", f"{piece:03d}.json"),
        )

    def statistic(self, piece: int) -> ByName[ByName[float]]:
        """Reads the squared norms of the query vectors, by group and block."""
        squares = read_json(self.paths(piece)[2])
        return ByName({group: ByName(by_block) for group, by_block in squares.items()})

    def do(self, piece: int, model: Any) -> ByName[ByName[float]]:
        # No model is loaded here, which would set the number of threads.
        set_threads(self.proxy.spec.num_threads)
        stacks, shares = self._stacks(piece), self._shares()
        halves = [half for own in shares.values() for half in own]
        squares: dict[str, dict[str, float]] = {group: {} for group in shares}
        whole_path, halves_path, squares_path = self.paths(piece)
        with (
            self.gradients.opened(piece) as gradients,
            files.writing(whole_path) as whole_file,
            files.writing(halves_path) as halves_file,
        ):
            whole_writer = VectorWriter(whole_file, list(shares), stacks.values())
            halves_writer = VectorWriter(halves_file, halves, stacks.values())
            for name, blocks in stacks.items():
                precondition = self._preconditioner(name)
                for group, own in shares.items():
                    vectors = {half: precondition(gradients.mean(half, blocks)) for half in own}
                    for half, vector in vectors.items():
                        halves_writer.write(half, vector)
                    # Preconditioning is linear, so the vector of the whole group is a weighted sum of those of its
                    # halves.
                    whole = combine_vectors(vectors, own)
                    whole_writer.write(group, whole)
                    squares[group] |= {
                        b: float(v.double().square().sum()) for b, v in whole.items()
                    }
        # Written last: with it the files of the slice are complete.
        write_json(squares_path, squares)
        return self.statistic(piece)

    def finish(self, total: ByName[ByName[float]]) -> None:
        shares = self._shares()
        groups = {
            name: {
                "documents": counts.documents,
                "tokens": counts.tokens,
                "unused": counts.as_json()["unused"],
                # fsum is exact, so the norm does not depend on the order of the slices.
                "norm": math.sqrt(math.fsum(total.named[name].named.values())),
                "halves": list(shares[name]),
            }
            for name, counts in self.gradients.counts().items()
        }
        write_json(self.artifact, groups)

    @property
    def vectors(self) -> "VectorFiles":
        """The vector of each group."""
        return VectorFiles(self, "vectors")

    @property
    def halves(self) -> "VectorFiles":
        """The vectors of each group's nonempty halves."""
        return VectorFiles(self, "halves")

    def groups(self) -> dict[str, dict[str, Any]]:
        """Reads the facts of each group, in order.

        These are its `documents` and `tokens`, the number of `unused` texts by reason, the `norm` of its vector, and
        the names of its `halves` with a vector.
        """
        found = read_json(self.artifact)
        return {group.name: found[group.name] for group in self.query}

    def curvatures(self) -> Iterator[Curvature]:
        """Loads the curvature one input at a time: the eigenvectors of all would not fit a small worker."""
        if self.curvature is not None and self.damping_ratio is not None:
            for name in self.curvature.covariances.inputs():
                yield self.curvature.curvature(name, self.damping_ratio)

    def _preconditioner(self, name: str) -> Callable[[_Gradient], _Gradient]:
        """Loads the curvature of an input and returns its preconditioner."""
        if self.curvature is None or self.damping_ratio is None:
            return lambda gradient: gradient
        return self.curvature.curvature(name, self.damping_ratio).precondition

    def _stacks(self, piece: int) -> dict[str, tuple[Block, ...]]:
        """Groups the blocks of a slice by their input, as blocks with one input share a curvature."""
        blocks = self.tracked.slices()[piece]
        if self.curvature is None:
            return {block.name: (block,) for block in blocks}
        return self.curvature.covariances.inputs_of(blocks)

    def _shares(self) -> dict[str, dict[str, float]]:
        """Returns the share of each nonempty half in the texts of its group, by group and name of the half."""
        return {
            group: half_shares(
                {half_name(group, half): counts.by_half[str(half)] for half in HALVES}
            )
            for group, counts in self.gradients.counts().items()
        }


@dataclasses.dataclass(frozen=True)
class VectorFiles:
    """Files of vectors that `FitQueryVectors` writes, one per slice of the tracked layers.

    Args:
      fitted: The stage.
      name: Name of the folder.
    """

    fitted: FitQueryVectors
    name: str

    def path(self, number: int) -> str:
        """Path of the file of a slice."""
        return self.fitted.path(self.name, f"{number:03d}.safetensors")

    @property
    def paths(self) -> list[str]:
        """Paths of the files of all slices."""
        return [self.path(number) for number in self.fitted.pieces()]

    def load(self) -> Vectors:
        """Reads the vectors by name."""
        return read_slices(self.paths)


def read_slices(paths: Sequence[str]) -> Vectors:
    """Reads the vectors of several slices of the layers and joins their blocks, by group."""
    return join_slices(files.in_parallel(read_slice, paths))


def read_slice(path: str) -> Vectors:
    """Reads the vectors of a slice."""
    with files.open_read(path) as file:
        return load_vectors(file)


def half_name(group: str, half: int) -> str:
    """Returns the name of a half of a query group. The colon keeps it distinct from every group's name."""
    return f"{group}:{half}"
