"""The figures of a duel as tables for people, and as one object for machines."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.duel import figures
from tests.benchmarks.duel.figures import Difference, Noise, Runs
from tests.benchmarks.duel.policies import OWN, RANDOM


@dataclasses.dataclass(frozen=True)
class Duel:
    """All losses of one protocol.

    Attributes:
      protocol: Its name.
      default: The policy that is defended.
      before: Loss of the proxy itself by name of texts; empty where the protocol does not start from it.
      query: Runs by domain and policy, on held-out query texts.
      general: The same trainings, on the general mix.
      kinds: Share of the domain's own kind in a selection, by domain and policy; empty where the corpus has none.
      scored: Share of the corpus's tokens that a policy computes influence for.
      seconds: CPU seconds of a policy's scores, for all domains.
      same_source: The domains of which the corpus has other texts of the same source.
    """

    protocol: str
    default: str
    before: Mapping[str, float]
    query: Mapping[str, Mapping[str, Runs]]
    general: Mapping[str, Mapping[str, Runs]]
    kinds: Mapping[str, Mapping[str, float]]
    scored: Mapping[str, float]
    seconds: Mapping[str, float]
    same_source: frozenset[str]

    def against_default(self) -> dict[str, dict[str, Difference]]:
        """Subtracts each rival's loss from the default's, by domain and rival.

        What orders do to the difference of two selections is told by such differences: one with random texts varies more,
        since every order draws others.
        """
        pairs = {
            domain: {
                name: (runs[self.default], own)
                for name, own in runs.items()
                if self._is_rival(name)
            }
            for domain, runs in self.query.items()
            if self.default in runs
        }
        noise = Noise.of([pair for own in pairs.values() for pair in own.values()])
        return {
            domain: {name: noise.difference(*pair) for name, pair in own.items()}
            for domain, own in pairs.items()
        }

    def _is_rival(self, name: str) -> bool:
        return name not in (self.default, RANDOM)

    @property
    def policies(self) -> list[str]:
        """All policies, in their order."""
        return list(dict.fromkeys(name for runs in self.query.values() for name in runs))

    def gains(self, texts: Mapping[str, Mapping[str, Runs]]) -> dict[str, dict[str, Difference]]:
        """Computes gains over random texts by domain and policy."""
        noise = _noise(texts)
        return {domain: figures.gains(runs, RANDOM, noise) for domain, runs in texts.items()}

    def as_json(self) -> dict[str, Any]:
        """Computes the figures."""
        gain, general = self.gains(self.query), self.gains(self.general)
        ways = {domain: figures.way(own, OWN) for domain, own in gain.items()}
        against = self.against_default()
        lost = {
            domain: {n: _rounded(d) for n, d in own.items() if d.is_beyond_noise and n != OWN}
            for domain, own in against.items()
        }
        return {
            "default": self.default,
            "loss": _by_policy(self.query, lambda runs: round(_mean(runs), 4)),
            "gain": _by_policy(gain, _rounded),
            "general_gain": _by_policy(general, _rounded),
            "way": _by_policy(ways, lambda value: None if value is None else round(value, 3)),
            "lost": lost,
            "default_less_rival": _by_policy(against, _rounded),
            "scored": {name: round(share, 4) for name, share in self.scored.items()},
            "cpu_seconds": {name: round(own, 1) for name, own in self.seconds.items()},
            "noise_of_orders": round(float(np.sqrt(_noise(self.query).variance)), 5),
        }

    def show(self) -> None:
        """Prints the tables."""
        gain, general = self.gains(self.query), self.gains(self.general)
        domains = list(self.query)
        num_orders = len(self.query[domains[0]][RANDOM])
        print(
            f"\nProtocol {self.protocol}, {num_orders} orders. Gain: by how much the held-out loss is below that after random "
            f"texts,\nnats per token, ± 95 % (one order's difference has a deviation of "
            f"{np.sqrt(_noise(self.query).variance):.4f}). * the corpus has the same source.\n"
        )
        self._row(
            "",
            [d + "*" * (d in self.same_source) for d in domains]
            + ["mean", "way", "scored", "CPU s"],
        )
        if self.before:
            self._row("loss before", [f"{self.before[d]:.3f}" for d in domains])
        self._row("loss, random", [f"{_mean(self.query[d][RANDOM]):.3f}" for d in domains])
        ways = {domain: figures.way(gain[domain], OWN) for domain in domains}
        for policy in self._ordered(gain):
            cells = [_cell(gain[d].get(policy)) for d in domains]
            means = [gain[d][policy].value for d in domains if policy in gain[d]]
            found = [w for d in domains if (w := ways[d].get(policy)) is not None]
            cells.append(f"{np.mean(means):+.3f}" if len(means) == len(domains) else "")
            cells.append(f"{np.mean(found):.2f}" if found else "")
            cells.append(f"{self.scored[policy]:.0%}" if self.scored[policy] else "")
            cells.append(f"{self.seconds[policy]:,.0f}")
            self._row(policy, cells)
        print("\nGain on the general mix, the same trainings\n")
        self._row("", [*domains, "mean"])
        for policy in self._ordered(gain):
            means = [general[d][policy].value for d in domains if policy in general[d]]
            cells = [_cell(general[d].get(policy)) for d in domains]
            self._row(policy, [*cells, f"{np.mean(means):+.3f}"])
        print("\nShare of the domain's own kind among the selected documents\n")
        self._row("", domains)
        for policy in self._ordered(gain):
            cells = [
                f"{self.kinds[d][policy]:.2f}" if policy in self.kinds[d] else "" for d in domains
            ]
            self._row(policy, cells)
        self._show_lost()

    def _show_lost(self) -> None:
        print(
            f"\nDefault: {self.default}. Its loss less a rival's, ± 95 %; ! the rival is ahead beyond the noise\n"
        )
        against = self.against_default()
        self._row("", [*against, "mean"])
        for policy in filter(self._is_rival, self.policies):
            own = [against[d][policy] for d in against if policy in against[d]]
            cells = [
                _cell(found := against[d].get(policy)) + "!" * bool(found and found.is_beyond_noise)
                for d in against
            ]
            self._row(policy, [*cells, _cell(figures.mean(own)) if own else ""])

    def _ordered(self, gain: Mapping[str, Mapping[str, Difference]]) -> list[str]:
        def mean(policy: str) -> float:
            return float(np.mean([own[policy].value for own in gain.values() if policy in own]))

        return sorted(self.policies, key=mean)

    def _row(self, name: str, cells: Sequence[str]) -> None:
        print(f"{name:<22}" + "".join(f"{cell:>15}" for cell in cells))


def _noise(texts: Mapping[str, Mapping[str, Runs]]) -> Noise:
    return Noise.of(
        [
            (runs[RANDOM], own)
            for runs in texts.values()
            for name, own in runs.items()
            if name != RANDOM
        ]
    )


def _mean(runs: Runs) -> float:
    return float(np.mean([losses.mean for losses in runs]))


def _cell(found: Difference | None) -> str:
    return "" if found is None else f"{found.value:+.3f} ±{found.half:.3f}"


def _rounded(found: Difference) -> list[float]:
    return [round(found.value, 4), round(found.half, 4)]


def _by_policy(values: Mapping[str, Mapping[str, Any]], show: Any) -> dict[str, dict[str, Any]]:
    """Arranges by policy, then by domain."""
    turned: dict[str, dict[str, Any]] = {}
    for domain, own in values.items():
        for policy, value in own.items():
            turned.setdefault(policy, {})[domain] = show(value)
    return turned
