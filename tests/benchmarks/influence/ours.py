"""Our own methods, and what they need: the query's vectors."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from beam_quad.gradients import Block, Proxy, find_blocks
from beam_quad.gradients.windows import Documents
from beam_quad.scoring import (
    Curvature,
    Eigenbasis,
    InfluenceScorer,
    PerplexityScorer,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
)
from tests.benchmarks.influence import clocks
from tests.benchmarks.influence.clocks import Cost
from tests.benchmarks.influence.methods import Function

NUM_GROUPS = 8
# kronfluence's, where it is given none.
_DAMPING_RATIO = 0.1
Vector = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Tracked:
    """One choice of layers.

    Attributes:
      blocks: What is tracked.
      vector: The query's vector, by block.
    """

    blocks: tuple[Block, ...]
    vector: Vector


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What is made once for a model.

    Attributes:
      attention: All attention layers, with the EK-FAC vector.
      upper: Those of the upper half of the layers: the same vector without its lower blocks.
      everything: Attention and MLPs, with the plain gradient for a vector: its cost is the same.
      groups: EK-FAC vectors of the query groups, on all attention layers.
      bases: Eigenbasis by module.
      eigendecomposition: What making them took.
    """

    attention: Tracked
    upper: Tracked
    everything: Tracked
    groups: dict[str, Vector]
    bases: dict[str, Eigenbasis]
    eigendecomposition: Cost


def fit(proxy: Proxy, sample: Sequence[str], query: Sequence[str]) -> Fitted:
    """Fits EK-FAC to a sample and preconditions the query's gradients.

    Labels are the texts' own, so that kronfluence, which draws others, can be held against it.
    """
    blocks, ids = find_blocks(proxy.model, "attention"), [str(i) for i in range(len(sample))]
    sums = covariance_sums(proxy, blocks, ids, sample, 0, "empirical")
    bases, cost = clocks.timed(
        lambda: {name: eigenbasis(total) for name, total in sums.items()}, proxy.device
    )
    squares = eigenvalue_sums(proxy, blocks, bases, ids, sample, 0, "empirical")
    curvature = Curvature.from_parts(bases, squares, _DAMPING_RATIO)
    groups = {
        f"group {i}": curvature.precondition(
            query_gradient(proxy, blocks, query[i::NUM_GROUPS]).mean()
        )
        for i in range(NUM_GROUPS)
    }
    vector = {
        block.name: torch.stack([by_block[block.name] for by_block in groups.values()]).mean(0)
        for block in blocks
    }
    num_layers = proxy.model.config.num_hidden_layers
    everything = find_blocks(proxy.model, "all")
    return Fitted(
        attention=Tracked(blocks, vector),
        upper=Tracked(find_blocks(proxy.model, f"last:{num_layers // 2}"), vector),
        everything=Tracked(everything, query_gradient(proxy, everything, query).mean()),
        groups=groups,
        bases=bases,
        eigendecomposition=cost,
    )


def forward_only(name: str, proxy: Proxy) -> Function:
    """Perplexity: what all else is held against."""
    return _of_scorer(name, proxy, PerplexityScorer(proxy))


def exact(name: str, proxy: Proxy, tracked: Tracked) -> Function:
    """One forward, one backward for activations; one query group."""
    scorer = InfluenceScorer(proxy, tracked.blocks, {"query": tracked.vector})
    return _of_scorer(name, proxy, scorer)


def exact_groups(name: str, proxy: Proxy, fitted: Fitted) -> Function:
    """The same for many query groups; gives the first one's scores."""
    return _of_scorer(name, proxy, InfluenceScorer(proxy, fitted.attention.blocks, fitted.groups))


def fitting(name: str, proxy: Proxy, fitted: Fitted, texts: Sequence[str]) -> Function:
    """Both passes of the EK-FAC fit, labels drawn from the model; the first texts are the documents."""

    def passes(documents: Documents, micro_batch: int) -> None:
        own = texts[: len(documents.windows)]
        ids = [str(i) for i in range(len(own))]
        proxy.max_batch_tokens = micro_batch
        covariance_sums(proxy, fitted.attention.blocks, ids, own, 0)
        eigenvalue_sums(proxy, fitted.attention.blocks, fitted.bases, ids, own, 0)

    # The second pass reads the bases.
    return Function(name, passes, proxy.device, clocks.held_bytes(fitted.bases))


def _of_scorer(name: str, proxy: Proxy, scorer: InfluenceScorer | PerplexityScorer) -> Function:
    def score(documents: Documents, micro_batch: int) -> np.ndarray:
        proxy.max_batch_tokens = micro_batch
        column: np.ndarray = scorer.score(documents)[:, 0]
        return column

    return Function(name, score, proxy.device, clocks.held_bytes(vars(scorer)))
