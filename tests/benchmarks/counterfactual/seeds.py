"""One seed's measurements: what was predicted for its groups, and what training did."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from beam_quad import scoring, seeding
from beam_quad.gradients import Proxy
from tests.benchmarks.counterfactual import agreement, steps
from tests.benchmarks.counterfactual.draws import Draw
from tests.benchmarks.counterfactual.scores import Scores, Setting, default
from tests.benchmarks.counterfactual.sizes import Size

INFLUENCES = ("ekfac", "kfac", "dot")


@dataclasses.dataclass(frozen=True)
class Result:
    """Predictions and measurements of one seed.

    Attributes:
      domains: Domain of each group, int64 [num_groups].
      settings: Mean influence of each group by setting, float64 [num_groups, num_queries].
      baselines: The same of "perplexity" and "random".
      small: Measured decrease after a small step, by the curvature of the step, [num_groups, num_queries].
      adamw: Measured decrease after twenty AdamW steps, nats, [num_groups, num_queries].
      auc: Area under the curve of the query's own domain, by setting or baseline, [num_queries].
      top: Share of the own domain among the best scores, likewise.
    """

    domains: np.ndarray
    settings: dict[Setting, np.ndarray]
    baselines: dict[str, np.ndarray]
    small: dict[str, np.ndarray]
    adamw: np.ndarray
    auc: dict[Setting | str, np.ndarray]
    top: dict[Setting | str, np.ndarray]


def measure(proxy: Proxy, size: Size, drawn: Draw, say: Callable[[str], None]) -> Result:
    """Scores the candidates by every setting, and takes every kind of step on every group."""
    scores = Scores(proxy, size, drawn)
    say(f"seed {drawn.seed}: fitted the curvatures")
    by_setting = scores.compute(size)
    baselines = _baselines(proxy, drawn)
    say(f"seed {drawn.seed}: scored {len(drawn.candidates)} candidates")
    predicted = {s: agreement.group_means(v, drawn.groups) for s, v in by_setting.items()}
    own = {kind: default(size, kind) for kind in INFLUENCES}
    small = steps.small_steps(
        proxy,
        scores.blocks(size.layers[0]),
        drawn,
        {kind: functools.partial(scores.precondition, s) for kind, s in own.items()},
        {kind: predicted[setting] for kind, setting in own.items()},
    )
    say(f"seed {drawn.seed}: took the small steps on {len(drawn.groups)} groups")
    adamw = steps.adamw_steps(proxy, drawn, size.adamw)
    say(f"seed {drawn.seed}: took the AdamW steps")
    scored: list[tuple[Setting | str, np.ndarray]] = [*by_setting.items(), *baselines.items()]
    return Result(
        domains=drawn.domains,
        settings=predicted,
        baselines={k: agreement.group_means(v, drawn.groups) for k, v in baselines.items()},
        small=small,
        adamw=adamw,
        auc={k: _by_query(agreement.area_under_curve, v, drawn) for k, v in scored},
        top={k: _by_query(agreement.share_on_top, v, drawn) for k, v in scored},
    )


def _baselines(proxy: Proxy, drawn: Draw) -> dict[str, np.ndarray]:
    """Scores without a query, the same for all, float64 [num_candidates, num_queries] each."""
    losses = scoring.PerplexityScorer(proxy).score(drawn.texts)
    draws = seeding.uniform(drawn.seed, "random", seeding.keys(drawn.texts))[:, None]
    # Lower loss is taken as the better, as a filter by perplexity does.
    return {
        "perplexity": np.repeat(-losses, len(drawn.queries), axis=1),
        "random": np.repeat(draws, len(drawn.queries), axis=1),
    }


def _by_query(
    judge: Callable[[np.ndarray, np.ndarray], float], scores: np.ndarray, drawn: Draw
) -> np.ndarray:
    return np.array(
        [
            judge(scores[:, column], drawn.sources == domain)
            for column, domain in enumerate(drawn.queries)
        ]
    )
