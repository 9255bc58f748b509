"""What the package predicts: scores of all candidates under every setting, from few passes."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from beam_quad import scoring
from beam_quad.gradients import Block, Proxy, find_blocks
from beam_quad.scoring.curvature import DAMPING_RATIO
from beam_quad.scoring.fitting import Labels
from tests.benchmarks.counterfactual.draws import Draw
from tests.benchmarks.counterfactual.sizes import Size

Gradients = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to score by influence.

    Attributes:
      curvature: "ekfac", "kfac", or "dot" for none.
      damping: Ratio of the mean eigenvalue; 0 where there is no curvature.
      layers: The tracked layers.
      sample: Documents that curvature is fitted on; 0 where there is none.
      labels: Labels it is fitted with.
      normalize: Whether scores are divided by the gradient's norm.
    """

    curvature: str
    damping: float
    layers: str
    sample: int
    labels: Labels = "sampled"
    normalize: bool = False

    @property
    def name(self) -> str:
        """Short name, unique."""
        parts = [self.curvature, self.layers]
        if self.curvature != "dot":
            parts += [f"damping {self.damping:g}", f"{self.sample} {self.labels}"]
        return ", ".join([*parts, *["normalised"] * self.normalize])


@dataclasses.dataclass(frozen=True)
class Fit:
    """Curvature before damping; see `beam_quad.scoring`."""

    bases: Mapping[str, scoring.Eigenbasis]
    eigenvalues: Mapping[str, scoring.EigenvalueSum]

    def curvature(self, setting: Setting) -> scoring.Curvature:
        """Puts together what a setting asks for."""
        eigenvalues = self.eigenvalues if setting.curvature == "ekfac" else None
        return scoring.Curvature.from_parts(self.bases, eigenvalues, setting.damping)


class Scores:
    """Influence of all candidates on all queries.

    Args:
      proxy: The model.
      size: Which settings there are.
      drawn: Candidates, queries, factor sample.
    """

    def __init__(self, proxy: Proxy, size: Size, drawn: Draw) -> None:
        self._proxy = proxy
        self._drawn = drawn
        self._blocks = {layers: find_blocks(proxy.model, layers) for layers in size.layers}
        self._widest = self._blocks[size.layers[-1]]
        self._fits = {
            (sample, labels): fit(proxy, self._widest, drawn, sample, labels)
            for sample, labels in dict.fromkeys((s.sample, s.labels) for s in settings(size))
            if sample
        }
        self._queries = {
            domain: scoring.query_gradient(proxy, self._widest, texts).mean()
            for domain, texts in drawn.queries.items()
        }

    def blocks(self, layers: str) -> tuple[Block, ...]:
        """Returns the tracked blocks of a choice of layers."""
        return self._blocks[layers]

    def precondition(self, setting: Setting, gradients: Gradients) -> Gradients:
        """Multiplies gradients by a setting's damped inverse curvature; by nothing for "dot"."""
        if setting.curvature == "dot":
            return gradients
        return self._fits[setting.sample, setting.labels].curvature(setting).precondition(gradients)

    def compute(self, size: Size) -> dict[Setting, np.ndarray]:
        """Scores by all settings, float64 [num_candidates, num_queries] each."""
        plain = [s for s in settings(size) if not s.normalize]
        # Scores are sums over stacks, so that one pass over all layers gives those of every choice of layers.
        scorer, by_vector = self._score_stacks({_vector(s): s for s in plain})
        scores = {}
        for setting in plain:
            chosen = set(self._blocks[setting.layers])
            tracked = [chosen.issuperset(stack.blocks) for stack in scorer.stacks]
            scores[setting] = by_vector[_vector(setting)][:, :, tracked].sum(2)
        for layers in size.layers:
            own = [s for s in settings(size) if s.normalize and s.layers == layers]
            scores |= self._score_normalized(own)
        return scores

    def _score_stacks(
        self, vectors: Mapping[object, Setting]
    ) -> tuple[scoring.InfluenceScorer, dict[object, np.ndarray]]:
        """Scores by several vectors in one pass, float64 [num_candidates, num_queries, num_stacks] each."""
        groups = self._vectors(list(vectors.values()))
        scorer = scoring.InfluenceScorer(self._proxy, self._widest, groups)
        scores = scorer.score_stacks(self._drawn.texts)
        shape = (len(scores), len(vectors), len(self._queries), -1)
        by_vector = np.moveaxis(scores.reshape(shape), 1, 0)
        return scorer, dict(zip(vectors, by_vector, strict=True))

    def _score_normalized(self, own: Sequence[Setting]) -> dict[Setting, np.ndarray]:
        """Scores by settings of the same layers, whose norm they share, float64 [num_candidates, num_queries] each."""
        if not own:
            return {}
        blocks = self._blocks[own[0].layers]
        scorer = scoring.InfluenceScorer(self._proxy, blocks, self._vectors(own), normalize=True)
        scores = scorer.score(self._drawn.texts).reshape(-1, len(own), len(self._queries))
        return dict(zip(own, np.moveaxis(scores, 1, 0), strict=True))

    def _vectors(self, own: Sequence[Setting]) -> dict[str, Gradients]:
        return {
            f"{setting.name}: {domain}": self.precondition(setting, gradient)
            for setting in own
            for domain, gradient in self._queries.items()
        }


def fit(proxy: Proxy, blocks: Sequence[Block], drawn: Draw, sample: int, labels: Labels) -> Fit:
    """Fits curvature on the first `sample` documents of the factor sample."""
    ids, texts = drawn.factor_ids[:sample], drawn.factor_texts[:sample]
    sums = scoring.covariance_sums(proxy, blocks, ids, texts, drawn.seed, labels)
    bases = {module: scoring.eigenbasis(total) for module, total in sums.items()}
    return Fit(
        bases,
        scoring.eigenvalue_sums(proxy, blocks, bases, ids, texts, drawn.seed, labels),
    )


def default(size: Size, curvature: str = "ekfac") -> Setting:
    """Returns the setting with the package's defaults, the sample's size apart."""
    if curvature == "dot":
        return Setting("dot", 0.0, size.layers[0], 0)
    return Setting(curvature, DAMPING_RATIO, size.layers[0], size.factor_samples[-1])


def named(size: Size) -> dict[str, Setting]:
    """Returns the settings that are held against other scorers, by a short name."""
    unit = dataclasses.replace(default(size), layers=size.layers[-1], normalize=True)
    found = {kind: default(size, kind) for kind in ("ekfac", "kfac", "dot")}
    if "head" in size.layers:
        found["ekfac_head"] = dataclasses.replace(unit, layers="head")
    return found | {"ekfac_unit": unit}


def settings(size: Size) -> list[Setting]:
    """Lists the settings: curvature x damping x layers, and the default with one other choice each.

    Of the head, alone and with the others, they are few: what it adds is asked, and not which damping it likes.
    """
    return list(dict.fromkeys(_settings(size)))


def _settings(size: Size) -> Iterator[Setting]:
    first = default(size)
    for layers in size.layers:
        if "head" in layers:
            yield dataclasses.replace(first, layers=layers)
            yield dataclasses.replace(first, layers=layers, normalize=True)
            continue
        yield dataclasses.replace(default(size, "dot"), layers=layers)
        for curvature in ("ekfac", "kfac"):
            for damping in size.dampings:
                yield dataclasses.replace(
                    first, curvature=curvature, damping=damping, layers=layers
                )
        for curvature in ("ekfac", "dot"):
            if layers != "mlp":
                yield dataclasses.replace(default(size, curvature), layers=layers, normalize=True)
    for layers in (own for own in size.layers if "head" not in own):
        for sample in size.factor_samples:
            yield dataclasses.replace(first, layers=layers, sample=sample)
        yield dataclasses.replace(first, layers=layers, labels="empirical")


def _vector(setting: Setting) -> object:
    """Names what decides a setting's vector: all but the layers."""
    return dataclasses.replace(setting, layers="")
