"""Corpora that new shards come to: documents of a shard are alike, influence has heavy tails, clusters differ in size."""

import dataclasses

import numpy as np

from beam_quad import seeding
from beam_quad.additive import total
from beam_quad.refresh.drift import Drift, find_drift
from beam_quad.refresh.drift_sums import DriftSums
from beam_quad.refresh.reference import ReferenceSums


@dataclasses.dataclass(frozen=True)
class Shard:
    """The arrays of a shard, which is one split."""

    name: str
    cluster: np.ndarray
    cosine: np.ndarray
    tokens: np.ndarray
    influence: np.ndarray
    keys: np.ndarray
    rejected: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Planted:
    """A drift of the new shards: a share in a topic far from all, a shift in standard deviations of influence, the same with the
    sign of the cluster, longer texts, and more rejections.
    """

    far: float = 0.0
    shift: float = 0.0
    own_shift: float = 0.0
    longer: float = 1.0
    rejections: float = 1.0


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What a corpus is drawn from.

    Attributes:
      documents: Of a shard.
      num_clusters: sqrt(N / 2) of 40,000 documents.
      scored: The share of documents that are scored.
      alike: How much shards differ without drift: 1 is a standard deviation of .05 of cosines', influence's and log lengths'
        standard deviations, of 5 % of the rejections, and a Dirichlet of 1,000 for the clusters' sizes; 0 is not at all.
    """

    documents: int = 2_000
    num_clusters: int = 141
    scored: float = 0.25
    alike: float = 1.0

    def shard(self, rng: np.random.Generator, name: str, drift: Planted = Planted()) -> Shard:
        n, k = self.documents, self.num_clusters
        sizes = 1 / (10 + np.arange(k))
        sizes /= sizes.sum()
        if self.alike:
            sizes = rng.dirichlet(1_000 / self.alike * sizes)
        cosine_effect, influence_effect, length_effect, rejected_effect = rng.normal(
            0, 0.05 * self.alike, 4
        )
        cluster = rng.choice(k, n, p=sizes)
        center = 0.45 + 0.2 * np.sin(cluster)
        cosine = center + 0.07 * (rng.normal(size=n) + cosine_effect)
        is_far = rng.random(n) < drift.far
        cosine[is_far] = 0.12 + 0.03 * rng.normal(size=is_far.sum())
        # Within clusters, Student's t of 5 degrees of freedom, of variance 1; clusters, and shards within them, have their own.
        influence = rng.standard_t(5, n) * np.sqrt(3 / 5) + np.cos(7 * cluster)
        influence += influence_effect + 0.05 * self.alike * rng.normal(size=k)[cluster]
        influence += drift.shift + drift.own_shift * (-1.0) ** cluster
        tokens = np.exp(6 + rng.normal(size=n) + length_effect) * drift.longer
        share = 0.02 * drift.rejections * np.exp(rejected_effect)
        return Shard(
            name,
            cluster,
            np.clip(cosine, -1, 1),
            np.maximum(tokens, 1).astype(np.int64),
            np.where(rng.random(n) < self.scored, 0.01 * influence, np.nan),
            rng.integers(0, 2**63, n).astype(np.uint64),
            {"too short": int(rng.binomial(n, share))},
        )

    def shards(
        self, rng: np.random.Generator, number: int, name: str, drift: Planted = Planted()
    ) -> list[Shard]:
        return [self.shard(rng, f"{name}-{i}", drift) for i in range(number)]


def refer(shards: list[Shard], num_clusters: int) -> ReferenceSums:
    return total(
        [
            ReferenceSums.of(s.cluster, s.cosine, s.tokens, s.influence, num_clusters)
            for s in shards
        ],
        ReferenceSums.zero(num_clusters),
    )


def measure(reference: ReferenceSums, shards: list[Shard], *, is_old: bool) -> DriftSums:
    return total(
        [
            DriftSums.of(
                reference, s.name, s.cluster, s.cosine, s.tokens, s.influence, s.keys, s.rejected,
                is_old=is_old,
            )
            for s in shards
        ],
        DriftSums.zero(reference.num_clusters),
    )  # fmt: skip


def refreshes(
    corpus: Corpus, num_old: int, num_new: int, drifts: dict[str, Planted], number: int, seed: int
) -> dict[str, list[Drift]]:
    """What is found of each drift, planted in as many refreshes."""
    found: dict[str, list[Drift]] = {name: [] for name in drifts}
    for refresh in range(number):
        rng = seeding.generator(seed, "refresh", refresh)
        shards = corpus.shards(rng, num_old, "old")
        reference = refer(shards, corpus.num_clusters)
        old = measure(reference, shards, is_old=True)
        for name, drift in drifts.items():
            new = measure(reference, corpus.shards(rng, num_new, "new", drift), is_old=False)
            found[name].append(find_drift(reference, old, new))
    return found
