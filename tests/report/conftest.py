"""A made-up run that looks like a real one: 60 clusters, 16 rounds, texts that try to break the page."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from beam_quad import report
from beam_quad.report import data as shown
from beam_quad.selection import Amount, SourceCounts
from tests.report.made import manifest

_TEXTS = (
    "<script>alert('stolen')</script> <b>bold</b> & an <img src=x onerror=alert(1)> that nobody should see.",
    "The cells were incubated for 24 h at 37 °C with 5 % CO₂; α-synuclein levels fell (p < 0.05). "
    * 12,
    "א־ב\u202e reversed \u200b текст 中文混排 और हिन्दी 🧬🦠 z̷̢̛͎a̸̡l̶g̵o\x00\x07 \ud800 end.",
    "https://example.org/" + "averyveryverylongpathsegment" * 30 + "?q=1&r=<2>",
    "</p></article></section></main></body></html> closes everything, $x_1$ \\frac{1}{2} {{ template }}",
    "def quick_sort(items):\n\n\treturn items if len(items) < 2 else merge(*map(quick_sort, halves(items)))",
)
_WORDS = (
    "protein",
    "cells",
    "<i>court</i>",
    "naïve",
    "the",
    "x" * 60,
    "plaintiff",
    "der",
    "魚",
    "&amp;",
)


@dataclasses.dataclass(frozen=True)
class _World:
    tokens: np.ndarray
    means: np.ndarray
    selected: np.ndarray
    rng: np.random.Generator

    def join(self, *samples: shown.ScoredSample) -> shown.ScoredSample:
        columns = zip(*((s.influence, s.tokens, s.cluster_id) for s in samples), strict=True)
        return shown.ScoredSample(*(np.concatenate(c) for c in columns))

    def sample(self, clusters: np.ndarray) -> shown.ScoredSample:
        noise = self.rng.normal(scale=0.05, size=len(clusters))
        lengths = self.rng.integers(40, 900, len(clusters))
        return shown.ScoredSample(self.means[clusters] + noise, lengths, clusters)


def _world(num_clusters: int) -> _World:
    rng = np.random.default_rng(7)
    tokens = (rng.pareto(1.5, num_clusters) * 40_000 + 5_000).astype(int)
    means = np.where(rng.random(num_clusters) < 0.15, 0.16, 0.0) + rng.normal(0, 0.03, num_clusters)
    selected = np.where(means > 0.1, (tokens * rng.uniform(0.2, 1, num_clusters)).astype(int), 0)
    return _World(tokens, means, selected, rng)


def _clusters(world: _World) -> tuple[shown.Cluster, ...]:
    return tuple(
        shown.Cluster(
            cluster_id=i,
            documents=int(t) // 500,
            tokens=int(t),
            selected_documents=int(s) // 500,
            selected_tokens=int(s),
            cohesion=float(0.4 + 0.4 * world.rng.random()),
            mean_influence=float(m),
            words=tuple(_WORDS[(i + k) % len(_WORDS)] for k in range(8)),
            texts=tuple(_TEXTS[(i + k) % len(_TEXTS)] for k in range(3)),
            position=tuple(world.rng.normal(size=2)),
        )
        for i, (t, s, m) in enumerate(zip(world.tokens, world.selected, world.means, strict=True))
    )


def _arms(world: _World) -> tuple[shown.Arm, ...]:
    pulls = 1 + np.where(world.means > 0.08, world.rng.integers(1, 15, len(world.means)), 0)
    accepted = np.where(world.selected > 0, world.rng.binomial(pulls, 0.8), 0)
    columns = zip(pulls, accepted, world.means, world.tokens, strict=True)
    return tuple(
        shown.Arm(i, 16, int(p), int(a), float(m), int(t)) for i, (p, a, m, t) in enumerate(columns)
    )


def _rounds(budget: int, num_clusters: int) -> tuple[shown.Round, ...]:
    pilot = shown.Round(0, None, num_clusters, 5, num_clusters * 5, budget // 20, 31.2)
    later = [
        shown.Round(i, 0.09 + 0.002 * i, 20 - i, 15 - i // 2, 100 - 5 * i, min(budget, budget * (i + 1) // 14), 9.5 - 0.3 * i)
        for i in range(1, 17)
    ]  # fmt: skip
    return (pilot, *later)


def _examples(sign: int) -> tuple[shown.Example, ...]:
    return tuple(
        shown.Example(f"web/part-{i:05d}.parquet#{i * 37}", text, sign * (0.4 - 0.02 * i), 100 + i, i, key=sign)
        for i, text in enumerate(_TEXTS)
    )  # fmt: skip


def _query_groups(pilot: shown.ScoredSample) -> tuple[shown.QueryGroup, ...]:
    other = 0.4 * pilot.influence[::-1] - 0.2 * pilot.influence
    return (
        shown.QueryGroup(
            "biomedicine", 60, 21_400, 1.0, pilot.influence, 0.93,
            ((-1, "other", -0.05), (0, "attention", 0.25), (0, "mlp", 0.3), (1, "attention", 0.2), (1, "mlp", 0.3)),
        ),
        shown.QueryGroup("code <b>", 40, 12_900, 2.0, other, 0.31),
    )  # fmt: skip


def _sources() -> dict[str, SourceCounts]:
    names = (
        "wiki",
        "news",
        "books/gutenberg",
        "<i>forum</i>",
        "legal",
        "a_very_long_source_name_" * 4,
    )
    return {
        name: SourceCounts(1200 - 100 * i, 600_000 - 70_000 * i, i, Amount(300 // (i + 1), 80_000 // (i + 1) ** 2))
        for i, name in enumerate(names)
    }  # fmt: skip


@pytest.fixture(scope="session")
def make_report() -> Callable[[int], shown.ReportData]:
    """Makes the data of a run with that many clusters."""

    def make(num_clusters: int = 60) -> shown.ReportData:
        world = _world(num_clusters)
        pilot = world.sample(np.repeat(np.arange(num_clusters), 5))
        selected = world.sample(np.repeat(np.flatnonzero(world.selected), 8))
        passed_over = world.sample(np.repeat(np.flatnonzero(world.selected), 3))
        scored = world.join(pilot, selected, passed_over)
        budget = int(world.selected.sum() * 1.02)
        clusters = _clusters(world)
        documents = sum(c.documents for c in clusters)
        taken = sum(c.selected_documents for c in clusters)
        rejected = {"null_text": 12, "too_short": 31, "malformed_json": 3, "duplicate_id": 0}
        return shown.ReportData(
            title="Quad selection",
            subtitle="gs://bucket/selections/<biomed>/2026-05 · 2026-05-04 10:12 UTC",
            manifest=manifest(
                documents + 46, taken, (int(world.tokens.sum()), int(world.selected.sum()), budget), rejected,
                "quad: bandit over clusters, block acceptance", scored=len(scored.influence), bad_files=1,
                config={"seed": 17, "alpha": 0.5, "input": "gs://bucket/" + "long/" * 40, "tau": "<auto>"},
                versions={"beam_quad": "0.1.0", "apache-beam": "2.77.0"}, fingerprints={"proxy": "hub:x@" + "0f" * 20},
            ),
            notices=(
                shown.Notice("the budget is short by 2 %: raise --num_rounds, or lower --tau <0.1>"),
                shown.Notice("2 clusters were empty and dropped; cluster 17 was split", "note"),
            ),
            clusters=clusters,
            arms=_arms(world),
            rounds=_rounds(budget, num_clusters),
            scores=shown.Scores(scored, selected, pilot),
            best=_examples(1),
            worst=_examples(-1),
            outcomes={"1": shown.Outcome(), "-1": shown.Outcome("block_not_accepted")},
            query_groups=_query_groups(pilot),
            sources=_sources(),
            timings=(
                shown.StageTiming("EmbedExamples", 512.3),
                shown.StageTiming("FitClusters", 12.4),
                shown.StageTiming("Rounds", 260.0),
                shown.StageTiming("WriteSelection", 8.1),
            ),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def data(make_report: Callable[[int], shown.ReportData]) -> shown.ReportData:
    """A run with 60 clusters."""
    return make_report(60)


@pytest.fixture(scope="session")
def page(data: shown.ReportData) -> str:
    """The page of that run."""
    return report.render(data)
