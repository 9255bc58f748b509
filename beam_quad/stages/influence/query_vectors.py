"""The vector of each query group, preconditioned by the curvature, and those of its halves."""

import dataclasses
import functools
import operator
from typing import Any, Literal

from beam_quad.additive import Tally
from beam_quad.artifacts import files
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import find_blocks
from beam_quad.gradients.windows import tokenize
from beam_quad.records import Reason
from beam_quad.scoring import (
    Curvature,
    EigenvalueSum,
    GradientSum,
    query_gradient,
    tensors,
)
from beam_quad.scoring.halves import HALVES, deal_halves, half_shares
from beam_quad.scoring.vectors import Vectors, combine_vectors, write_vectors
from beam_quad.stages.influence.covariances import Fit, FitTask, part_path
from beam_quad.stages.influence.eigenvalues import load_basis, read_inputs, set_threads
from beam_quad.stages.read.corpus import read_json, write_json
from beam_quad.stages.read.query import Query
from beam_quad.stages.read.texts import NUM_GROUPS

Kind = Literal["ekfac", "kfac", "identity"]


@dataclasses.dataclass
class FitQueryVectors(FitTask):
    """Sums the query gradients by file, and preconditions each group's mean: the query vectors.

    Takes (group number, part of its files) and gives counts; the gradients rest in files, one for each half of the
    texts. The halves' vectors show how much the scores owe to which texts happen to be in the query set.

    Args:
      fit: What to fit with.
      query: The query set.
      kind: Which curvature.
      damping_ratio: Damping over the mean eigenvalue of each block.
      curvature_dir: Folder of `SumEigenvalues` or, for K-FAC, of `Eigendecompose`.
      folder: Where the gradients and `vectors.safetensors` go.
    """

    fit: Fit
    query: tuple[Query, ...]
    kind: Kind
    damping_ratio: float
    curvature_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "FitQueryVectors"

    @property
    def artifact(self) -> str:
        return vectors_path(self.folder)

    def pieces(self) -> list[tuple[int, int]]:
        return [
            (group, part)
            for group, query in enumerate(self.query)
            for part in range(min(NUM_GROUPS, len(query.plan().splits)))
        ]

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "gradients"),)

    def paths(self, piece: tuple[int, int]) -> tuple[str, ...]:
        group, part = piece
        stem = files.join(self.folder, "gradients", f"{group:03d}-{part:02d}")
        return (f"{stem}.json", *(f"{stem}-{half}.safetensors" for half in HALVES))

    def read(self, piece: tuple[int, int]) -> Tally:
        return Tally(read_json(self.paths(piece)[0]))

    def do(self, piece: tuple[int, int], model: Proxy) -> Tally:
        group, part = piece
        found = self.query[group].read(part, NUM_GROUPS)
        texts = found.texts
        blocks = find_blocks(model.model, self.fit.layers)
        documents = 0
        for half, own in enumerate(deal_halves(texts, part)):
            gradients = query_gradient(model, blocks, own)
            files.write_once(self.paths(piece)[1 + half], gradients.save())
            documents += gradients.num_examples
        tokens = sum(len(ids) for ids in tokenize(model.tokenizer, texts))
        counts = Tally({f"documents/{group}": documents, f"tokens/{group}": tokens})
        # What a loss cannot be had of, as of a row of the corpus.
        unused = found.unused + Tally({Reason.TOO_SHORT.value: len(texts) - documents})
        counts += Tally({f"unused/{group}/{reason}": n for reason, n in unused.counts.items() if n})
        write_json(self.paths(piece)[0], counts.counts)
        return counts

    def finish(self, total: Tally) -> None:
        # The halves of all groups are in memory at once, so that one pass over the eigenbases preconditions them: one a
        # group would read the curvature, several times a vector's size, as often as there are groups. Beside them lie
        # two more vectors at most: parts that are added up, or a whole that is made of its halves, which then go.
        set_threads(self.fit.proxy.num_threads)
        halves, shares = self._half_means()
        self._precondition(halves)
        _write_vectors(halves_path(self.folder), halves)
        # Preconditioning is linear, so that the vector of the whole group is made of those of its halves.
        whole = {
            group: combine_vectors({name: halves.pop(name) for name in own}, own)
            for group, own in shares.items()
        }
        groups = {
            group.name: {
                **{kind: total[f"{kind}/{number}"] for kind in ("documents", "tokens")},
                "unused": total.under(f"unused/{number}/"),
                "norm": tensors.norm(whole[group.name]),
                "halves": list(shares[group.name]),
            }
            for number, group in enumerate(self.query)
        }
        write_json(files.join(self.folder, "query.json"), groups)
        _write_vectors(self.artifact, whole)

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
        if self.kind == "identity":
            return
        # One input's eigenvectors at a time: those of all would not fit a small worker.
        for source in read_inputs(self.curvature_dir):
            curvature = self.curvature_of(source)
            for own in gradients.values():
                own |= curvature.precondition({block: own[block] for block in curvature.blocks})

    def curvature_of(self, source: str) -> Curvature:
        """Loads the curvature of the blocks that share an input."""
        sums = None
        if self.kind == "ekfac":
            parts = (
                EigenvalueSum.load(
                    files.read_bytes(part_path(self.curvature_dir, "eigenvalues", source, g))
                )
                for g in range(NUM_GROUPS)
            )
            sums = {source: functools.reduce(operator.add, parts)}
        basis = load_basis(self.curvature_dir, source)
        return Curvature.from_parts({source: basis}, sums, self.damping_ratio)


def read_groups(folder: str) -> dict[str, dict[str, Any]]:
    """Reads what `FitQueryVectors` says of each group, in order.

    That is its `documents` and `tokens`, how many of its texts are `unused` by reason, the `norm` of its vector, and the names of its `halves` that have a vector.
    """
    groups: dict[str, dict[str, Any]] = read_json(files.join(folder, "query.json"))
    return groups


def vectors_path(folder: str) -> str:
    """Where `FitQueryVectors` writes."""
    return files.join(folder, "vectors.safetensors")


def halves_path(folder: str) -> str:
    """Where `FitQueryVectors` writes the vectors of each group's halves; a group that fills only one has none."""
    return files.join(folder, "halves.safetensors")


def half_name(group: str, half: int) -> str:
    """Names a half of a query group; no group's name holds a colon."""
    return f"{group}:{half}"


def _write_vectors(path: str, vectors: Vectors) -> None:
    with files.writing(path) as file:
        write_vectors(file, vectors)
