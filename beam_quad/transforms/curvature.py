"""The curvature of the proxy on a sample of the corpus, and the query vectors v = (F + λI)⁻¹ ∇L(query)."""

import dataclasses
import functools
import operator
from typing import Any, Literal

from beam_quad import seeding
from beam_quad.additive import Tally
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import Proxy, ProxySpec, load_proxy, require_device
from beam_quad.gradients.tracked import by_module, find_blocks
from beam_quad.gradients.windows import tokenize
from beam_quad.io import files
from beam_quad.scoring import (
    CovarianceSum,
    Curvature,
    Eigenbasis,
    EigenvalueSum,
    GradientSum,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
)
from beam_quad.scoring.vectors import Vectors, save_vectors
from beam_quad.transforms.cache import cached_model
from beam_quad.transforms.corpus import read_json, write_json
from beam_quad.transforms.stage import ModelTask, Task
from beam_quad.transforms.texts import NUM_GROUPS, Query, read_group

Kind = Literal["ekfac", "kfac", "identity"]


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

    def load(self) -> Proxy:
        """Loads the proxy, once per process."""
        return cached_model(("proxy", self.proxy), lambda: load_proxy(self.proxy))

    @property
    def key(self) -> str:
        """Names the proxy."""
        return seeding.digest("proxy", self.proxy, self.proxy_fingerprint)


class _FitTask(ModelTask):
    """A task that passes examples through the proxy."""

    fit: Fit

    @property
    def model_key(self) -> str:
        return self.fit.key

    def check_device(self) -> None:
        require_device(self.fit.proxy.device)

    def load(self) -> Proxy:
        return self.fit.load()


@dataclasses.dataclass
class SumCovariances(_FitTask):
    """Sums the Kronecker factors over each group of texts; one file per module and group.

    Takes group numbers and gives counts. Too large to be elements, the sums rest in files and are added by reference.

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
        for module, part in sums.items():
            files.write_once(_part_path(self.folder, "covariances", module, piece), part.save())
        counts = {f"module/{module}": 1 for module in sums} | {"examples": len(texts)}
        write_json(self.paths(piece)[0], counts)
        return Tally(counts)

    def finish(self, total: Tally) -> None:
        if not total["examples"]:
            raise UsageError("no usable text in the corpus to fit the curvature on; see rejected/")
        modules = sorted(n.removeprefix("module/") for n in total.counts if n.startswith("module/"))
        write_json(self.artifact, {"examples": total["examples"], "modules": modules})


@dataclasses.dataclass
class Eigendecompose(Task):
    """Adds the Kronecker factors of each module over the groups, and takes their eigenbases.

    Takes module names and gives counts.

    Args:
      folder: Folder of `SumCovariances`; the bases go there too.
    """

    folder: str

    @property
    def name(self) -> str:
        return "Eigendecompose"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "bases.json")

    def pieces(self) -> list[str]:
        return list(read_json(files.join(self.folder, "covariances.json"))["modules"])

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "bases"),)

    def paths(self, piece: str) -> tuple[str, ...]:
        return (_basis_path(self.folder, piece),)

    def read(self, piece: str) -> Tally:
        return Tally({"modules": 1})

    def do(self, piece: str, model: Any) -> Tally:
        parts = (
            CovarianceSum.load(files.read_bytes(_part_path(self.folder, "covariances", piece, g)))
            for g in range(NUM_GROUPS)
        )
        basis = eigenbasis(functools.reduce(operator.add, parts))
        files.write_once(self.paths(piece)[0], basis.save())
        return Tally({"modules": 1})

    def finish(self, total: Tally) -> None:
        write_json(self.artifact, total.counts)


@dataclasses.dataclass
class SumEigenvalues(_FitTask):
    """Sums EK-FAC's corrected eigenvalues over each group of texts; one file per module and group.

    Args:
      fit: What to fit with, as for `SumCovariances`.
      folder: Folder of `Eigendecompose`; the sums go there too.
    """

    fit: Fit
    folder: str

    @property
    def name(self) -> str:
        return "SumEigenvalues"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "eigenvalues.json")

    def pieces(self) -> range:
        return range(NUM_GROUPS)

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "eigenvalues"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (files.join(self.folder, "eigenvalues", f"group-{piece:02d}.done"),)

    def read(self, piece: int) -> Tally:
        return Tally(read_json(self.paths(piece)[0]))

    def do(self, piece: int, model: Proxy) -> Tally:
        ids, texts = read_group(self.fit.sample_dir, piece)
        blocks = find_blocks(model.model, self.fit.layers)
        bases = {module: load_basis(self.folder, module) for module in by_module(blocks)}
        sums = eigenvalue_sums(model, blocks, bases, ids, texts, self.fit.seed, self.fit.labels)
        for module, part in sums.items():
            files.write_once(_part_path(self.folder, "eigenvalues", module, piece), part.save())
        write_json(self.paths(piece)[0], {"examples": len(texts)})
        return Tally({"examples": len(texts)})

    def finish(self, total: Tally) -> None:
        write_json(self.artifact, total.counts)


@dataclasses.dataclass
class FitQueryVectors(_FitTask):
    """Sums the query gradients by file, and preconditions each group's mean: the query vectors.

    Takes (group number, splits) and gives counts; the gradients rest in files.

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
        return (f"{stem}.safetensors", f"{stem}.json")

    def read(self, piece: tuple[int, int]) -> Tally:
        return Tally(read_json(self.paths(piece)[1]))

    def do(self, piece: tuple[int, int], model: Proxy) -> Tally:
        group, part = piece
        texts = self.query[group].texts(part, NUM_GROUPS)
        blocks = find_blocks(model.model, self.fit.layers)
        gradients = query_gradient(model, blocks, texts)
        tokens = sum(len(ids) for ids in tokenize(model.tokenizer, texts))
        counts = {f"documents/{group}": gradients.num_examples, f"tokens/{group}": tokens}
        files.write_once(self.paths(piece)[0], gradients.save())
        write_json(self.paths(piece)[1], counts)
        return Tally(counts)

    def finish(self, total: Tally) -> None:
        means = {}
        for number, group in enumerate(self.query):
            parts = (
                GradientSum.load(files.read_bytes(self.paths(piece)[0]))
                for piece in self.pieces()
                if piece[0] == number
            )
            means[group.name] = functools.reduce(operator.add, parts).mean()
        groups = {
            group.name: {kind: total[f"{kind}/{number}"] for kind in ("documents", "tokens")}
            for number, group in enumerate(self.query)
        }
        write_json(files.join(self.folder, "query.json"), groups)
        files.write_once(self.artifact, save_vectors(self._precondition(means)))

    def _precondition(self, means: Vectors) -> Vectors:
        if self.kind == "identity":
            return means
        vectors: Vectors = {name: {} for name in means}
        # One module's eigenvectors at a time: those of all modules would not fit a small worker.
        for module in read_json(files.join(self.curvature_dir, "covariances.json"))["modules"]:
            curvature = self._curvature(module)
            for name, gradients in means.items():
                part = {block: gradients[block] for block in curvature.blocks}
                vectors[name] |= curvature.precondition(part)
        return vectors

    def _curvature(self, module: str) -> Curvature:
        sums = None
        if self.kind == "ekfac":
            parts = (
                EigenvalueSum.load(
                    files.read_bytes(_part_path(self.curvature_dir, "eigenvalues", module, g))
                )
                for g in range(NUM_GROUPS)
            )
            sums = {module: functools.reduce(operator.add, parts)}
        basis = load_basis(self.curvature_dir, module)
        return Curvature.from_parts({module: basis}, sums, self.damping_ratio)


def vectors_path(folder: str) -> str:
    """Where `FitQueryVectors` writes."""
    return files.join(folder, "vectors.safetensors")


def load_basis(folder: str, module: str) -> Eigenbasis:
    """Loads the eigenbasis of a module."""
    return Eigenbasis.load(files.read_bytes(_basis_path(folder, module)))


def _basis_path(folder: str, module: str) -> str:
    return files.join(folder, "bases", f"{module}.safetensors")


def _part_path(folder: str, kind: str, module: str, group: int) -> str:
    return files.join(folder, kind, f"{module}-{group:02d}.safetensors")
