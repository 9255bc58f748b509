"""How much each setting of the benchmark measures."""

import dataclasses

from pipelines.demo import proxy

# Two kinds of expository prose, code and literature.
QUERY_DOMAINS = ("biomedicine", "news", "code", "fiction")


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
      num_documents: Documents of the corpus.
      proxy_tokens: Tokens that the proxy from scratch is trained on.
      context_length: A document is its first tokens, this many.
      query_domains: Domains whose documents serve as queries, one after the other.
      num_query: Documents of a query.
      groups_per_domain: Groups of each domain.
      group_size: Documents of a group.
      factor_samples: Sizes of the sample that curvature is fitted on, ascending; the last is the default.
      layers: Choices of tracked layers; the last holds all others.
      dampings: Ratios of the mean eigenvalue.
      adamw: Twenty steps.
      num_partitions: Partitions of the candidates into fifths, each of which is left out of a training on all; 0 for neither
        such trainings nor the metagradient, which holds about √T states of a training of T steps.
      num_seeds: Draws of groups, queries and factor samples.
    """

    num_documents: int
    proxy_tokens: int
    context_length: int
    query_domains: tuple[str, ...]
    num_query: int
    groups_per_domain: int
    group_size: int
    factor_samples: tuple[int, ...]
    layers: tuple[str, ...]
    dampings: tuple[float, ...]
    adamw: proxy.Recipe
    num_partitions: int
    num_seeds: int

    @property
    def num_candidates(self) -> int:
        """Documents of each domain that are scored."""
        return self.groups_per_domain * self.group_size


def twenty_steps(batch_windows: int, window: int, learning_rate: float) -> proxy.Recipe:
    """Makes the recipe of twenty AdamW steps, decayed to a tenth by a cosine."""
    return proxy.Recipe(
        num_tokens=20 * batch_windows * window,
        batch_windows=batch_windows,
        window=window,
        learning_rate=learning_rate,
    )


# Learning rates: at 1e-4 the proxy from scratch loses 0.02 to 0.04 nats on a query by twenty steps on documents of its
# own domain and gains up to 0.02 by steps on others; at 3e-4 nearly all groups raise the loss, since so few documents,
# read again and again by an optimiser without history, mostly make the model forget. At 2e-5 SmolLM2 loses
# 0.07 nats by steps on documents of the query's own domain.
SIZES = {
    "scratch": Size(
        num_documents=6000,
        proxy_tokens=500_000,
        context_length=128,
        query_domains=QUERY_DOMAINS,
        num_query=12,
        groups_per_domain=3,
        group_size=8,
        factor_samples=(128, 400, 1024),
        layers=("attention", "mlp", "all", "head", "all+head"),
        dampings=(0.01, 0.1, 1.0, 10.0),
        adamw=twenty_steps(2, 128, 1e-4),
        num_partitions=4,
        num_seeds=2,
    ),
    "scratch, quick": Size(
        num_documents=2000,
        proxy_tokens=100_000,
        context_length=96,
        query_domains=("biomedicine", "code"),
        num_query=8,
        groups_per_domain=2,
        group_size=3,
        factor_samples=(32, 96),
        layers=("attention", "mlp", "all", "head", "all+head"),
        dampings=(0.1, 1.0),
        adamw=twenty_steps(2, 96, 1e-4),
        num_partitions=4,
        num_seeds=1,
    ),
    "smollm2": Size(
        num_documents=6000,
        proxy_tokens=0,
        context_length=64,
        query_domains=("biomedicine", "code"),
        num_query=6,
        groups_per_domain=3,
        group_size=3,
        factor_samples=(32, 96),
        layers=("attention",),
        dampings=(0.01, 0.1, 1.0),
        adamw=twenty_steps(1, 64, 2e-5),
        num_partitions=0,
        num_seeds=1,
    ),
    "smollm2, quick": Size(
        num_documents=2000,
        proxy_tokens=0,
        context_length=48,
        query_domains=("biomedicine",),
        num_query=4,
        groups_per_domain=1,
        group_size=2,
        factor_samples=(16, 32),
        layers=("attention",),
        dampings=(0.01, 0.1, 1.0),
        adamw=twenty_steps(1, 48, 2e-5),
        num_partitions=0,
        num_seeds=1,
    ),
}
