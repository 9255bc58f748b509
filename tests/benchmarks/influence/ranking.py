"""What a user of `--layers last:N` gives up: how the upper half of the layers ranks whole documents, as a run scores them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from beam_quad import seeding
from beam_quad.gradients import Proxy, find_blocks
from beam_quad.scoring import (
    Curvature,
    InfluenceScorer,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
)
from pipelines.demo.texts import Document
from tests.benchmarks.influence.material import Texts

_LENGTH = 256


def upper_half(proxy: Proxy, texts: Texts, num_sample: int, num_ranked: int) -> float:
    """Correlates the ranks by the upper half of the attention layers with those by all of them.

    Curvature and damping are the package's defaults. Documents are as they come, cut to one window of 256 tokens.

    Args:
      proxy: The model.
      texts: Corpus and query set.
      num_sample: Documents that the curvature is fitted on, and a quarter as many of the query set.
      num_ranked: Other documents, which are ranked.

    Returns:
      Spearman's rank correlation.
    """
    proxy = dataclasses.replace(proxy, context_length=_LENGTH)
    drawn = _drawn(texts.documents)
    sample, ranked = drawn[:num_sample], drawn[num_sample : num_sample + num_ranked]
    query = _drawn(texts.query)[: num_sample // 4]
    blocks, ids = find_blocks(proxy.model, "attention"), [str(i) for i in range(len(sample))]
    sums = covariance_sums(proxy, blocks, ids, sample, 0)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    squares = eigenvalue_sums(proxy, blocks, bases, ids, sample, 0)
    curvature = Curvature.from_parts(bases, squares)
    vector = curvature.precondition(query_gradient(proxy, blocks, query).mean())
    by_block = InfluenceScorer(proxy, blocks, {"query": vector}).score_blocks(ranked)[:, 0]
    num_layers = proxy.model.config.num_hidden_layers
    upper = {block.name for block in find_blocks(proxy.model, f"last:{num_layers // 2}")}
    is_upper = np.array([block.name in upper for block in blocks])
    return float(stats.spearmanr(by_block[:, is_upper].sum(1), by_block.sum(1)).statistic)


def _drawn(documents: Sequence[Document]) -> list[str]:
    """Puts texts in the order of a hash of their own; those of under 32 characters may have no second token."""
    found = [document.text for document in documents if len(document.text) >= 32]
    order = np.argsort(seeding.mix(0, "ranking", seeding.keys(found)), kind="stable")
    return [found[int(i)] for i in order]
