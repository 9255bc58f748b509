"""How well do landmarks predict influence, and what does it cost? `python -m tests.benchmarks.landmarks [--quick]`.

Real documents of many domains are the pool; held-out documents of some of the domains are a target each. A document's
score is the cosine of its gradient with the target's vector, which is the target's mean gradient, plain or multiplied
by the inverse of an EK-FAC curvature. Asked are

- how well the exact score, computed without sketches, singles out the target's own domain;
- how the sketches of landmarks agree with it;
- how well kernel ridge regression propagates landmarks' scores to all other documents, by embedding and by number of
  landmarks: rank correlation with the exact scores, and the share of the true top 5 % that is found. Landmarks' own
  scores are exact, and for EK-FAC those of sketches, too;
- what a selection costs, over one forward pass of every document, which is what RDS+ takes, and over exact influence
  of every document: in FLOPs, counted here and by formulas for larger proxies, and in seconds.

Corpus and proxies are those of `tests.benchmarks.counterfactual`, and kept in the same place.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

# Before torch is imported: threads that spin while they wait would count as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch

from pipelines.demo.command import Clock
from tests.benchmarks.landmarks import (
    clocked,
    embeddings,
    figures,
    material,
    scores,
    selection,
    tables,
)
from tests.benchmarks.landmarks.material import Material
from tests.benchmarks.landmarks.propagation import Propagator
from tests.benchmarks.landmarks.scores import EKFAC, SKETCHED
from tests.benchmarks.landmarks.sizes import SIZES, Size

# On one core of 2025, trained proxies and corpora at hand.
_PROXIES = "the demo's, trained here (12 minutes), or SmolLM2-135M (an hour)"
_CACHE = pathlib.Path.home() / ".cache" / "beam_quad" / "counterfactual"


def run(proxy_name: str, is_quick: bool, models: pathlib.Path) -> dict[str, Any]:
    """Measures one proxy and prints the tables; returns the figures."""
    size = SIZES[proxy_name + ", quick" * is_quick]
    say = Clock()
    models.mkdir(parents=True, exist_ok=True)
    drawn = material.prepare(size, models)
    say(f"proxy {proxy_name}, a pool of {len(drawn.pool):,} documents")
    torch.set_num_threads(1)
    vectors = scores.target_vectors(drawn, size.num_factors)
    say(f"vectors of {len(size.targets)} targets of {size.num_query} documents each")
    exact = scores.exact_cosines(drawn, vectors, say)
    sketched = scores.sketch_cosines(drawn, vectors, say)
    is_own = drawn.domains[:, None] == list(size.targets)
    given, truth = {**exact, SKETCHED: sketched[EKFAC]}, {**exact, SKETCHED: exact[EKFAC]}
    propagator = Propagator(drawn.keys, given, truth, is_own)
    embedded = embeddings.embed(drawn, say)
    propagated = propagator.qualities(embedded, size.num_landmarks, size.num_seeds)
    say(f"propagated from {size.num_seeds} draws of landmarks")
    result = {
        "num_documents": len(drawn.pool),
        "targets": list(size.targets),
        **figures.of_exact(exact, is_own),
        **figures.of_sketches(exact, sketched),
        **figures.of_propagation(propagated),
    }
    tables.show_quality(result)
    return result | costs(proxy_name, drawn, size, propagator, embedded)


def costs(
    proxy_name: str,
    drawn: Material,
    size: Size,
    propagator: Propagator,
    embedded: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Measures what a document costs, puts selections together, and prints both."""
    measured, shapes = clocked.measure(drawn, size)
    tables.show_costs(measured, size.timed_tokens)
    num_documents = len(drawn.pool)
    how_many = (num_documents, size.num_query, size.num_factors)
    rows = []
    for name in selection.EMBEDDERS:
        seconds = clocked.propagation_seconds(propagator, embedded[name])
        rows += [
            (proxy_name, num_documents, name, selection.in_flops(shapes, name, *how_many)),
            (
                f"{proxy_name}, seconds",
                num_documents,
                name,
                selection.in_seconds(measured, name, seconds, *how_many),
            ),
        ]
    rows += selection.extrapolated()
    tables.show_selections(rows)
    return {
        "costs": {name: dataclasses.asdict(cost) for name, cost in measured.items()},
        "cost_over_forward": _nested(rows, "over_forward"),
        "cost_over_exact": _nested(rows, "over_exact"),
    }


def _nested(rows: Iterable[selection.Row], field: str) -> dict[str, dict[str, float]]:
    """Arranges a figure of selections by proxy and number of documents, then by embedding."""
    nested: dict[str, dict[str, float]] = {}
    for proxy, num_documents, name, cost in rows:
        by_name = nested.setdefault(f"{proxy}, {num_documents} documents", {})
        by_name[name] = float(f"{getattr(cost, field):.4g}")
    return nested


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.landmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="few documents and landmarks")
    parser.add_argument("--proxy", choices=("demo", "smollm2"), default="demo", help=_PROXIES)
    parser.add_argument("--models", type=pathlib.Path, default=_CACHE, help="keeps what is made")
    arguments = parser.parse_args()
    # Of what sentence-transformers imports.
    warnings.filterwarnings("ignore", category=FutureWarning)
    found = run(arguments.proxy, arguments.quick, arguments.models.expanduser())
    print(json.dumps({arguments.proxy: found}))


if __name__ == "__main__":
    main()
