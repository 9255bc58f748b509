"""Quad in memory, straight down the page: no Beam, no stage, no file but the input and the models."""

from collections import defaultdict

import numpy as np

from beam_quad import seeding
from beam_quad.bandit import Blocks, PullScores, QuadPolicy, block_of, num_blocks, replay
from beam_quad.bandit import default_samples_per_pull as samples_of
from beam_quad.clustering import assign, fit_centers
from beam_quad.embedding import EmbedderSpec, load_embedder
from beam_quad.gradients import ProxySpec, find_blocks, load_proxy, tokenize
from beam_quad.io.batches import Columns
from beam_quad.io.rows import read_rows
from beam_quad.io.splits import plan_input
from beam_quad.scoring import (
    Curvature,
    InfluenceScorer,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
)


def select(
    corpus: str,
    query: str,
    proxy_path: str,
    budget: int,
    num_clusters: int,
    num_rounds: int,
    blocks_per_cluster: int,
    curvature_examples: int,
    max_cluster_share: float,
    seed: int = 0,
) -> tuple[list[str], dict[str, float]]:
    """Selects with Quad's defaults; returns the sorted ids and the influence of every scored example by id."""
    proxy = load_proxy(ProxySpec(proxy_path, num_threads=1))
    embedder = load_embedder(EmbedderSpec("hashing"))
    texts, ids = read(corpus)
    tokens = np.array([len(t) for t in tokenize(proxy.tokenizer, texts)], np.int64)
    keys = seeding.keys(ids)
    points = embedder.embed(texts).astype(np.float16).astype(np.float32)
    order = np.argsort(keys)
    centers, _ = fit_centers(points[order], num_clusters, seed, max_cluster_share)
    cluster, _ = assign(points, keys, centers, seed)

    counts = np.bincount(cluster, minlength=centers.num_clusters)
    samples = samples_of(len(texts), centers.num_clusters)
    num = num_blocks(counts, counts, samples, blocks_per_cluster)
    block = block_of(cluster, seeding.uniform(seed, "block", keys), num)
    blocks = Blocks.of(num, cluster, block, tokens, np.ones(len(texts), bool))
    candidates = defaultdict(list)
    for i in np.argsort(seeding.mix(seed, "candidate", keys)):
        candidates[int(cluster[i]), int(block[i])].append(int(i))

    tracked = find_blocks(proxy.model, "attention")
    fit = np.flatnonzero(seeding.uniform(seed, "sample", keys) < curvature_examples / len(texts))
    sample = ([ids[i] for i in fit], [texts[i] for i in fit], seed)
    bases = {m: eigenbasis(s) for m, s in covariance_sums(proxy, tracked, *sample).items()}
    curvature = Curvature.from_parts(bases, eigenvalue_sums(proxy, tracked, bases, *sample))
    gradient = query_gradient(proxy, tracked, read(query, is_query=True)[0]).mean()
    scorer = InfluenceScorer(proxy, tracked, {"query": curvature.precondition(gradient)})

    policy = QuadPolicy(budget_tokens=budget, samples_per_pull=samples, num_rounds=num_rounds)
    rounds, influence = [], {}
    while not (state := replay(policy, blocks, rounds)).is_done:
        scores = []
        for arm in state.pulls:
            drawn = candidates[arm][:samples]
            values = scorer.score([texts[i] for i in drawn])[:, 0]
            scores.append(PullScores(*arm, keys[drawn], tokens[drawn], values))
            influence |= {ids[i]: value for i, value in zip(drawn, values, strict=True)}
        rounds.append(tuple(scores))

    chosen = []
    for accepted in state.accepted:
        inside = np.flatnonzero((cluster == accepted.cluster_id) & (block == accepted.block))
        left = accepted.take_tokens
        for i in inside[np.argsort(seeding.mix(seed, "cut", keys[inside]))]:
            if left > 0:
                chosen.append(ids[i])
                left -= tokens[i]
    return sorted(chosen), influence


def read(folder: str, is_query: bool = False) -> tuple[list[str], list[str]]:
    """Reads the usable texts of a folder and their ids."""
    plan = plan_input([folder], is_query=is_query)
    texts, ids = [], []
    for split in plan.splits:
        for batch in read_rows(split, Columns("text"), batch_rows=256):
            usable = [i for i, text in enumerate(batch.texts) if text is not None]
            texts += [batch.texts[i] for i in usable]
            ids += [batch.ids[i] for i in usable]
    return texts, ids
