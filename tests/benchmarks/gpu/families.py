"""Is every family of models right on a device? Small random models, against the CPU, in float64 if they have it."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.stats
import torch

from beam_quad.errors import BeamQuadError
from beam_quad.gradients import Block, Proxy, find_blocks, tune
from beam_quad.gradients.hessian import curvature_products
from beam_quad.gradients.sketches import GradientSketcher
from beam_quad.gradients.tuning import Tuning
from beam_quad.scoring import (
    Curvature,
    InfluenceScorer,
    LossDropScorer,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
)
from beam_quad.scoring.fitting import Labels
from tests.gradients import tiny

FAMILIES = (*tiny.FAMILIES, *tiny.MIXTURES)
LEAST_CORRELATION = 0.995
# Float32 against float64, of the largest score; 1.4e-6 at most on a CPU, and TF32 is off.
MOST_ERROR = 1e-4
_NUM_GROUPS = 2
_DAMPING_RATIO = 1.0
_SAMPLE = tiny.texts([16, 12, 9] * 8, seed=1)
_QUERY = [tiny.texts([14] * 6, seed=2 + group) for group in range(_NUM_GROUPS)]
# Some have several windows of 16 tokens.
_SCORED = tiny.texts(np.random.default_rng(3).integers(6, 40, 96).tolist(), seed=4)

Vectors = dict[str, dict[str, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Family:
    """How a family fared.

    Attributes:
      name: The family.
      error: Largest difference of scores in float32 from those on the CPU, over the largest score; nan if it failed.
      rank_correlation: Of scores in bfloat16 with those in float32 under the same vectors, Spearman's, the lower of two
        query groups; nan for a mixture of experts, in which rounding sends tokens to other experts, or if it failed.
      is_repeatable: Whether a second fit and all scores came out the same, bit by bit.
      failure: What failed, in a line, such as an operator without a deterministic kernel; None if nothing did.
    """

    name: str
    error: float
    rank_correlation: float
    is_repeatable: bool
    failure: str | None

    @property
    def is_right(self) -> bool:
        """Whether all of it is as it should be."""
        ranks_alike = np.isnan(self.rank_correlation) or self.rank_correlation > LEAST_CORRELATION
        is_exact = self.error < MOST_ERROR
        return bool(self.failure is None and self.is_repeatable and is_exact and ranks_alike)


def check(name: str, device: torch.device) -> Family:
    """Fits, scores and repeats; an error is a failure of the family, and the next one's turn comes."""
    try:
        return _check(name, device)
    except (RuntimeError, BeamQuadError) as error:
        line = " ".join(str(error).split())[:200]
        return Family(name, np.nan, np.nan, False, line)


def _check(name: str, device: torch.device) -> Family:
    # Products of experts have no float64.
    dtype = torch.float32 if name in tiny.MIXTURES else torch.float64
    exact, _ = _scores(_proxy(name, dtype, torch.device("cpu")), None)
    proxy = _proxy(name, torch.float32, device)
    scores, vectors = _scores(proxy, None)
    again, _ = _scores(_proxy(name, torch.float32, device), None)
    error = float(np.abs(scores - exact).max() / np.abs(exact).max())
    correlation = np.nan
    if name not in tiny.MIXTURES:
        rounded, _ = _scores(_proxy(name, torch.bfloat16, device), vectors)
        pairs = zip(rounded.T, scores.T, strict=True)
        correlation = min(float(scipy.stats.spearmanr(*pair).statistic) for pair in pairs)
    repeats = (np.array_equal(*pair) for pair in _twice(proxy))
    is_repeatable = np.array_equal(scores, again) and all(repeats)
    return Family(name, error, correlation, is_repeatable, None)


def _proxy(name: str, dtype: torch.dtype, device: torch.device) -> Proxy:
    proxy = tiny.proxy(name, dtype)
    proxy.model.to(device)
    return proxy


def _blocks(proxy: Proxy) -> list[Block]:
    is_mixture = any(p.ndim == 3 for p in proxy.model.parameters())
    return list(find_blocks(proxy.model, "attention" if is_mixture else "all"))


def _scores(proxy: Proxy, vectors: Vectors | None) -> tuple[np.ndarray, Vectors]:
    """Scores texts by their normalised influence under some vectors, or under those that are fitted."""
    blocks = _blocks(proxy)
    # The texts' own labels: those drawn from the model differ where its probabilities are rounded.
    vectors = vectors or _fit(proxy, blocks, "empirical")
    return InfluenceScorer(proxy, blocks, vectors, normalize=True).score(_SCORED), vectors


def _fit(proxy: Proxy, blocks: list[Block], labels: Labels) -> Vectors:
    sample = [str(i) for i in range(len(_SAMPLE))], _SAMPLE, 0, labels
    sums = covariance_sums(proxy, blocks, *sample)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    squares = eigenvalue_sums(proxy, blocks, bases, *sample)
    curvature = Curvature.from_parts(bases, squares, _DAMPING_RATIO)
    return {
        str(group): curvature.precondition(query_gradient(proxy, blocks, texts).mean())
        for group, texts in enumerate(_QUERY)
    }


def _twice(proxy: Proxy) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Does everything else that a run may ask of a proxy, twice: each operator needs a deterministic kernel."""
    blocks = _blocks(proxy)
    for work in (_sampled_labels, _sketches, _products, _loss_drops):
        yield work(proxy, blocks), work(proxy, blocks)


def _sampled_labels(proxy: Proxy, blocks: list[Block]) -> np.ndarray:
    vectors = _fit(proxy, blocks, "sampled")
    return np.concatenate([v.flatten().cpu().numpy() for own in vectors.values() for v in own.values()])  # fmt: skip


def _sketches(proxy: Proxy, blocks: list[Block]) -> np.ndarray:
    return np.asarray(GradientSketcher(proxy, blocks, 64).sketch(_SAMPLE))


def _products(proxy: Proxy, blocks: list[Block]) -> np.ndarray:
    vector = _fit(proxy, blocks, "empirical")["0"]
    found = curvature_products(proxy, blocks, _SAMPLE, [vector]).products
    return np.concatenate([v.flatten().cpu().numpy() for own in found for v in own.values()])


def _loss_drops(proxy: Proxy, blocks: list[Block]) -> np.ndarray:
    return LossDropScorer(proxy, tune(proxy, _QUERY[0], Tuning())).score(_SCORED)
