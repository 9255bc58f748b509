"""What a user of `--layers last:N` gives up: how the upper half of the layers ranks whole documents, as a run scores them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import stats

from beam_quad import seeding
from beam_quad.gradients import Block, Proxy, find_blocks
from beam_quad.scoring import (
    Curvature,
    InfluenceScorer,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
)
from pipelines.demo.texts import Document
from tests.benchmarks.counterfactual.sizes import QUERY_DOMAINS


def upper_half(
    proxy: Proxy, documents: Sequence[Document], num_sample: int, num_ranked: int, num_query: int
) -> dict[str, float]:
    """Correlates the ranks by the upper half of the attention layers with those by all of them.

    Curvature and damping are the package's defaults. Documents are as they come, cut to one window of the proxy's context.

    Args:
      proxy: The model.
      documents: The corpus.
      num_sample: Documents that the curvature is fitted on.
      num_ranked: Other documents, which are ranked for every query.
      num_query: Documents of each query, all of one domain; they are neither ranked nor fitted on.

    Returns:
      Spearman's rank correlation, by the query's domain.
    """
    drawn = _drawn(documents)
    queries = {
        domain: [d.text for d in drawn if d.source == domain][:num_query]
        for domain in QUERY_DOMAINS
    }
    asked = {text for query in queries.values() for text in query}
    rest = [d.text for d in drawn if d.text not in asked]
    sample, ranked = rest[:num_sample], rest[num_sample : num_sample + num_ranked]
    blocks = find_blocks(proxy.model, "attention")
    vectors = _vectors(proxy, blocks, sample, queries)
    scorer = InfluenceScorer(proxy, blocks, vectors)
    by_stack = scorer.score_stacks(ranked)
    num_layers = proxy.model.config.num_hidden_layers
    upper = {block.name for block in find_blocks(proxy.model, f"last:{num_layers // 2}")}
    is_upper = np.array([stack.blocks[0].name in upper for stack in scorer.stacks])
    own, whole = by_stack[:, :, is_upper].sum(2), by_stack.sum(2)
    return {
        domain: float(stats.spearmanr(own[:, i], whole[:, i]).statistic)
        for i, domain in enumerate(vectors)
    }


def _vectors(
    proxy: Proxy,
    blocks: Sequence[Block],
    sample: Sequence[str],
    queries: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, torch.Tensor]]:
    ids = [str(i) for i in range(len(sample))]
    sums = covariance_sums(proxy, blocks, ids, sample, 0)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    squares = eigenvalue_sums(proxy, blocks, bases, ids, sample, 0)
    curvature = Curvature.from_parts(bases, squares)
    return {
        domain: curvature.precondition(query_gradient(proxy, blocks, query).mean())
        for domain, query in queries.items()
    }


def _drawn(documents: Sequence[Document]) -> list[Document]:
    """Puts documents in the order of a hash of their text; those of under 32 characters may have no second token."""
    found = [document for document in documents if len(document.text) >= 32]
    keys = seeding.keys([document.text for document in found])
    order = np.argsort(seeding.mix(0, "ranking", keys), kind="stable")
    return [found[int(i)] for i in order]
