"""Figures over all seeds, and the tables that show them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.benchmarks.counterfactual.agreement import Agreement, Estimate, gain
from tests.benchmarks.counterfactual.scores import Setting, default, settings
from tests.benchmarks.counterfactual.seeds import INFLUENCES, Result
from tests.benchmarks.counterfactual.sizes import Size

_TITLES = {
    "ekfac": "EK-FAC",
    "kfac": "K-FAC",
    "dot": "gradient dot product",
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
        adamw, domains = [r.adamw for r in results], results[0].domains
        self._size = size
        self._results = results
        self._adamw = Agreement(adamw, domains)
        self._gain = Agreement(adamw, domains, gain)
        self._small = {
            kind: Agreement([r.small[kind] for r in results], domains) for kind in INFLUENCES
        }

    def as_json(self) -> dict[str, Any]:
        """Computes all figures: of the scorers at the defaults, and of every setting."""
        decrease = np.concatenate([r.adamw.ravel() for r in self._results])
        return {
            "groups": [len(r.adamw) for r in self._results],
            "adamw_decrease_nats": [
                round(float(q), 4) for q in np.percentile(decrease, [5, 50, 95])
            ],
            "scorers": {name: self._scorer(name) for name in _TITLES},
            "settings": {s.name: self._setting(s) for s in settings(self._size)},
        }

    def _predicted(self, key: Setting | str) -> list[np.ndarray]:
        if isinstance(key, Setting):
            return [r.settings[key] for r in self._results]
        return [r.baselines[key] for r in self._results]

    def _scorer(self, name: str) -> dict[str, Any]:
        key: Setting | str = default(self._size, name) if name in INFLUENCES else name
        predicted = self._predicted(key)
        own: dict[str, Any] = {"own_step": None, "own_step_slope": None}
        if name in INFLUENCES:
            own["own_step"] = self._small[name].estimate(predicted).rounded()
            own["own_step_slope"] = _slope(predicted, [r.small[name] for r in self._results])
        sgd = {"sgd_step": self._small["dot"].estimate(predicted).rounded()}
        return own | sgd | self._judged(key)

    def _setting(self, setting: Setting) -> dict[str, Any]:
        value, again = self._adamw.replicates(self._predicted(setting))
        base, base_again = self._adamw.replicates(self._predicted(default(self._size)))
        minus = Estimate.of(value - base, again - base_again).rounded()
        return self._judged(setting) | {"minus_default": minus}

    def _judged(self, key: Setting | str) -> dict[str, Any]:
        predicted = self._predicted(key)
        return {
            "adamw_20": self._adamw.estimate(predicted).rounded(),
            "adamw_20_gain": self._gain.estimate(predicted).rounded(),
            "auc": round(float(np.mean([r.auc[key] for r in self._results])), 4),
            "top": round(float(np.mean([r.top[key] for r in self._results])), 4),
        }


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
        "best tenth;\nauc, top: how well a score singles out documents of the query's own domain.\n"
    )
    print(f"{'scorer':<30}{'own step':>9}{'slope':>7}{'SGD step':>10}{_HEAD}")
    for name, figure in figures["scorers"].items():
        own = "" if figure["own_step"] is None else f"{figure['own_step']['value']:.4f}"
        slope = "" if figure["own_step"] is None else f"{figure['own_step_slope']:.3f}"
        sgd = figure["sgd_step"]["value"]
        print(f"{_TITLES[name]:<30}{own:>9}{slope:>7}{sgd:>10.3f}{_judged(figure)}")
    print(f"\n{'setting':<56}{_HEAD}{'minus the default':>25}")
    for name, figure in figures["settings"].items():
        print(f"{name:<56}{_judged(figure)}{_interval(figure['minus_default'], '+'):>25}")
    print()


_HEAD = f"{'AdamW x 20':>23}{'gain':>22}{'auc':>7}{'top':>6}"


def _judged(figure: dict[str, Any]) -> str:
    adamw, chosen = _interval(figure["adamw_20"]), _interval(figure["adamw_20_gain"])
    return f"{adamw:>23}{chosen:>22}{figure['auc']:>7.3f}{figure['top']:>6.2f}"


def _interval(figure: dict[str, float], sign: str = "") -> str:
    digits = f"{sign}.2f"
    low, high = figure["low"], figure["high"]
    return f"{figure['value']:{sign}.3f} [{low:{digits}}, {high:{digits}}]"
