"""The eigenbasis of the covariances, and the eigenvalues in it: the second pass of the curvature."""

import dataclasses
import functools
import operator
from typing import Any

import torch

from beam_quad.additive import Tally
from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.scoring import Curvature, Eigenbasis, EigenvalueSum, eigenbasis, eigenvalue_sums
from beam_quad.stages.base import Stage
from beam_quad.stages.influence.covariances import FitStage, SumCovariances
from beam_quad.stages.influence.proxy import ProxyModel


@dataclasses.dataclass(frozen=True)
class Eigendecompose(Stage):
    """Adds the Kronecker factors of each input over the groups, and takes their eigenbases.

    Takes the inputs' names and gives counts.

    Args:
      covariances: The factors.
    """

    kind = "bases"
    artifact_name = "bases.json"

    covariances: SumCovariances

    @property
    def root(self) -> str:
        return self.covariances.root

    def pieces(self) -> list[str]:
        return list(self.covariances.inputs())

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("bases"),)

    def paths(self, piece: str) -> tuple[str, ...]:
        return (self.path("bases", f"{piece}.safetensors"),)

    def statistic(self, piece: str) -> Tally:
        return Tally({"inputs": 1})

    def do(self, piece: str, model: Any) -> Tally:
        set_threads(self.covariances.proxy.spec.num_threads)
        basis = eigenbasis(self.covariances.total(piece))
        with files.writing(self.paths(piece)[0]) as file:
            basis.save(file)
        return self.statistic(piece)

    def load(self, name: str) -> Eigenbasis:
        """Loads the eigenbasis of an input."""
        with files.open_read(self.paths(name)[0]) as file:
            return Eigenbasis.load(file)

    def curvature(self, name: str, damping_ratio: float) -> Curvature:
        """Loads K-FAC's curvature of the blocks that share an input."""
        return Curvature.from_parts({name: self.load(name)}, None, damping_ratio)


@dataclasses.dataclass(frozen=True)
class SumEigenvalues(FitStage):
    """Sums EK-FAC's corrected eigenvalues over each group of texts; one file per input and group.

    Args:
      bases: The eigenbases, fitted to the same texts.
    """

    kind = "eigenvalues"
    artifact_name = "eigenvalues.json"

    bases: Eigendecompose

    @property
    def covariances(self) -> SumCovariances:
        """What the bases are of."""
        return self.bases.covariances

    @property
    def root(self) -> str:
        return self.bases.root

    @property
    def proxy(self) -> ProxyModel:
        return self.covariances.proxy

    def slices(self) -> tuple[tuple[Block, ...], ...]:
        return self.covariances.slices()

    def do(self, piece: tuple[int, int], model: Proxy) -> Tally:
        number, group = piece
        fit = self.covariances
        ids, texts = fit.sample.read_group(group)
        blocks = self.slices()[number]
        bases = {name: self.bases.load(name) for name in fit.inputs_of(blocks)}
        sums = eigenvalue_sums(model, blocks, bases, ids, texts, fit.seed, fit.labels)
        for name in list(sums):
            with files.writing(self.part_path(name, group)) as file:
                sums.pop(name).save(file)
        write_json(self.paths(piece)[0], {"examples": len(texts) if number == 0 else 0})
        return self.statistic(piece)

    def statistic(self, piece: tuple[int, int]) -> Tally:
        return Tally(read_json(self.paths(piece)[0]))


@dataclasses.dataclass(frozen=True)
class AddEigenvalues(Stage):
    """Adds EK-FAC's eigenvalues of each input over the groups of texts: the curvature, as it is read from then on.

    Takes the inputs' names and gives counts.

    Args:
      parts: The sums by group.
    """

    kind = "ekfac"
    artifact_name = "ekfac.json"

    parts: SumEigenvalues

    @property
    def root(self) -> str:
        return self.parts.root

    @property
    def covariances(self) -> SumCovariances:
        """What the curvature was fitted to."""
        return self.parts.covariances

    def pieces(self) -> list[str]:
        return list(self.covariances.inputs())

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("sums"),)

    def paths(self, piece: str) -> tuple[str, ...]:
        return (self.path("sums", f"{piece}.safetensors"),)

    def statistic(self, piece: str) -> Tally:
        return Tally({"inputs": 1})

    def do(self, piece: str, model: Any) -> Tally:
        total = functools.reduce(operator.add, map(EigenvalueSum.load, self.parts.parts(piece)))
        with files.writing(self.paths(piece)[0]) as file:
            total.save(file)
        return self.statistic(piece)

    def curvature(self, name: str, damping_ratio: float) -> Curvature:
        """Loads EK-FAC's curvature of the blocks that share an input."""
        with files.open_read(self.paths(name)[0]) as file:
            total = EigenvalueSum.load(file)
        basis = self.parts.bases.load(name)
        return Curvature.from_parts({name: basis}, {name: total}, damping_ratio)


def set_threads(number: int | None) -> None:
    """Sets the run's number of threads, which last bits depend on, where no model may have been loaded.

    It stays, as after a model was loaded: torch keeps the number for each thread that has computed, and all are to have one.
    """
    if number is not None:
        torch.set_num_threads(number)
