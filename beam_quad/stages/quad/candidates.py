"""The few texts of each block that may be scored."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad import seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.bandit import (
    example_blocks,
    first_drawn,
    highest_draws,
    num_groups,
)
from beam_quad.columns import run_bounds, run_starts
from beam_quad.records import Split
from beam_quad.stages.base import GroupedTask
from beam_quad.stages.clusters.assign import read_assignment
from beam_quad.stages.quad.blocks import load_blocks, load_samples_per_pull
from beam_quad.stages.read.corpus import Corpus, piece_path, write_json

# Texts cross the shuffle in packs of one group of arms, cut from about this much of a split.
_PACKED_BYTES = 64 << 20


CANDIDATES_SCHEMA = pa.schema(
    [
        pa.field("cluster", pa.int32()),
        pa.field("block", pa.int32()),
        pa.field("draw", pa.uint64()),
        pa.field("key", pa.uint64()),
        pa.field("tokens", pa.int64()),
        pa.field("similarity", pa.float32()),
        pa.field("example_id", pa.string()),
        pa.field("text", pa.large_string()),
    ]
)


@dataclasses.dataclass
class GatherCandidates(GroupedTask):
    """Brings the candidates of every block together: its examples in the reserve with the lowest second hash.

    Takes splits; what crosses the shuffle are the texts of the candidates, two to four times as many as are kept, packed
    by split and group of arms. Writes one file per group, a row group per cluster, and an index by pull.

    Args:
      corpus: The corpus, embedded.
      assignments_dir: Folder of `AssignClusters`.
      folder: Folder of `CountBlocks`; the candidates go there too.
    """

    corpus: Corpus
    assignments_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "GatherCandidates"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "candidates.json")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def draw(self, piece: Split) -> Iterator[tuple[int, bytes]]:
        groups = _num_groups(self.folder)
        for table in _joined(_drawn(self, piece)):
            yield from _by_group(table, groups)

    def put_together(self, group: int, parts: Iterable[bytes]) -> Tally:
        samples, whole = load_samples_per_pull(self.folder)
        table = aligned.unpack(parts)
        cluster, block, draw, key = (table.column(i).to_numpy() for i in range(4))
        order = first_drawn(cluster, block, draw, key, None if whole else samples)
        table = table.take(pa.array(order)).combine_chunks()
        cluster, block, key = cluster[order], block[order], key[order]
        metadata = {
            "clusters": cluster[run_starts(cluster)].tolist(),
            "pulls": [
                (int(cluster[a]), int(block[a]), _pull_key(table.slice(a, b - a)))
                for a, b in run_bounds(cluster, block)
            ],
        }
        path = group_path(self.folder, group)
        with aligned.table_writer(path, CANDIDATES_SCHEMA, group_rows=1 << 30) as writer:
            for a, b in run_bounds(cluster):
                rows = table.slice(a, b - a)
                writer.write({n: rows.column(n).chunk(0) for n in rows.column_names})
                writer.flush()
            writer.close(metadata)
        return Tally({"candidates": len(order)})

    def finish(self, total: Tally | None) -> None:
        write_json(self.artifact, {"candidates": total["candidates"] if total else 0})


def group_of(folder: str, cluster: int) -> int:
    """Finds the group of a cluster's arm, that is, the number of the file that holds its candidates."""
    return cluster % _num_groups(folder)


def group_path(folder: str, group: int) -> str:
    """Where the candidates of a group of arms lie."""
    return files.join(folder, "candidates", f"group-{group:05d}.parquet")


def _row_groups(folder: str, group: int) -> dict[int, int]:
    """Reads which row group of a group's file holds each cluster, by cluster id, once per process."""

    def read() -> dict[int, int]:
        clusters = aligned.read_metadata(group_path(folder, group))["clusters"]
        return {cluster: i for i, cluster in enumerate(clusters)}

    return cached(("row groups", folder, group), read)


def read_pull_keys(folder: str) -> dict[tuple[int, int], str]:
    """Reads the name of every pull of all groups, by (cluster id, block), once per process.

    A name is a hash of the ordered ids of the pull's candidates, so that equal pulls of two runs share their scores.
    """

    def read() -> dict[tuple[int, int], str]:
        paths = [info.path for info in files.find(files.join(folder, "candidates"))]
        footers = list(files.in_parallel(aligned.read_metadata, paths))
        return {(c, b): key for footer in footers for c, b, key in footer["pulls"]}

    return cached(("pull keys", folder), read)


def has_candidates(folder: str, cluster: int) -> bool:
    """Says whether a cluster has an example in the reserve."""
    starts = load_blocks(folder).pullable_starts
    return bool(starts[cluster + 1] > starts[cluster])


def read_cluster(folder: str, cluster: int, columns: list[str]) -> pa.Table:
    """Reads the candidates of one cluster that has some, sorted by (block, draw)."""
    group = group_of(folder, cluster)
    with files.open_read(group_path(folder, group)) as file:
        row_group = _row_groups(folder, group)[cluster]
        return pq.ParquetFile(file).read_row_group(row_group, columns=columns)


def read_text(folder: str, cluster: int, key: int) -> str:
    """Reads the text of one candidate."""
    table = read_cluster(folder, cluster, ["key", "text"])
    row = np.flatnonzero(table.column("key").to_numpy() == np.uint64(key))[0]
    return str(table.column("text")[int(row)].as_py())


def _num_groups(folder: str) -> int:
    """Counts the files that the candidates are kept in, once per process."""

    def count() -> int:
        samples, _ = load_samples_per_pull(folder)
        return num_groups(load_blocks(folder).candidates, samples)

    return cached(("groups", folder), count)


def _drawn(task: GatherCandidates, split: Split) -> Iterator[pa.RecordBatch]:
    corpus = task.corpus
    blocks = load_blocks(task.folder)
    samples, whole = load_samples_per_pull(task.folder)
    rows = corpus.rows(split)
    if not rows.usable.any():
        return
    clusters, similarity = read_assignment(task.assignments_dir, split)
    threshold = highest_draws(blocks.candidates, None if whole else samples)
    with files.open_read(piece_path(corpus.reserve_dir, split)) as file:
        parquet = pq.ParquetFile(file)
        for i in range(parquet.num_row_groups):
            table = parquet.read_row_group(i)
            at = table.column("row").to_numpy()
            # A row of the reserve may have been rejected since, as a duplicate.
            kept = np.flatnonzero(clusters[at] >= 0)
            at = at[kept]
            cluster = clusters[at]
            block = example_blocks(corpus.seed, rows.keys[at], cluster, blocks.num_blocks)
            draw = seeding.mix(corpus.seed, "candidate", rows.keys[at])
            low = draw <= threshold[blocks.offsets[cluster] + block]
            columns = {
                "cluster": cluster[low],
                "block": block[low],
                "draw": draw[low],
                "key": rows.keys[at][low],
                "tokens": rows.tokens[at][low],
                "similarity": similarity[at][low],
                "example_id": table.column("example_id").take(kept[low]).combine_chunks(),
                "text": table.column("text").take(kept[low]).combine_chunks(),
            }
            yield pa.RecordBatch.from_pydict(columns, schema=CANDIDATES_SCHEMA)


def _joined(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    # A pack costs a schema and a codec's start: row group by row group they would be 50,000 for 10^6 examples.
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        if sum(b.nbytes for b in pending) >= _PACKED_BYTES:
            yield pa.Table.from_batches(pending).combine_chunks()
            pending = []
    if pending:
        yield pa.Table.from_batches(pending).combine_chunks()


def _by_group(table: pa.Table, groups: int) -> Iterator[tuple[int, bytes]]:
    group = table.column("cluster").to_numpy() % groups
    for value in np.unique(group):
        part = table.take(pa.array(np.flatnonzero(group == value)))
        yield int(value), aligned.pack(part)


def _pull_key(pull: pa.Table) -> str:
    # The ids alone would not do: a shard may be edited in place, and its rows keep theirs.
    texts = (seeding.digest(text) for text in pull.column("text").to_pylist())
    return seeding.digest(*pull.column("key").to_pylist(), *texts)
