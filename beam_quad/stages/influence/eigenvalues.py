"""The eigenbasis of the covariances, and the eigenvalues in it: the second pass of the curvature."""

import dataclasses
import functools
import operator
from typing import Any

import torch

from beam_quad.additive import Tally
from beam_quad.artifacts import files
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import find_blocks
from beam_quad.scoring import (
    CovarianceSum,
    Eigenbasis,
    eigenbasis,
    eigenvalue_sums,
)
from beam_quad.stages.base import Task
from beam_quad.stages.influence.covariances import Fit, FitTask, part_path
from beam_quad.stages.read.corpus import read_json, write_json
from beam_quad.stages.read.texts import NUM_GROUPS, read_group


@dataclasses.dataclass
class Eigendecompose(Task):
    """Adds the Kronecker factors of each input over the groups, and takes their eigenbases.

    Takes the inputs' names and gives counts.

    Args:
      folder: Folder of `SumCovariances`; the bases go there too.
      num_threads: CPU threads of the run, as of its proxy; None leaves torch's own choice.
    """

    folder: str
    num_threads: int | None = None

    @property
    def name(self) -> str:
        return "Eigendecompose"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "bases.json")

    def pieces(self) -> list[str]:
        return read_inputs(self.folder)

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "bases"),)

    def paths(self, piece: str) -> tuple[str, ...]:
        return (_basis_path(self.folder, piece),)

    def read(self, piece: str) -> Tally:
        return Tally({"inputs": 1})

    def do(self, piece: str, model: Any) -> Tally:
        parts = (
            CovarianceSum.load(files.read_bytes(part_path(self.folder, "covariances", piece, g)))
            for g in range(NUM_GROUPS)
        )
        set_threads(self.num_threads)
        basis = eigenbasis(functools.reduce(operator.add, parts))
        files.write_once(self.paths(piece)[0], basis.save())
        return Tally({"inputs": 1})

    def finish(self, total: Tally) -> None:
        write_json(self.artifact, total.counts)


@dataclasses.dataclass
class SumEigenvalues(FitTask):
    """Sums EK-FAC's corrected eigenvalues over each group of texts; one file per input and group.

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
        bases = {name: load_basis(self.folder, name) for name in read_inputs(self.folder)}
        sums = eigenvalue_sums(model, blocks, bases, ids, texts, self.fit.seed, self.fit.labels)
        for name, part in sums.items():
            files.write_once(part_path(self.folder, "eigenvalues", name, piece), part.save())
        write_json(self.paths(piece)[0], {"examples": len(texts)})
        return Tally({"examples": len(texts)})

    def finish(self, total: Tally) -> None:
        write_json(self.artifact, total.counts)


def set_threads(number: int | None) -> None:
    """Sets the run's number of threads, which last bits depend on, where no model may have been loaded.

    It stays, as after a model was loaded: torch keeps the number for each thread that has computed, and all are to have one.
    """
    if number is not None:
        torch.set_num_threads(number)


def load_basis(folder: str, name: str) -> Eigenbasis:
    """Loads the eigenbasis of an input."""
    return Eigenbasis.load(files.read_bytes(_basis_path(folder, name)))


def read_inputs(folder: str) -> list[str]:
    """Reads the names of the inputs whose covariances were summed."""
    return list(read_json(files.join(folder, "covariances.json"))["inputs"])


def _basis_path(folder: str, name: str) -> str:
    return files.join(folder, "bases", f"{name}.safetensors")
