"""The vector of each query group, preconditioned by the curvature, and those of its halves."""

import dataclasses
import functools
import operator
from collections.abc import Iterator
from typing import Any

from beam_quad.additive import ByName, Tally, add_fields
from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import tokenize
from beam_quad.scoring import Curvature, GradientSum, query_gradient, tensors
from beam_quad.scoring.halves import HALVES, deal_halves, half_shares
from beam_quad.scoring.vectors import Vectors, combine_vectors, load_vectors, write_vectors
from beam_quad.stages.influence.eigenvalues import Eigendecompose, SumEigenvalues, set_threads
from beam_quad.stages.influence.proxy import ProxyModel, ProxyStage, TrackedProxy
from beam_quad.stages.read.query import Query, parts_of
from beam_quad.stages.read.texts import NUM_GROUPS


@dataclasses.dataclass(frozen=True)
class GroupCounts:
    """The texts of a query group. An additive statistic.

    Attributes:
      documents: Texts that can be used.
      tokens: Their tokens.
      unused: How many cannot be used, by reason.
    """

    documents: int
    tokens: int
    unused: Tally

    def __add__(self, other: "GroupCounts") -> "GroupCounts":
        return add_fields(self, other)


@dataclasses.dataclass(frozen=True)
class FitQueryVectors(ProxyStage):
    """Sums the query gradients by file, and preconditions each group's mean: the query vectors.

    Takes (group number, part of its files) and gives counts; the gradients rest in files, one for each half of the
    texts. The halves' vectors show how much the scores owe to which texts happen to be in the query set.

    Args:
      tracked: The proxy model and its tracked layers.
      query: The query set.
      curvature: EK-FAC's curvature (`SumEigenvalues`), K-FAC's (`Eigendecompose`), or None for the identity.
      damping_ratio: Damping over the mean eigenvalue of each block; None with the identity.
    """

    kind = "query"
    version = 5
    artifact_name = "vectors.safetensors"

    tracked: TrackedProxy
    query: tuple[Query, ...]
    curvature: SumEigenvalues | Eigendecompose | None
    damping_ratio: float | None

    @property
    def root(self) -> str:
        return self.query[0].root

    @property
    def proxy(self) -> ProxyModel:
        return self.tracked.proxy

    def pieces(self) -> list[tuple[int, int]]:
        return parts_of(self.query, NUM_GROUPS)

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("gradients"),)

    def paths(self, piece: tuple[int, int]) -> tuple[str, ...]:
        group, part = piece
        stem = self.path("gradients", f"{group:03d}-{part:02d}")
        return (f"{stem}.json", *(f"{stem}-{half}.safetensors" for half in HALVES))

    def statistic(self, piece: tuple[int, int]) -> ByName[GroupCounts]:
        counts = read_json(self.paths(piece)[0])
        unused = Tally(counts["unused"]["counts"])
        name = self.query[piece[0]].name
        return ByName({name: GroupCounts(counts["documents"], counts["tokens"], unused)})

    def do(self, piece: tuple[int, int], model: Proxy) -> ByName[GroupCounts]:
        group, part = piece
        found = self.query[group].read(part, NUM_GROUPS)
        texts = found.texts
        blocks = self.tracked.blocks(model)
        documents = 0
        for half, own in enumerate(deal_halves(texts, part)):
            gradients = query_gradient(model, blocks, own)
            files.write_once(self.paths(piece)[1 + half], gradients.save())
            documents += gradients.num_examples
        tokens = sum(len(ids) for ids in tokenize(model.tokenizer, texts))
        # What a loss cannot be had of, as of a row of the corpus.
        unused = found.unused + Tally(model.without_loss(texts))
        counts = GroupCounts(
            documents, tokens, Tally({r: n for r, n in unused.counts.items() if n})
        )
        write_json(self.paths(piece)[0], dataclasses.asdict(counts))
        return ByName({self.query[group].name: counts})

    def finish(self, total: ByName[GroupCounts]) -> None:
        # The halves of all groups are in memory at once, so that one pass over the eigenbases preconditions them: one a
        # group would read the curvature, several times a vector's size, as often as there are groups. Beside them are
        # two more vectors at most: parts that are added up, or a whole that is made of its halves, which then go.
        set_threads(self.proxy.spec.num_threads)
        halves, shares = self._half_means()
        self._precondition(halves)
        _write_vectors(self.halves.path, halves)
        # Preconditioning is linear, so that the vector of the whole group is made of those of its halves.
        whole = {
            group: combine_vectors({name: halves.pop(name) for name in own}, own)
            for group, own in shares.items()
        }
        groups = {
            name: {
                "documents": counts.documents,
                "tokens": counts.tokens,
                "unused": dict(sorted(counts.unused.counts.items())),
                "norm": tensors.norm(whole[name]),
                "halves": list(shares[name]),
            }
            for name, counts in total.named.items()
        }
        write_json(self.path("query.json"), groups)
        _write_vectors(self.artifact, whole)

    @property
    def vectors(self) -> "VectorFile":
        """The vector of each group."""
        return VectorFile(self, self.artifact_name)

    @property
    def halves(self) -> "VectorFile":
        """The vectors of each group's halves; a group that fills only one has none of the other."""
        return VectorFile(self, "halves.safetensors")

    def groups(self) -> dict[str, dict[str, Any]]:
        """Reads what is known of each group, in order.

        That is its `documents` and `tokens`, how many of its texts are `unused` by reason, the `norm` of its vector, and the names of its `halves` that have a vector.
        """
        found = read_json(self.path("query.json"))
        return {group.name: found[group.name] for group in self.query}

    def _half_means(self) -> tuple[Vectors, dict[str, dict[str, float]]]:
        """Takes the mean gradients of the halves that have a text, and each group's shares of its texts by half."""
        halves: Vectors = {}
        shares: dict[str, dict[str, float]] = {}
        for number, group in enumerate(self.query):
            totals = {half_name(group.name, half): self._sum(number, half) for half in HALVES}
            counts = {name: total.num_examples for name, total in totals.items()}
            filled = [name for name, count in counts.items() if count] or list(counts)
            halves |= {name: totals.pop(name).mean() for name in filled}
            shares[group.name] = half_shares(counts)
        return halves, shares

    def _sum(self, group: int, half: int) -> GradientSum:
        parts = (
            GradientSum.load(files.read_bytes(self.paths(piece)[1 + half]))
            for piece in self.pieces()
            if piece[0] == group
        )
        return functools.reduce(operator.add, parts)

    def _precondition(self, gradients: Vectors) -> None:
        """Puts vectors in the gradients' place."""
        for curvature in self.curvatures():
            for own in gradients.values():
                own |= curvature.precondition({block: own[block] for block in curvature.blocks})

    def curvatures(self) -> Iterator[Curvature]:
        """Loads the curvature, one input's blocks at a time: the eigenvectors of all would not fit a small worker."""
        if self.curvature is None or self.damping_ratio is None:
            return
        for source in self.curvature.covariances.inputs():
            yield self.curvature.curvature(source, self.damping_ratio)


@dataclasses.dataclass(frozen=True)
class VectorFile:
    """A file of vectors that `FitQueryVectors` writes.

    Args:
      fitted: The stage.
      name: The file's name.
    """

    fitted: FitQueryVectors
    name: str

    @property
    def path(self) -> str:
        """Where the file is stored."""
        return self.fitted.path(self.name)

    def load(self) -> Vectors:
        """Reads the vectors by name."""
        return load_vectors(files.read_bytes(self.path))


def half_name(group: str, half: int) -> str:
    """Names a half of a query group; no group's name holds a colon."""
    return f"{group}:{half}"


def _write_vectors(path: str, vectors: Vectors) -> None:
    with files.writing(path) as file:
        write_vectors(file, vectors)
