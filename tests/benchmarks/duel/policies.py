"""The policies, one entry each: what they select for a query domain under the token budget."""

import dataclasses
from collections.abc import Callable

import numpy as np

from beam_quad import quad, seeding
from beam_quad.scoring import dsir
from beam_quad.selection import SHORTLIST_WEIGHTS, JointRanks
from tests.benchmarks.duel.scores import Scores

RANDOM, OWN = "random", "own-domain"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a policy takes.

    Attributes:
      order: Positions of documents, best first, int64; what the budget holds is taken.
      scored: Share of the corpus's tokens that influence was computed for.
    """

    order: np.ndarray
    scored: float = 0.0


@dataclasses.dataclass(frozen=True)
class Policy:
    """One way to select.

    Attributes:
      choose: Of scores, a domain and a seed; None where the policy has no answer for a domain.
      looks_at: The scores of all documents whose computing is its price, beside influence; see `Scores.cpu_seconds`.
      draws: Whether its selection depends on the seed. If not, seeds only decide the order of training.
    """

    choose: Callable[[Scores, str, int], Choice | None]
    looks_at: tuple[str, ...] = ()
    draws: bool = False


def best_first(values: np.ndarray) -> np.ndarray:
    """Orders positions by descending value; what is not finite is left out."""
    order = np.argsort(-values, kind="stable")
    return np.asarray(order[np.isfinite(values[order])])


def joint_order(
    cheap: np.ndarray,
    exact: np.ndarray,
    lengths: np.ndarray,
    num_tokens: int,
    weights: tuple[float, float],
) -> np.ndarray:
    """Ranks a shortlist by two scores at once.

    Args:
      cheap: Score that every document has, float64 [n]; it makes the shortlist.
      exact: Score that is only looked at on the shortlist, float64 [n].
      lengths: Tokens, int64 [n].
      num_tokens: Tokens of the shortlist.
      weights: Of the exact and of the cheap score.

    Returns:
      Positions of the shortlist, the largest weighted sum of normal scores first.
    """
    short = best_first(cheap)
    short = short[: int(np.searchsorted(np.cumsum(lengths[short]), num_tokens)) + 1]
    short = short[np.isfinite(exact[short])]
    pair = [exact[short], cheap[short]]
    return np.asarray(short[best_first(JointRanks.of(pair).rank(pair, weights))])


def _drawn(scores: Scores, seed: int) -> np.ndarray:
    return seeding.generator(seed, "random draw").permutation(len(scores.material.texts))


def _random(scores: Scores, domain: str, seed: int) -> Choice:
    return Choice(_drawn(scores, seed))


def _own(scores: Scores, domain: str, seed: int) -> Choice | None:
    is_own = np.isin(scores.material.sources, scores.material.domains[domain].own)
    drawn = _drawn(scores, seed)
    return Choice(drawn[is_own[drawn]]) if is_own.any() else None


def _likeliest(scores: Scores, domain: str, seed: int) -> Choice:
    return Choice(best_first(-scores.perplexity()))


def _by(score: Callable[[Scores], np.ndarray], *looks_at: str) -> Policy:
    """Takes the best by a score of all documents, float64 [n, num_domains]."""

    def choose(scores: Scores, domain: str, seed: int) -> Choice:
        return Choice(best_first(scores.column(score(scores), domain)))

    return Policy(choose, looks_at)


def _sampled(score: Callable[[Scores], np.ndarray], *looks_at: str) -> Policy:
    """Samples by log importance weights, float64 [n, num_domains]."""

    def choose(scores: Scores, domain: str, seed: int) -> Choice:
        weights = scores.column(score(scores), domain)
        return Choice(best_first(dsir.sampling_priority(weights, scores.material.keys, seed)))

    return Policy(choose, looks_at, draws=True)


def _influence(layers: str, normalize: bool) -> Policy:
    def choose(scores: Scores, domain: str, seed: int) -> Choice:
        column = scores.column(scores.influence(layers, normalize), domain)
        return Choice(best_first(column), scored=1.0)

    return Policy(choose)


def _shortlist(
    layers: str,
    normalize: bool,
    num_budgets: float = 4.0,
    weights: tuple[float, float] = SHORTLIST_WEIGHTS,
) -> Policy:
    def choose(scores: Scores, domain: str, seed: int) -> Choice:
        lengths = scores.material.lengths
        num_tokens = min(num_budgets * scores.material.size.budget_tokens, float(lengths.sum()))
        cheap = scores.column(scores.ngrams(), domain)
        exact = scores.column(scores.influence(layers, normalize), domain)
        order = joint_order(cheap, exact, lengths, int(num_tokens), weights)
        return Choice(order, scored=float(lengths[order].sum() / lengths.sum()))

    return Policy(choose, ("n-grams ahead",))


def _quad(acceptance: str, layers: str, normalize: bool = False) -> Policy:
    def choose(scores: Scores, domain: str, seed: int) -> Choice:
        material = scores.material
        with scores.lent_to_quad(domain, layers, normalize):
            selection = quad.select(
                material.texts,
                material.queries[domain],
                material.spec,
                budget_tokens=material.size.budget_tokens,
                acceptance=acceptance,
                layers=layers,
                normalize=normalize,
                seed=seed,
            )
        is_scored = np.isfinite(selection.influence)
        share = material.lengths[is_scored].sum() / material.lengths.sum()
        return Choice(selection.indices, scored=float(share))

    return Policy(choose, ("embeddings",), draws=True)


POLICIES: dict[str, Policy] = {
    RANDOM: Policy(_random, draws=True),
    "perplexity": Policy(_likeliest, ("loss",)),
    "quad-block": _quad("block", "attention"),
    "quad-propagate": _quad("propagate", "attention"),
    "influence": _influence("attention", False),
    "influence-all-unit": _influence("all", True),
    "influence-head-unit": _influence("all+head", True),
    "dsir": _sampled(Scores.dsir, "dsir"),
    "ngrams": _by(Scores.ngrams, "n-grams ahead"),
    "ngrams-first-look": _by(lambda scores: scores.ngrams(looks_ahead=False), "n-grams"),
    "ngram-ratios": _by(Scores.ngram_ratios, "n-gram ratios"),
    "similarity-mean": _by(lambda scores: scores.cosines("mean"), "embeddings"),
    "similarity-best": _by(lambda scores: scores.cosines("best"), "embeddings"),
    "cluster-histogram": _sampled(Scores.cluster_histogram, "embeddings"),
    "loss-drop": _by(Scores.loss_drop, "loss drop", "loss"),
    "shortlist": _shortlist("all", True),
    "shortlist-head": _shortlist("all+head", True),
    "shortlist-2-head": _shortlist("all+head", True, 2.0),
    "shortlist-influence": _shortlist("all+head", True, weights=(1.0, 0.0)),
    "joint-rank-head": _shortlist("all+head", True, np.inf),
    OWN: Policy(_own, draws=True),
} | {
    f"shortlist-weight-{weight:g}": _shortlist("all+head", True, weights=(weight, 1.0))
    for weight in (0.25, 0.7, 1.0, 1.4, 2.0)
}

# What is compared unless asked for otherwise: the defaults, the best of each cheap kind, and the bounds.
CORE = (
    RANDOM,
    "quad-block",
    "influence-head-unit",
    "dsir",
    "ngrams",
    "similarity-mean",
    "shortlist-head",
    OWN,
)
