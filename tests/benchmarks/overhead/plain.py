"""The plain program: `python -m tests.benchmarks.overhead.plain INPUT OUTPUT BUDGET_TOKENS`.

What one would write for a corpus that fits one machine: read the shards, hash-embed, fit k-means to a sample, assign,
draw clusters until the budget is met, and write their documents. The embedder and the k-means are the package's own;
nothing is kept for another run, checked, rejected, scored or accounted for.
"""

import gzip
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Iterator

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.clustering import assign, default_num_clusters, fit_centers
from beam_quad.embedding.hashing import HashingEmbedder

_BATCH_ROWS = 4096
_POINTS_PER_CLUSTER = 256


def select(corpus: pathlib.Path, output: pathlib.Path, budget_tokens: int) -> int:
    """Selects documents and returns how many."""
    points, tokens, sizes = _embed(corpus)
    rng = np.random.default_rng(0)
    cluster = _cluster(points, rng)
    kept = _draw(cluster, tokens, budget_tokens, rng)
    _write(corpus, output, kept, cluster, sizes)
    return int(kept.sum())


def _embed(corpus: pathlib.Path) -> tuple[np.ndarray, np.ndarray, list[int]]:
    embedder = HashingEmbedder()
    points, tokens, sizes = [], [], []
    for shard in _shards(corpus):
        sizes.append(0)
        for table in _read(shard, ["text", "tokens"]):
            points.append(embedder.embed(table.column("text").to_pylist()).astype(np.float16))
            tokens.append(table.column("tokens").to_numpy())
            sizes[-1] += table.num_rows
    return np.concatenate(points), np.concatenate(tokens), sizes


def _cluster(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    num_clusters = default_num_clusters(len(points))
    size = min(len(points), int(1.05 * _POINTS_PER_CLUSTER * num_clusters))
    sample = np.sort(rng.choice(len(points), size, replace=False))
    centers, _ = fit_centers(points[sample].astype(np.float32), num_clusters, 0, 0.05)
    cluster = np.empty(len(points), np.int32)
    for first in range(0, len(points), _BATCH_ROWS):
        run = slice(first, min(first + _BATCH_ROWS, len(points)))
        keys = np.arange(run.start, run.stop, dtype=np.uint64)
        cluster[run], _ = assign(points[run].astype(np.float32), keys, centers, 0)
    return cluster


def _draw(
    cluster: np.ndarray, tokens: np.ndarray, budget_tokens: int, rng: np.random.Generator
) -> np.ndarray:
    """Takes clusters in random order, and the documents of each too, until the budget is met; bool [n]."""
    turn = rng.permutation(cluster.max() + 1)
    order = np.lexsort((rng.random(len(cluster)), turn[cluster]))
    before = np.cumsum(tokens[order]) - tokens[order]
    kept = np.zeros(len(cluster), bool)
    kept[order[before < budget_tokens]] = True
    return kept


def _write(
    corpus: pathlib.Path,
    output: pathlib.Path,
    kept: np.ndarray,
    cluster: np.ndarray,
    sizes: list[int],
) -> None:
    output.mkdir(parents=True)
    writer, first = None, 0
    for shard, size in zip(_shards(corpus), sizes, strict=True):
        at = np.flatnonzero(kept[first : first + size])
        table = pa.concat_tables(_read(shard, None)).take(pa.array(at))
        table = table.append_column("cluster", pa.array(cluster[first + at]))
        writer = writer or pq.ParquetWriter(
            output / "part.parquet", table.schema, compression="zstd", compression_level=3
        )
        writer.write_table(table)
        first += size
    if writer is not None:
        writer.close()


def _shards(corpus: pathlib.Path) -> list[pathlib.Path]:
    return sorted(corpus.iterdir())


def _read(shard: pathlib.Path, columns: list[str] | None) -> Iterator[pa.Table]:
    if shard.suffix == ".parquet":
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                yield pa.Table.from_batches([batch])
        return
    with gzip.open(shard) as lines:
        while batch := list(itertools.islice(lines, _BATCH_ROWS)):
            table = pa.Table.from_pylist([orjson.loads(line) for line in batch])
            yield table if columns is None else table.select(columns)


def main() -> None:
    corpus, output, budget = sys.argv[1:]
    began, cpu_began = time.perf_counter(), time.process_time()
    documents = select(pathlib.Path(corpus), pathlib.Path(output), int(budget))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "selected": documents}))


if __name__ == "__main__":
    main()
