"""How much of what an oracle would select does the bandit find, and does it meet its budget?

    python -m tests.benchmarks.bandit [--quick] [--acceptance propagate | --large_blocks]

Simulated corpora: 18 domains of equal size, one of them the query's, with means and spreads as METHODS.md (section D)
measured them; clusters of purity about .85, so that most of the spread within a cluster is what strayed into it. Every
document is simulated, and blocks, pulls, thresholds and acceptance are the package's own. A selection's mean influence is
put on a scale from 0, random selection, to 1, taking the clusters in order of their true means.

With `--acceptance propagate` every document has an embedding of 8 dimensions besides, one of which tells a part of how far
its influence lies from its cluster's mean. That part, the R² within clusters, is what a regression on endlessly many
scored documents would explain; `found` is what the regressions on the scored ones do. Next to it stands `block`
acceptance with pulls so large that it scores as many documents. A choice within clusters can pass the oracle's 1.

With `--large_blocks` a block holds 6,250 documents, of which a pull scores ten, as in a corpus of 10^8 documents or more, and the
share of the variance of influence that lies between clusters, the intra-cluster correlation, is .05, .1 or .3. Documents
are drawn when they are scored. Next to `block` acceptance stand no bandit at all, which draws as many documents uniformly
and takes the clusters of the highest means whole, and `cluster` acceptance, which takes them whole by their shrunken means.
`found` is then the correlation as the pilot estimates it.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator

import numpy as np

from beam_quad import seeding
from beam_quad.bandit import (
    BanditState,
    Blocks,
    PullScores,
    QuadPolicy,
    block_of,
    default_samples_per_pull,
    num_blocks,
    replay,
    rules,
)
from beam_quad.bandit.acceptance import ACCEPTANCES, WholeClusters, take_blocks
from beam_quad.bandit.arms import PullTable
from beam_quad.bandit.posterior import VarianceComponents
from beam_quad.distillation.within_clusters import ClusterRegression

# A corpus of 10^8 documents: how much of the variance lies between clusters, and how documents vary in length.
CORRELATIONS = (0.05, 0.1, 0.3)
BLOCKS_PER_CLUSTER = 16
BLOCK_DOCUMENTS = 6_250
LENGTHS = (5.9, 0.8)
MEAN_TOKENS = float(np.exp(LENGTHS[0] + LENGTHS[1] ** 2 / 2)) + 1.5
TOKEN_SPREAD = float(np.exp(LENGTHS[1] ** 2))
DIM = 8
R_SQUARED = (0.0, 0.3, 0.6, 0.9)

# The rule stands in no registry that the command line reads.
ACCEPTANCES.setdefault(WholeClusters.name, WholeClusters)

# The query's domain, ten others and seven of noise: on average .017, as measured for a random selection.
DOMAIN_MEANS = np.array(
    [0.20, 0.06, 0.04, 0.03, 0.02, 0.015, 0.01, 0.005, 0.0, 0.0, 0.0] + [-0.01] * 7
)
# A sixth of the gap between the query's domain and the next, shared between clusters and their documents.
CLUSTER_DEVIATION = 0.012
DOCUMENT_DEVIATION = 0.020


@dataclasses.dataclass(frozen=True)
class Case:
    """One row: so many clusters of so many documents on average, and the budget as a share of the corpus's tokens."""

    num_clusters: int
    share: float
    is_skewed: bool = False
    cluster_size: int = 400

    @property
    def name(self) -> str:
        return f"{self.num_clusters}@{self.share:g}" + ("-skewed" if self.is_skewed else "")


@dataclasses.dataclass(frozen=True)
class Outcome:
    share_of_oracle: float
    budget_met: float
    documents_scored: int
    found: float = 0.0


class Corpus:
    """Documents in the order of (cluster, block, hash)."""

    def __init__(self, num_clusters: int, cluster_size: int, is_skewed: bool, seed: int) -> None:
        rng = np.random.default_rng([seed, num_clusters, is_skewed])
        # Lognormal with sigma 1: the largest tenth of the clusters holds almost four tenths of the corpus.
        popularity = rng.lognormal(sigma=1.0 if is_skewed else 0.0, size=num_clusters)
        sizes = rng.poisson(cluster_size * popularity / popularity.mean())
        cluster_id = np.repeat(np.arange(num_clusters), sizes)
        keys = seeding.mix(seed, "document", np.arange(cluster_id.size, dtype=np.uint64))
        self.samples_per_pull = default_samples_per_pull(cluster_id.size, num_clusters)
        counts = num_blocks(sizes, sizes, self.samples_per_pull)
        block = block_of(cluster_id, seeding.uniform(seed, "block", keys), counts)
        order = np.lexsort((keys, block, cluster_id))
        self.keys, cluster_id, block = keys[order], cluster_id[order], block[order]
        self.influence = _influence(rng, cluster_id, num_clusters)
        self.cluster_id, self.noise = cluster_id, rng.normal(size=(cluster_id.size, DIM + 1))
        self.tokens = np.ceil(rng.lognormal(*LENGTHS, cluster_id.size)).astype(np.int64) + 1
        in_reserve = np.ones(cluster_id.size, dtype=bool)
        self.blocks = Blocks.of(counts, cluster_id, block, self.tokens, in_reserve)
        self.starts = np.concatenate([[0], np.cumsum(self.blocks.examples)])
        totals = np.concatenate([[0.0], np.cumsum(self.tokens * self.influence)])
        self.block_totals = np.diff(totals[self.starts])

    @property
    def num_tokens(self) -> int:
        return int(self.blocks.tokens.sum())

    @functools.cached_property
    def true_means(self) -> np.ndarray:
        tokens = self.blocks.per_cluster(self.blocks.tokens)
        totals = np.bincount(self.blocks.cluster_id, self.block_totals, self.blocks.num_clusters)
        return totals / np.maximum(tokens, 1)

    def embeddings(self, r_squared: float) -> np.ndarray:
        """Embeddings that tell so much of the variance of influence in every cluster, float64 [documents, DIM]."""
        deviations = _centred(self.influence, self.cluster_id)
        variances = np.bincount(self.cluster_id, deviations**2) / np.bincount(self.cluster_id)
        told = r_squared**0.5 * deviations / np.sqrt(variances)[self.cluster_id]
        told += (1 - r_squared) ** 0.5 * self.noise[:, DIM]
        return np.column_stack([told, self.noise[:, 1:DIM]])

    def score(self, cluster_id: int, block: int, samples_per_pull: int | None = None) -> PullScores:
        place = self.blocks.offsets[cluster_id] + block
        start = self.starts[place]
        samples = samples_per_pull or self.samples_per_pull
        at = slice(start, min(start + samples, self.starts[place + 1]))
        return PullScores(cluster_id, block, self.keys[at], self.tokens[at], self.influence[at])

    def best_threshold(self, means: np.ndarray, share: float) -> float:
        """The mean down to which the best clusters hold a share of the corpus."""
        supply = self.blocks.per_cluster(self.blocks.tokens)
        return rules.water_level(means, supply, share * self.num_tokens)

    def outcome(self, places: np.ndarray, taken: np.ndarray, budget: int, scored: int) -> Outcome:
        """Values a selection of `taken` tokens of the blocks at `places`."""
        means = self.block_totals[places] / self.blocks.tokens[places]
        return self.valued(float(means @ taken), int(taken.sum()), budget, scored)

    def valued(self, total: float, taken: int, budget: int, scored: int) -> Outcome:
        """Puts the influence of a selection of `taken` tokens, summed over them, on the scale."""
        mean = total / max(taken, 1)
        random = float(self.block_totals.sum()) / self.num_tokens
        best = np.argsort(-self.true_means)
        supply = self.blocks.per_cluster(self.blocks.tokens)[best]
        # The oracle selects as much: where the budget is missed, it need not go down as far either.
        given = np.clip(taken - (np.cumsum(supply) - supply), 0, supply)
        oracle = float(self.true_means[best] @ given) / max(taken, 1)
        return Outcome((mean - random) / (oracle - random), taken / budget, scored)


class LargeBlocks(Corpus):
    """Clusters of 16 blocks of 6,250 documents, of which only those are drawn that are scored.

    Clusters have normal means of variance `correlation`, and documents lie about them with what is missing to 1.
    """

    def __init__(self, num_clusters: int, correlation: float, seed: int) -> None:
        rng = np.random.default_rng([seed, num_clusters, round(1000 * correlation)])
        self.samples_per_pull, self.seed = 10, seed
        counts = np.full(num_clusters, BLOCKS_PER_CLUSTER, np.int32)
        size = num_clusters * BLOCKS_PER_CLUSTER
        examples = rng.poisson(BLOCK_DOCUMENTS, size)
        # A sum of lognormal lengths of so many documents is as good as its expectation.
        tokens = np.round(examples * MEAN_TOKENS).astype(np.int64)
        self.blocks = Blocks(counts, examples, tokens, np.full(size, self.samples_per_pull))
        self.cluster_means = correlation**0.5 * rng.normal(size=num_clusters)
        self.deviation = (1 - correlation) ** 0.5
        # Weights of tokens make of so many documents fewer effective ones.
        errors = self.deviation / np.sqrt(examples / TOKEN_SPREAD) * rng.normal(size=size)
        self.block_totals = tokens * (self.cluster_means[self.blocks.cluster_id] + errors)

    def score(self, cluster_id: int, block: int, samples_per_pull: int | None = None) -> PullScores:
        samples = samples_per_pull or self.samples_per_pull
        rng = np.random.default_rng([self.seed, cluster_id, block])
        keys = rng.integers(0, 2**63, samples).astype(np.uint64)
        return PullScores(cluster_id, block, keys, *self.draw(rng, np.full(samples, cluster_id)))

    def draw(
        self, rng: np.random.Generator, cluster_id: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws a document of each of these clusters; returns tokens and influence."""
        tokens = np.ceil(rng.lognormal(*LENGTHS, cluster_id.size)).astype(np.int64) + 1
        noise = self.deviation * rng.normal(size=cluster_id.size)
        return tokens, self.cluster_means[cluster_id] + noise

    def whole_clusters(self, worth: np.ndarray, budget: int, scored: int) -> Outcome:
        """Values the clusters of the highest worth, the last cut where the budget ends."""
        supply = self.blocks.per_cluster(self.blocks.tokens)
        ties = rules.tie_breakers(self.seed, self.blocks.num_clusters)
        order, taken = take_blocks(
            worth, supply, supply, ties, -np.inf, budget, np.arange(len(worth))
        )
        total = float(self.true_means[order] @ taken)
        return self.valued(total, int(taken.sum()), budget, scored)


def _influence(rng: np.random.Generator, cluster_id: np.ndarray, num_clusters: int) -> np.ndarray:
    own = rng.permutation(np.arange(num_clusters) % DOMAIN_MEANS.size)
    purity = rng.beta(8.5, 1.5, num_clusters)
    shift = rng.normal(0.0, CLUSTER_DEVIATION, num_clusters)
    strays = rng.uniform(size=cluster_id.size) > purity[cluster_id]
    stray_domain = rng.integers(0, DOMAIN_MEANS.size, cluster_id.size)
    domain = np.where(strays, stray_domain, own[cluster_id])
    noise = rng.normal(0.0, DOCUMENT_DEVIATION, cluster_id.size)
    return DOMAIN_MEANS[domain] + shift[cluster_id] + noise


def play(corpus: Corpus, policy: QuadPolicy) -> Outcome:
    """Runs rounds, each decided by a replay of all before it, as the pipeline does."""
    return _outcome_of(corpus, policy, play_rounds(corpus, policy)[0])


def play_rounds(corpus: Corpus, policy: QuadPolicy) -> tuple[BanditState, list[PullScores]]:
    """Runs rounds until the bandit stops; returns all pulls, too."""
    rounds: list[tuple[PullScores, ...]] = []
    state = replay(policy, corpus.blocks, rounds)
    while not state.is_done:
        pulls = state.pulls
        rounds.append(tuple(corpus.score(*pull, policy.samples_per_pull) for pull in pulls))
        state = replay(policy, corpus.blocks, rounds)
    return state, [pull for scores in rounds for pull in scores]


def _outcome_of(corpus: Corpus, policy: QuadPolicy, state: BanditState) -> Outcome:
    places = [corpus.blocks.offsets[b.cluster_id] + b.block for b in state.accepted]
    taken = np.array([b.take_tokens for b in state.accepted], dtype=np.int64)
    scored = state.log[-1].scored_examples
    return corpus.outcome(np.array(places, dtype=np.int64), taken, policy.budget_tokens, scored)


def propagate(corpus: Corpus, budget: int, seed: int) -> list[Outcome]:
    """Runs rounds of `propagate`, which no embedding changes, and values what is taken at every R²."""
    policy = QuadPolicy(budget, corpus.samples_per_pull, seed=seed, acceptance="propagate")
    state, pulls = play_rounds(corpus, policy)
    scored = state.log[-1].scored_examples
    return [best_predicted(corpus, policy, pulls, scored, r_squared) for r_squared in R_SQUARED]


def best_predicted(
    corpus: Corpus, policy: QuadPolicy, pulls: list[PullScores], scored: int, r_squared: float
) -> Outcome:
    """Takes the documents that are known or predicted to be best."""
    embeddings = corpus.embeddings(r_squared)
    by_cluster: dict[int, list[PullScores]] = {}
    for pull in pulls:
        by_cluster.setdefault(pull.cluster_id, []).append(pull)
    ranks, is_predicted = np.full(corpus.keys.size, np.nan), np.zeros(corpus.keys.size, bool)
    for cluster_id, own in by_cluster.items():
        places = [corpus.blocks.offsets[cluster_id] + pull.block for pull in own]
        blocks = [np.arange(corpus.starts[at], corpus.starts[at + 1]) for at in places]
        known = np.concatenate([documents[: policy.samples_per_pull] for documents in blocks])
        fitted = ClusterRegression.fit(
            embeddings[known], corpus.influence[known], corpus.tokens[known], corpus.keys[known], 0
        )
        if fitted.regression is None:
            ranks[np.concatenate(blocks)] = fitted.mean
        else:
            start, end = corpus.starts[corpus.blocks.offsets[cluster_id : cluster_id + 2]]
            ranks[start:end] = fitted.regression.predict(embeddings[start:end])[:, 0]
            is_predicted[start:end] = True
        ranks[known], is_predicted[known] = corpus.influence[known], False
    documents = np.flatnonzero(is_predicted)
    found = _explained(ranks[documents], corpus.influence[documents], corpus.cluster_id[documents])
    order = np.argsort(-ranks)[: np.count_nonzero(~np.isnan(ranks))]
    tokens = corpus.tokens[order]
    taken = np.clip(policy.budget_tokens - (np.cumsum(tokens) - tokens), 0, tokens)
    total = float(corpus.influence[order] @ taken)
    outcome = corpus.valued(total, int(taken.sum()), policy.budget_tokens, scored)
    return dataclasses.replace(outcome, found=found)


def _explained(predicted: np.ndarray, influence: np.ndarray, cluster_id: np.ndarray) -> float:
    """The squared correlation of predictions with influence, both about the means of their clusters."""
    values = (_centred(predicted, cluster_id), _centred(influence, cluster_id))
    return float(np.corrcoef(*values)[0, 1] ** 2)


def _centred(values: np.ndarray, cluster_id: np.ndarray) -> np.ndarray:
    means = np.bincount(cluster_id, values) / np.maximum(np.bincount(cluster_id), 1)
    centred: np.ndarray = values - means[cluster_id]
    return centred


def as_many_scored(corpus: Corpus, budget: int, seed: int, scored: int) -> Outcome:
    """`block` acceptance with pulls of the size at which it scores about as many documents."""
    samples = corpus.samples_per_pull
    for _ in range(3):
        outcome = play(corpus, QuadPolicy(budget, samples, seed=seed))
        samples = max(round(samples * scored / outcome.documents_scored), 1)
    return outcome


def water_level(corpus: Corpus, budget: int, seed: int) -> Outcome:
    return play(corpus, QuadPolicy(budget, corpus.samples_per_pull, seed=seed))


def fixed_threshold(corpus: Corpus, budget: int, seed: int, factor: float) -> Outcome:
    """The same rounds, the threshold fixed by the pilot where the best clusters hold `factor` budgets."""
    pilot = QuadPolicy(budget, corpus.samples_per_pull, seed=seed)
    pulls = replay(pilot, corpus.blocks, []).pulls
    state = replay(pilot, corpus.blocks, [tuple(corpus.score(*pull) for pull in pulls)])
    tau = corpus.best_threshold(state.arms.mean_influence, factor * budget / corpus.num_tokens)
    return play(corpus, dataclasses.replace(pilot, tau=tau))


def published(corpus: Corpus, budget: int, seed: int) -> Outcome:
    """Quad as published: no pilot, 50 arms a round, 200 rounds, a fixed threshold.

    An accepted pull gives a third of its cluster (20,000 of about 60,000 documents). The threshold is a gift: the true
    mean down to which the best clusters hold 1.2 budgets. The confidence term is in the units of our own.
    """
    blocks, tau = (
        corpus.blocks,
        corpus.best_threshold(corpus.true_means, 1.2 * budget / corpus.num_tokens),
    )
    thirds = [
        [part for part in np.array_split(np.arange(start, end), 3) if part.size]
        for start, end in zip(blocks.offsets[:-1], blocks.offsets[1:], strict=True)
    ]
    pulls, totals, tokens = (np.zeros(blocks.num_clusters) for _ in range(3))
    has_next = np.array([bool(parts) for parts in thirds])
    exploration = 0.5 * float(corpus.influence.std()) / corpus.samples_per_pull**0.5
    ties = rules.tie_breakers(seed, blocks.num_clusters)
    accepted: list[np.ndarray] = []
    left, scored = budget, 0
    for _ in range(200):
        bounds = rules.upper_bounds(totals / np.maximum(tokens, 1), pulls, exploration)
        order = rules.ranking(bounds, ties)
        for arm in order[has_next[order]][:50]:
            part = thirds[arm].pop(0)
            has_next[arm] = bool(thirds[arm])
            pull = corpus.score(int(arm), int(part[0] - blocks.offsets[arm]))
            total, count = float(pull.tokens @ pull.influence), int(pull.tokens.sum())
            pulls[arm], totals[arm], tokens[arm] = (
                pulls[arm] + 1,
                totals[arm] + total,
                tokens[arm] + count,
            )
            scored += pull.keys.size
            if count and total / count >= tau and left > 0:
                accepted.append(part)
                left -= int(blocks.tokens[part].sum())
        if left <= 0:
            break
    places = np.concatenate([np.zeros(0, dtype=np.int64), *accepted])
    offered = blocks.tokens[places]
    taken = np.clip(budget - (np.cumsum(offered) - offered), 0, offered)
    return corpus.outcome(places, taken, budget, scored)


RULES: dict[str, Callable[[Corpus, int, int], Outcome]] = {
    "water level": water_level,
    "fixed, best 2r": functools.partial(fixed_threshold, factor=2.0),
    "fixed, best 1.2r": functools.partial(fixed_threshold, factor=1.2),
    "as published": published,
}
CASES = (
    Case(10_000, 0.05),
    Case(1_000, 0.05),
    Case(1_000, 0.20),
    Case(60, 0.06),
    Case(60, 0.039, cluster_size=120),
    Case(10_000, 0.05, is_skewed=True),
    Case(1_000, 0.05, is_skewed=True),
    Case(1_000, 0.20, is_skewed=True),
    Case(60, 0.06, is_skewed=True),
)


def num_seeds(case: Case, is_quick: bool) -> int:
    """Small corpora vary more and cost less."""
    if case.num_clusters >= 10_000:
        return 1 if is_quick else 3
    if case.num_clusters >= 1_000:
        return 1 if is_quick else 5
    return 8 if is_quick else 30


def run(case: Case, is_quick: bool) -> dict[str, list[Outcome]]:
    names = ("water level", "as published") if is_quick and case.num_clusters >= 10_000 else RULES
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for seed in range(num_seeds(case, is_quick)):
        corpus = Corpus(case.num_clusters, case.cluster_size, case.is_skewed, seed)
        budget = int(case.share * corpus.num_tokens)
        for name in outcomes:
            outcomes[name].append(RULES[name](corpus, budget, seed))
    return outcomes


def run_propagate(case: Case, is_quick: bool) -> dict[str, list[Outcome]]:
    """`propagate` at every R², and `block` with as many documents scored."""
    names = ("block", "block, as many", *(f"propagate, R² {r:g}" for r in R_SQUARED))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for seed in range(max(num_seeds(case, is_quick) // 3, 1)):
        corpus = Corpus(case.num_clusters, case.cluster_size, case.is_skewed, seed)
        budget = int(case.share * corpus.num_tokens)
        found = propagate(corpus, budget, seed)
        as_many = as_many_scored(corpus, budget, seed, found[0].documents_scored)
        for name, outcome in zip(
            names, (water_level(corpus, budget, seed), as_many, *found), strict=True
        ):
            outcomes[name].append(outcome)
    return outcomes


def large_blocks(corpus: LargeBlocks, budget: int, seed: int) -> dict[str, Outcome]:
    """`block` acceptance, no bandit with as many documents scored, and `cluster` acceptance."""
    policy = QuadPolicy(budget, corpus.samples_per_pull, seed=seed)
    state, pulls = play_rounds(corpus, policy)
    block = _outcome_of(corpus, policy, state)
    num_clusters, scored = corpus.blocks.num_clusters, block.documents_scored

    rng = np.random.default_rng([seed, num_clusters])
    shares = corpus.blocks.per_cluster(corpus.blocks.examples)
    drawn = rng.choice(num_clusters, scored, p=shares / shares.sum())
    tokens, influence = corpus.draw(rng, drawn)
    sums = np.bincount(drawn, tokens * influence, num_clusters)
    means = sums / np.maximum(np.bincount(drawn, tokens, num_clusters), 1)

    cluster = play(corpus, dataclasses.replace(policy, acceptance=WholeClusters.name))
    pilot = VarianceComponents.of(PullTable.of(pulls[:num_clusters]))
    return {
        "block": dataclasses.replace(block, found=pilot.intra_cluster_correlation),
        "no bandit": corpus.whole_clusters(means, budget, scored),
        "cluster": cluster,
    }


def run_large_blocks(is_quick: bool) -> Iterator[tuple[str, dict[str, list[Outcome]]]]:
    """Runs all rules in every case of large blocks."""
    for num_clusters, share in ((2_000, 0.05),) if is_quick else ((2_000, 0.05), (10_000, 0.03)):
        for correlation in CORRELATIONS:
            own: dict[str, list[Outcome]] = {}
            for seed in range(1 if is_quick else 3):
                corpus = LargeBlocks(num_clusters, correlation, seed)
                budget = int(share * corpus.num_tokens)
                for name, outcome in large_blocks(corpus, budget, seed).items():
                    own.setdefault(name, []).append(outcome)
            yield f"{num_clusters}@{share:g} {correlation:g}", own


def _range(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.2f}-{max(values):.2f})"


def run_all(is_quick: bool, kind: str) -> Iterator[tuple[str, dict[str, list[Outcome]]]]:
    """Runs case after case; yields its name and the outcomes of every rule."""
    if kind == "large blocks":
        yield from run_large_blocks(is_quick)
        return
    for case in CASES:
        is_large = case.num_clusters >= 10_000
        if is_large and (kind == "propagate" or (is_quick and case.is_skewed)):
            continue
        ran = run_propagate(case, is_quick) if kind == "propagate" else run(case, is_quick)
        yield case.name, ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer seeds and cases")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--acceptance", choices=("block", "propagate"), default="block")
    kinds.add_argument("--large_blocks", action="store_true", help="blocks of 6,250 documents")
    flags = parser.parse_args()
    kind = "large blocks" if flags.large_blocks else flags.acceptance
    columns = [field.name for field in dataclasses.fields(Outcome)]
    result: dict[str, dict[str, float]] = {key: {} for key in columns}
    print(f"{'case':<20}{'rule':<20}{'share of oracle':<22}{'budget met':<22}scored  found")
    began = time.perf_counter()
    for case, ran in run_all(flags.quick, kind):
        for name, outcomes in ran.items():
            values = {key: [getattr(o, key) for o in outcomes] for key in columns}
            shares, met = _range(values["share_of_oracle"]), _range(values["budget_met"])
            scored, found = (float(np.mean(values[key])) for key in columns[2:])
            print(f"{case:<20}{name:<20}{shares:<22}{met:<22}{scored:<8,.0f}{found:.2f}")
            if kind != "block" or name == "water level":
                row = case if kind == "block" else f"{case}, {name}"
                for key in columns:
                    result[key][row] = round(float(np.mean(values[key])), 4)
        print(f"{'':<20}{len(outcomes)} seeds, {time.perf_counter() - began:.1f} s")
        began = time.perf_counter()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
