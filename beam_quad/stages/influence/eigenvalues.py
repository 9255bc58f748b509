"""The eigenbasis of the covariances and the eigenvalues in it: the second pass of the curvature."""

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
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring import Curvature, Eigenbasis, EigenvalueSum, eigenbasis, eigenvalue_sums
from beam_quad.stages.base import Stage
from beam_quad.stages.influence.covariances import FitStage, SumCovariances
from beam_quad.stages.influence.proxy import ProxyModel


@dataclasses.dataclass(frozen=True)
class Eigendecompose(Stage):
    """Adds the Kronecker factors of each input over the groups of texts and computes their eigenbases.

    Takes names of inputs and returns counts.

    Args:
      covariances: The sums of the factors.
    """

    kind = "bases"
    artifact_name = "bases.json"

    covariances: SumCovariances

    @property
    def root(self) -> str:
        return self.covariances.root

    def work(self, sizes: Sizes) -> Work:
        costs = sizes.scoring
        stored = float(costs.eigenbasis_bytes)
        return Work("curvature", memory_bytes=costs.fit_peak_bytes, bytes_stored=stored)

    def pieces(self) -> list[str]:
        return list(self.covariances.inputs())

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("bases"),)

    def paths(self, piece: str) -> tuple[str, ...]:
        return (self.path("bases", f"{piece}.safetensors"),)

    def statistic(self, piece: str) -> Tally:
        return Tally({"inputs": 1})

    def do(self, piece: str, model: Any) -> Tally:
        # No model is loaded here, which would set the number of threads.
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
    """Sums EK-FAC's corrected eigenvalues over each group of texts, in one file per input and group.

    Args:
      bases: The eigenbases, fitted on the same texts.
    """

    kind = "eigenvalues"
    artifact_name = "eigenvalues.json"

    bases: Eigendecompose

    @property
    def covariances(self) -> SumCovariances:
        """The covariances of the eigenbases."""
        return self.bases.covariances

    @property
    def root(self) -> str:
        return self.bases.root

    @property
    def proxy(self) -> ProxyModel:
        return self.covariances.proxy

    def work(self, sizes: Sizes) -> Work:
        costs, fit = sizes.scoring, self.covariances
        flops = costs.eigenvalue_flops(sizes.window_tokens, fit.labels)
        number = fit.sample.expected(sizes)
        own = self.fit_work(
            sizes, number, flops, costs.eigenvalue_sum_flops, costs.eigenvalue_bytes
        )
        # These are the texts of the covariances once more.
        return dataclasses.replace(own, documents=0)

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
        # Last, because the piece counts as done once this file is there. Every slice passes over the same texts; only
        # slice 0 counts them.
        write_json(self.paths(piece)[0], {"examples": len(texts) if number == 0 else 0})
        return self.statistic(piece)

    def statistic(self, piece: tuple[int, int]) -> Tally:
        return Tally(read_json(self.paths(piece)[0]))


@dataclasses.dataclass(frozen=True)
class AddEigenvalues(Stage):
    """Adds EK-FAC's eigenvalues of each input over the groups of texts; later stages read the curvature from here.

    Takes names of inputs and returns counts.

    Args:
      parts: The sums by group of texts.
    """

    kind = "ekfac"
    artifact_name = "ekfac.json"

    parts: SumEigenvalues

    @property
    def root(self) -> str:
        return self.parts.root

    @property
    def covariances(self) -> SumCovariances:
        """The covariances of the curvature."""
        return self.parts.covariances

    def work(self, sizes: Sizes) -> Work:
        return Work("curvature", bytes_stored=float(sizes.scoring.eigenvalue_bytes))

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
    """Sets torch's number of threads to that of the run, in a stage that may run before any model is loaded.

    The last bits of a result depend on the number of threads. The number is not restored, as it is not after a model is
    loaded: torch keeps it per computing thread, and all threads must have the same.
    """
    if number is not None:
        torch.set_num_threads(number)
