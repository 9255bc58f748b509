"""What the pipelines are held to: the methods in memory, on the texts and ids of the world's corpus."""

import html
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from beam_quad import distill, rivals, select
from beam_quad.gradients import ProxySpec, load_tokenizer, tokenize
from beam_quad.influence_distillation import DistilledSelection
from beam_quad.quad import QuadSelection
from tests.pipelines.world import TAKES_BLOCKS, World, read_texts

# As `World.arguments`, of which both methods know these.
_SHARED = {"budget_tokens": 3000, "embedder": "hashing", "curvature_examples": 48}
_QUAD = {
    "num_clusters": 12,
    "num_rounds": 4,
    "blocks_per_cluster": 4,
    "max_cluster_share": 0.5,
    "acceptance": "block",
    **_SHARED,
}
# Single precision in another order of summation.
_CLOSE = {"rel": 1e-3, "abs": 1e-7}


def hold_to_quad(
    world: World,
    rows: Iterable[Mapping[str, Any]],
    queries: Mapping[str, str] | None = None,
    **changes: Any,
) -> QuadSelection:
    """Checks that a run selected, for the same reasons, what the page selects; returns that.

    Args:
      world: The world that was selected from.
      rows: The selected rows.
      queries: Folder or file of each query group; the world's query set by default.
      changes: Arguments of `select` that differ from the world's.
    """
    texts, ids = read_texts(world.corpus)
    proxy = ProxySpec(world.proxy, num_threads=1)
    query_texts = _read_queries(queries or {"query": world.query})
    arguments = _QUAD | changes
    if arguments["acceptance"] in TAKES_BLOCKS:
        arguments = {"near_duplicates": "keep"} | arguments
    expected = select(texts, query_texts, proxy, ids=ids, **arguments)
    assert sorted(_ids(rows)) == sorted(ids[i] for i in expected.indices)
    position = {own: i for i, own in enumerate(ids)}
    weights = dict(zip(expected.indices.tolist(), expected.weights, strict=True))
    for row in rows:
        why = row["beam_quad"]
        at = position[why["example_id"]]
        block = -1 if why["block"] is None else why["block"]
        assert (why["cluster"], block) == (expected.clusters[at], expected.blocks[at])
        influence = np.nan if why["influence"] is None else why["influence"]
        assert influence == pytest.approx(expected.influence[at], nan_ok=True, **_CLOSE)
        if why["predicted_influence"] is not None:
            assert why["predicted_influence"] == pytest.approx(expected.estimate[at], **_CLOSE)
        if "weight" in row:
            assert row["weight"] == pytest.approx(weights[at], rel=1e-2)
    return expected


def hold_to_rival(
    world: World,
    rows: Iterable[Mapping[str, Any]],
    rival: str,
    queries: Mapping[str, str] | None = None,
    shares: Mapping[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Checks that a run selected what a rival selects in memory, and knows no influence.

    Args:
      world: The world that was selected from, by hashed words.
      rows: The selected rows.
      rival: One of `rivals.RIVALS`.
      queries: As in `hold_to_quad`.
      shares: Arguments of `rivals.select_by` that say what parts of the budget meet.
      changes: Arguments of `rivals.score` that differ from the defaults.
    """
    texts, ids = read_texts(world.corpus)
    proxy = ProxySpec(world.proxy, num_threads=1)
    query_texts = _read_queries(queries or {"query": world.query})
    arguments = {"ids": ids, "embedder": "hashing"} | changes
    scores = rivals.score(rival, texts, query_texts, proxy, **arguments)
    tokens = np.array([len(own) for own in tokenize(load_tokenizer(world.proxy), texts)])
    chosen = rivals.select_by(
        scores,
        tokens,
        _SHARED["budget_tokens"],
        ids=ids,
        seed=arguments.get("seed", 0),
        **shares or {},
    )
    assert sorted(_ids(rows)) == sorted(ids[i] for i in chosen)
    assert {row["beam_quad"]["influence"] for row in rows} == {None}


def distill_corpus(world: World, queries: Mapping[str, str], **changes: Any) -> DistilledSelection:
    """Selects from the world's corpus by Influence Distillation, in memory."""
    texts, ids = read_texts(world.corpus)
    arguments = _SHARED | {"num_landmarks": 200, "ids": ids} | changes
    proxy = ProxySpec(world.proxy, num_threads=1)
    return distill(texts, _read_queries(queries), proxy, **arguments)


def _read_queries(queries: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: read_texts(folder, is_query=True)[0] for name, folder in queries.items()}


def _ids(rows: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    return [row["beam_quad"]["example_id"] for row in rows]


def shown_in_report(output: pathlib.Path) -> list[tuple[str, str]]:
    """Reads the examples that a page shows as the best and the worst: the id, and the sentence on why, of each."""
    page = (output / "report.html").read_text()
    section = page.partition('<section id="examples">')[2].partition("</section>")[0]
    shown = re.findall(r"<code>(.*?)</code>\n<p class=\"muted\">(.*?)</p>", section)
    assert len(shown) == section.count("<article>")
    assert bool(shown) == ('<section id="examples">' in page)
    return [(html.unescape(name), why) for name, why in shown]
