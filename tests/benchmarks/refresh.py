"""What do twelve monthly refreshes cost and select, beside one run over everything?

    python -m tests.benchmarks.refresh [--quick] [--models FOLDER] [--methods shortlist,block,distill] [--domain medicine]

The demo's corpus, of labelled kinds, comes in shards: twenty at first, and one more of the same size every month. The budget
grows as the corpus does. Every month goes on from the month before (`--base`); at the end one run selects from everything with
the same budget. What is read of the input and passes through models is counted as it happens.

`embedded`, `scored` and `read` of a month are over its share: the documents of its shard over those of the first run, times what
the first run embedded, scored and read. `scored` counts passes of the proxy, and of n-grams of its tokens apart.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad import seeding
from beam_quad.artifacts import traffic
from beam_quad.stages import run_in_process
from pipelines import chain, distillation_chain, distillation_options, options, refresh
from pipelines.inputs import look
from tests.benchmarks.duel import material
from tests.benchmarks.duel.domains import DOMAINS
from tests.benchmarks.duel.sizes import SIZES

_FIRST_SHARDS, _MONTHS = 20, 12
# Tokens selected, of those of the corpus.
_SHARE = 0.06
_METHODS = {
    "shortlist": {},
    "block": {"acceptance": "block"},
    "propagate": {"acceptance": "propagate"},
    "ngram": {"policy": "ngram"},
    "distill": {},
}
_KINDS: tuple[traffic.Kind, ...] = ("bytes_read", "documents_embedded", "documents_scored")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run did.

    Attributes:
      counts: What it read, embedded and scored, by kind.
      scored: Examples whose influence it computed.
      share: Of the selected tokens those of the query's own kinds.
      tokens: Tokens selected.
    """

    counts: dict[str, int]
    scored: int
    share: float
    tokens: int


class Corpus:
    """Shards that come month by month.

    Attributes:
      folder: Where they are.
      sizes: Bytes of each, in order.
      tokens: Tokens of each.
      documents: Documents of each.
    """

    def __init__(self, folder: pathlib.Path, found: material.Material, domain: str) -> None:
        self.folder, self._own = folder, DOMAINS[domain].own
        folder.mkdir()
        order = np.argsort(seeding.mix(0, "shard", found.keys))
        self._shards = np.array_split(order, _FIRST_SHARDS + _MONTHS)
        self._found = found
        self.kinds = {i: found.sources[i] for i in range(len(found.texts))}
        self.sizes: list[int] = []
        self.tokens = [int(found.lengths[shard].sum()) for shard in self._shards]
        self.documents = [len(shard) for shard in self._shards]

    def add(self) -> None:
        """Writes the next shard."""
        number = len(self.sizes)
        shard = self._shards[number]
        texts = [self._found.texts[i] for i in shard]
        path = self.folder / f"shard-{number:02d}.parquet"
        kinds = [str(self.kinds[i]) for i in shard]
        pq.write_table(pa.table({"text": texts, "kind": kinds}), path)
        self.sizes.append(path.stat().st_size)

    def budget(self) -> int:
        """Tokens to select of the shards that are there."""
        return round(_SHARE * sum(self.tokens[: len(self.sizes)]))

    def share(self, output: pathlib.Path) -> float:
        """The share of the selected tokens that are of the query's own kinds."""
        tables = [
            pq.read_table(p, columns=["kind", "beam_quad"])
            for p in sorted((output / "selected").glob("*.parquet"))
        ]
        rows = [row for table in tables for row in table.to_pylist()]
        own = sum(row["beam_quad"]["tokens"] for row in rows if row["kind"] in self._own)
        return own / max(1, sum(row["beam_quad"]["tokens"] for row in rows))


def run(
    method: str,
    corpus: Corpus,
    query: pathlib.Path,
    found: material.Material,
    output: pathlib.Path,
    base: Any,
) -> Run:
    """Selects of the shards that are there."""
    flags = {
        "input": corpus.folder, "query": query, "output": output, "proxy_model": found.model,
        "embedder": "hashing", "budget_tokens": corpus.budget(), "threads": 1,
        "curvature_examples": found.size.curvature_examples, "context_length": found.size.recipe.window, "max_windows": 1,
        **_METHODS[method], **({} if base is None else {"base": base}),
    }  # fmt: skip
    argv = [f"--{name}={value}" for name, value in flags.items()]
    counts: collections.Counter[str] = collections.Counter()

    def count(kind: str, amount: int) -> None:
        counts[kind] += amount

    traffic.report_to(count)
    try:
        _run_in_process(method, argv)
    finally:
        traffic._counters.remove(count)
    manifest = json.loads((output / "manifest.json").read_text())
    # A shortlist is scored twice, of which n-grams cost no pass of the proxy.
    known = manifest.get("refresh", {}).get("scores_known", 0)
    scored = counts["documents_scored"]
    if method == "shortlist":
        scored = manifest["counts"]["scored"] - known
    tokens = manifest["tokens"]["selected"]
    return Run(dict(counts), scored, corpus.share(output), tokens)


def _run_in_process(method: str, argv: Sequence[str]) -> None:
    if method == "distill":
        given, _ = distillation_options.parse(argv)
        given = refresh.resolved(given)
        built = distillation_chain.build(given, look(given))
    else:
        parsed, _ = options.parse(argv)
        parsed = refresh.resolved(parsed)
        built = chain.build(parsed, look(parsed))
    built.write_plans()
    run_in_process(built.stages)


def play(method: str, found: material.Material, domain: str, root: pathlib.Path) -> dict[str, Any]:
    """Plays a year; returns its figures."""
    root.mkdir()
    corpus = Corpus(root / "corpus", found, domain)
    query = root / "query.jsonl"
    query.write_text("\n".join(json.dumps({"text": t}) for t in found.queries[domain]))
    for _ in range(_FIRST_SHARDS):
        corpus.add()
    first = run(method, corpus, query, found, root / "month-00", None)
    months, base = [], root / "month-00"
    for month in range(1, _MONTHS + 1):
        corpus.add()
        output = root / f"month-{month:02d}"
        months.append(run(method, corpus, query, found, output, base))
        base = output
    whole = run(method, corpus, query, found, root / "everything", None)
    base_documents = sum(corpus.documents[:_FIRST_SHARDS])

    def over_share(kind: str) -> list[float]:
        return [
            own.counts.get(kind, 0) / max(1, first.counts.get(kind, 0) * documents / base_documents)
            for own, documents in zip(months, corpus.documents[_FIRST_SHARDS:], strict=True)
        ]

    figures = {kind.removeprefix("documents_"): over_share(kind) for kind in _KINDS}
    total = first.scored + sum(own.scored for own in months)
    return {
        "first": dataclasses.asdict(first),
        "over_share": {name: [round(v, 3) for v in values] for name, values in figures.items()},
        "worst_over_share": {name: round(max(values), 3) for name, values in figures.items()},
        "share_of_own_kinds": round(months[-1].share, 4),
        "share_of_own_kinds_everything": round(whole.share, 4),
        "share_over_everything": round(months[-1].share / whole.share, 4),
        "scores_over_everything": round(total / max(1, whole.scored), 3),
        "tokens_over_budget": round(months[-1].tokens / corpus.budget(), 4),
    }


def main() -> None:
    """Plays a year by each method, and prints a line for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", type=pathlib.Path, default=pathlib.Path("duel"))
    parser.add_argument("--methods", default="shortlist,ngram,block,distill")
    parser.add_argument("--domain", default="medicine", choices=[*DOMAINS])
    arguments = parser.parse_args()
    size = SIZES["small, quick" if arguments.quick else "small"]
    source = material.Source.demo(arguments.models)
    found = material.prepare("small", size, source, [arguments.domain], arguments.models, print)
    years = dict(_years(arguments, found))
    print(json.dumps(years))


def _years(
    arguments: argparse.Namespace, found: material.Material
) -> Iterator[tuple[str, dict[str, Any]]]:
    names = ("read", "embedded", "scored", "own kinds", "of everything", "scores in all")
    print(f"{'method':12}" + "".join(f"{name:>15}" for name in names))
    for method in arguments.methods.split(","):
        with tempfile.TemporaryDirectory() as folder:
            year = play(method, found, arguments.domain, pathlib.Path(folder) / "year")
        worst = year["worst_over_share"]
        values = (
            worst["bytes_read"], worst["embedded"], worst["scored"], year["share_of_own_kinds"],
            year["share_over_everything"], year["scores_over_everything"],
        )  # fmt: skip
        print(f"{method:12}" + "".join(f"{value:15.3f}" for value in values))
        yield method, year


if __name__ == "__main__":
    main()
