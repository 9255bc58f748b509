"""Figures over all seeds, and the tables that show them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.counterfactual.agreement import (
    Agreement,
    Estimate,
    area_under_curve,
    gain,
    rank_correlation,
    share_on_top,
)
from tests.benchmarks.counterfactual.scores import default, named, settings
from tests.benchmarks.counterfactual.seeds import CEILING, INFLUENCES, Key, Result
from tests.benchmarks.counterfactual.sizes import Size

_TITLES = {
    CEILING: "metagradient (the ceiling)",
    "joint": "n-grams + EK-FAC, joint rank",
    "ekfac_unit": "EK-FAC, all layers, unit length",
    "ekfac_head": "EK-FAC, head, unit length",
    "ngrams": "n-grams of the proxy's tokens",
    "loss_drop": "loss drop",
    "ekfac": "EK-FAC, attention",
    "kfac": "K-FAC, attention",
    "dot": "gradient dot product, attention",
    "perplexity": "perplexity (lower is better)",
    "random": "random",
}


class Figures:
    """Figures of one proxy.

    Args:
      size: What was measured.
      results: What came out, by seed.
    """

    def __init__(self, size: Size, results: Sequence[Result]) -> None:
        adamw, domains = [r.adamw for r in results], results[0].drawn.domains
        left_out = [r.left_out for r in results if r.left_out is not None]
        self._size = size
        self._results = results
        self._adamw = Agreement(adamw, domains)
        self._gain = Agreement(adamw, domains, gain)
        # Fifths of one partition make up for each other.
        self._left_out = (
            Agreement([own.rises for own in left_out], left_out[0].partitions) if left_out else None
        )
        self._small = {
            kind: Agreement([r.small[kind] for r in results], domains) for kind in INFLUENCES
        }

    def as_json(self) -> dict[str, Any]:
        """Computes all figures: of the scorers at the defaults, and of every setting."""
        decrease = np.concatenate([r.adamw.ravel() for r in self._results])
        return {
            "groups": [len(r.adamw) for r in self._results],
            "retrainings": [len(r.left_out.rises) for r in self._results if r.left_out],
            "adamw_decrease_nats": [
                round(float(q), 4) for q in np.percentile(decrease, [5, 50, 95])
            ],
            "scorers": {name: self._scorer(name, key) for name, key in self._keys().items()},
            "settings": {s.name: self._setting(s) for s in settings(self._size)},
        }

    def _keys(self) -> dict[str, Key]:
        """What the scorers of the table are scored by, in its order."""
        keys: dict[str, Key] = {name: named(self._size).get(name, name) for name in _TITLES}
        return {name: key for name, key in keys.items() if key in self._results[0].scores}

    def _predicted(self, key: Key) -> list[np.ndarray]:
        return [r.of_groups(key) for r in self._results]

    def _scorer(self, name: str, key: Key) -> dict[str, Any]:
        predicted = self._predicted(key)
        own: dict[str, Any] = {"own_step": None, "own_step_slope": None}
        if name in INFLUENCES:
            own["own_step"] = self._small[name].estimate(predicted).rounded()
            own["own_step_slope"] = _slope(predicted, [r.small[name] for r in self._results])
        sgd = {"sgd_step": self._small["dot"].estimate(predicted).rounded()}
        return own | sgd | self._judged(key)

    def _setting(self, setting: Key) -> dict[str, Any]:
        value, again = self._adamw.replicates(self._predicted(setting))
        base, base_again = self._adamw.replicates(self._predicted(default(self._size)))
        minus = Estimate.of(value - base, again - base_again).rounded()
        return self._judged(setting) | {"minus_default": minus}

    def _judged(self, key: Key) -> dict[str, Any]:
        predicted = self._predicted(key)
        return {
            "adamw_20": self._adamw.estimate(predicted).rounded(),
            "adamw_20_gain": self._gain.estimate(predicted).rounded(),
            "left_out": self._of_left_out(key),
            "metagradient": self._of_ceiling(key),
            "auc": self._singled_out(area_under_curve, key),
            "top": self._singled_out(share_on_top, key),
        }

    def _of_left_out(self, key: Key) -> dict[str, float] | None:
        if self._left_out is None:
            return None
        predicted = [r.left_out.predicted(r.scores[key]) for r in self._results if r.left_out]
        return self._left_out.estimate(predicted).rounded()

    def _of_ceiling(self, key: Key) -> float | None:
        """Correlates scores of documents with their metagradients."""
        if self._left_out is None:
            return None
        each = [rank_correlation(r.scores[key], r.scores[CEILING]) for r in self._results]
        return round(float(np.mean(each)), 4)

    def _singled_out(self, judge: Callable[[np.ndarray, np.ndarray], float], key: Key) -> float:
        return round(float(np.mean([r.by_query(judge, key) for r in self._results])), 4)


def _slope(predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray]) -> float:
    """Fits measured = slope * predicted: 1 where the first order is all there is."""
    x, y = np.concatenate(predicted), np.concatenate(measured)
    return round(float((x * y).sum() / (x * x).sum()), 4)


def show(proxy_name: str, size: Size, figures: dict[str, Any]) -> None:
    """Prints the tables."""
    low, middle, high = figures["adamw_decrease_nats"]
    print(
        f"\n{proxy_name}: {'+'.join(map(str, figures['groups']))} groups of {size.group_size} documents of one domain "
        f"each, at most {size.context_length} tokens a document;\nqueries of {size.num_query} documents: "
        f"{', '.join(size.query_domains)}. The query loss fell by {middle:.3f} nats in 20 AdamW steps\n"
        f"(median; 5-95 %: {low:.3f} to {high:.3f}). Steps: Spearman's rank correlation with the groups' mean scores, "
        "95 % intervals over\ndomains; gain: what the tenth with the best scores gave, from 0, the mean, to 1, the "
        "best tenth;\nleft out: rank correlation of scores, added up over a random fifth of the candidates, with the loss "
        "that a\ntraining on all others ends higher by; metagr.: rank correlation with the metagradient, document by "
        "document;\nauc, top: how well a score singles out documents of the query's own domain.\n"
    )
    print(f"{'scorer':<32}{'own step':>9}{'slope':>7}{'SGD step':>10}{_HEAD}")
    for name, figure in figures["scorers"].items():
        own = "" if figure["own_step"] is None else f"{figure['own_step']['value']:.4f}"
        slope = "" if figure["own_step"] is None else f"{figure['own_step_slope']:.3f}"
        sgd = figure["sgd_step"]["value"]
        print(f"{_TITLES[name]:<32}{own:>9}{slope:>7}{sgd:>10.3f}{_judged(figure)}")
    print(f"\n{'setting':<56}{_HEAD}{'minus the default':>25}")
    for name, figure in figures["settings"].items():
        print(f"{name:<56}{_judged(figure)}{_interval(figure['minus_default'], '+'):>25}")
    print()


_HEAD = f"{'AdamW x 20':>23}{'gain':>22}{'left out':>22}{'metagr.':>9}{'auc':>7}{'top':>6}"


def _judged(figure: dict[str, Any]) -> str:
    adamw, chosen = _interval(figure["adamw_20"]), _interval(figure["adamw_20_gain"])
    left_out, ceiling = "", ""
    if figure["left_out"] is not None:
        left_out, ceiling = _interval(figure["left_out"]), f"{figure['metagradient']:.2f}"
    own_domain = f"{figure['auc']:>7.3f}{figure['top']:>6.2f}"
    return f"{adamw:>23}{chosen:>22}{left_out:>22}{ceiling:>9}{own_domain}"


def _interval(figure: dict[str, float], sign: str = "") -> str:
    digits = f"{sign}.2f"
    low, high = figure["low"], figure["high"]
    return f"{figure['value']:{sign}.3f} [{low:{digits}}, {high:{digits}}]"
