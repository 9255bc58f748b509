"""One seed's measurements: scores of its candidates, and what training did."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from beam_quad import scoring, seeding
from beam_quad.gradients import Proxy
from beam_quad.selection import SHORTLIST_WEIGHTS, JointRanks
from tests.benchmarks.counterfactual import agreement, steps
from tests.benchmarks.counterfactual.draws import Draw
from tests.benchmarks.counterfactual.left_out import LeftOut, Retraining
from tests.benchmarks.counterfactual.scores import Scores, Setting, default, named
from tests.benchmarks.counterfactual.sizes import Size
from tests.benchmarks.duel.kept import Kept
from tests.benchmarks.duel.scores import ngrams_by_query

INFLUENCES = ("ekfac", "kfac", "dot")
CEILING = "metagradient"
Key = Setting | str


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores and measurements of one seed.

    Attributes:
      drawn: Candidates, groups and queries.
      scores: By setting, or by the name of another scorer, float64 [num_candidates, num_queries].
      small: Measured decrease after a small step, by the curvature of the step, [num_groups, num_queries].
      adamw: Measured decrease after twenty AdamW steps, nats, [num_groups, num_queries].
      left_out: What trainings without a fifth of the candidates did; None if there were none.
    """

    drawn: Draw
    scores: Mapping[Key, np.ndarray]
    small: Mapping[str, np.ndarray]
    adamw: np.ndarray
    left_out: LeftOut | None

    def of_groups(self, key: Key) -> np.ndarray:
        """Mean scores of the groups, float64 [num_groups, num_queries]."""
        return agreement.group_means(self.scores[key], self.drawn.groups)

    def by_query(self, judge: Callable[[np.ndarray, np.ndarray], float], key: Key) -> np.ndarray:
        """Judges how scores single out each query's own domain, [num_queries]."""
        return np.array(
            [
                judge(self.scores[key][:, column], self.drawn.sources == domain)
                for column, domain in enumerate(self.drawn.queries)
            ]
        )


def measure(
    proxy: Proxy, size: Size, drawn: Draw, kept: Kept, say: Callable[[str], None]
) -> Result:
    """Scores the candidates in every way, and takes every kind of step."""
    influence = Scores(proxy, size, drawn)
    say(f"seed {drawn.seed}: fitted the curvatures")
    by_setting = influence.compute(size)
    scores: dict[Key, np.ndarray] = {
        **by_setting,
        **_others(proxy, drawn, by_setting[named(size)["ekfac_unit"]]),
    }
    say(f"seed {drawn.seed}: scored {len(drawn.candidates)} candidates")
    left_out = None
    if size.num_partitions:
        retraining = Retraining(proxy, size, drawn, kept)
        scores[CEILING] = retraining.metagradients()
        say(f"seed {drawn.seed}: differentiated a training on all candidates")
        left_out = retraining.leave_out()
        say(f"seed {drawn.seed}: trained without {len(left_out.rises)} fifths")
    own = {kind: default(size, kind) for kind in INFLUENCES}
    small = steps.small_steps(
        proxy,
        influence.blocks(size.layers[0]),
        drawn,
        {kind: functools.partial(influence.precondition, s) for kind, s in own.items()},
        {kind: agreement.group_means(scores[s], drawn.groups) for kind, s in own.items()},
    )
    say(f"seed {drawn.seed}: took the small steps on {len(drawn.groups)} groups")
    adamw = steps.adamw_steps(proxy, drawn, size.adamw)
    say(f"seed {drawn.seed}: took the AdamW steps")
    return Result(drawn, scores, small, adamw, left_out)


def _others(proxy: Proxy, drawn: Draw, influence: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that are no influence, or not that alone, float64 [num_candidates, num_queries] each."""
    texts, num_queries = drawn.texts, len(drawn.queries)
    losses = scoring.PerplexityScorer(proxy).score(texts)
    draws = seeding.uniform(drawn.seed, "random", seeding.keys(texts))[:, None]
    ngrams = ngrams_by_query(proxy, texts, drawn.queries, drawn.seed)
    drops = [
        scoring.LossDropScorer(proxy, scoring.tune_on_query(proxy, query)).score(texts)
        for query in drawn.queries.values()
    ]
    joint = [
        JointRanks.of(pair).rank(pair, SHORTLIST_WEIGHTS)
        for pair in zip(influence.T, ngrams.T, strict=True)
    ]
    return {
        "joint": np.stack(joint, axis=1),
        "ngrams": ngrams,
        "loss_drop": np.concatenate(drops, axis=1),
        # Lower loss is taken as the better, as a filter by perplexity does.
        "perplexity": np.repeat(-losses, num_queries, axis=1),
        "random": np.repeat(draws, num_queries, axis=1),
    }
