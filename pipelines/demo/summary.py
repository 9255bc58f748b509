"""The short table at the end of the demo."""

import collections
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from pipelines.demo import noise
from pipelines.demo.evaluation import RANDOM, HeldOutLoss


def read_selection(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the selected rows: the input's columns, and the struct `beam_quad`."""
    shards = sorted((output / "selected").glob("part-*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def read_manifest(output: pathlib.Path) -> dict[str, Any]:
    """Reads the manifest of a finished selection."""
    manifest: dict[str, Any] = json.loads((output / "manifest.json").read_text())
    return manifest


def render(
    corpus_sources: Sequence[str],
    selected_sources: Sequence[str],
    manifest: dict[str, Any],
    losses: HeldOutLoss,
) -> str:
    """Makes the table.

    Args:
      corpus_sources: Domain of every usable document of the corpus.
      selected_sources: Domain of every selected document.
      manifest: The selection's manifest.
      losses: The proxy's held-out losses.
    """
    lines = [*_origins(corpus_sources, selected_sources), "", *_effects(manifest, losses)]
    return "\n".join(lines)


def _origins(corpus: Sequence[str], selected: Sequence[str]) -> list[str]:
    whole, chosen = collections.Counter(corpus), collections.Counter(selected)
    lines = [f"  {'where documents come from':<28}{'corpus':>10}{'selection':>12}"]
    ordered = sorted(whole, key=lambda source: (-chosen[source] / len(selected), source))
    for source in (s for s in ordered if not noise.is_noise(s)):
        lines.append(_share_line(source, whole[source], chosen[source], corpus, selected))
    noisy, kept = (sum(count[s] for s in noise.NOISE) for count in (whole, chosen))
    lines.append(_share_line(f"noise, {len(noise.NOISE)} kinds", noisy, kept, corpus, selected))
    return lines


def _share_line(
    name: str, whole: int, chosen: int, corpus: Sequence[str], selected: Sequence[str]
) -> str:
    return f"  {name:<28}{whole / len(corpus):>10.1%}{chosen / len(selected):>12.1%}"


def _effects(manifest: dict[str, Any], losses: HeldOutLoss) -> list[str]:
    counts, tokens = manifest["counts"], manifest["tokens"]
    random = statistics.mean(losses.after[RANDOM])
    lines = [
        f"  {'what a model learns from':<38}{'held-out query loss':>21}{'gain over random':>19}",
        f"  {'nothing more':<38}{losses.before:>13.3f}",
    ]
    for name, values in sorted(losses.after.items(), key=lambda item: -statistics.mean(item[1])):
        gain = "" if name == RANDOM else f"{random - statistics.mean(values):>19.3f}"
        lines.append(f"  {name:<38}{_spread(values):>21}{gain}")
    return [
        *lines,
        "",
        f"  {tokens['budget']:,} tokens each, nats a token; ± between {len(losses.after[RANDOM])} orders",
        f"  beam_quad scored {counts['scored']:,} of {counts['read']:,} documents by influence, selected "
        f"{counts['selected']:,} ({tokens['selected']:,} tokens), rejected {counts['rejected']:,}",
    ]


def _spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"
