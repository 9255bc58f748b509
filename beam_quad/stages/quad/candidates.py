"""The candidates: the few texts of each block that a pull can score."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad import seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.bandit import (
    example_blocks,
    first_drawn,
    highest_draws,
    num_drawn,
    num_groups,
)
from beam_quad.columns import run_bounds, run_starts
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.stages.base import GroupedStage
from beam_quad.stages.quad.blocks import CountBlocks
from beam_quad.stages.read.corpus import piece_path
from beam_quad.stages.read.splits import SplitStage

# Texts of a split are packed by group of arms each time they reach this size.
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


@dataclasses.dataclass(frozen=True)
class GatherCandidates(SplitStage, GroupedStage):
    """Gathers the candidates of every block: its examples in the reserve with the lowest second hash.

    Takes splits. Two to four times as many texts as are kept cross the shuffle, packed by split and group of arms.
    Writes one file per group, with a row group per cluster and an index by pull.

    Args:
      corpus: The embedded corpus.
      blocks: Its blocks.
    """

    kind = "candidates"
    artifact_name = "candidates.json"

    blocks: CountBlocks

    def work(self, sizes: Sizes) -> Work:
        texts, expected = self.texts_of(sizes), self.blocks.expected(sizes)
        reserve = round(self.corpus.reserve_rate * texts.documents)
        drawn = min(expected.num_blocks * num_drawn(expected.samples_per_pull), reserve)
        kept = min(expected.num_blocks * expected.samples_per_pull, reserve)
        return Work(
            "candidates",
            kept,
            core_s=drawn * texts.mean_text_bytes * rates.SHUFFLED_BYTE_S,
            bytes_shuffled=drawn * texts.mean_stored_bytes,
            bytes_stored=kept * texts.mean_stored_bytes,
            requests=texts.requests(3),
        )

    def draw(self, piece: Split) -> Iterator[tuple[int, bytes]]:
        groups = self._num_groups()
        for table in _joined(self._drawn(piece)):
            yield from _by_group(table, groups)

    def put_together(self, group: int, parts: Iterable[bytes]) -> Tally:
        samples, whole = self.blocks.samples_per_pull()
        table = aligned.unpack(parts)
        cluster, block, draw, key = (table.column(i).to_numpy() for i in range(4))
        # Splits sent every draw below a threshold. Only here is a block complete, so only here are its lowest draws
        # known.
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
        # Flushed by cluster, so each cluster is one row group and is read without the others.
        with aligned.table_writer(
            self.group_path(group), CANDIDATES_SCHEMA, group_rows=1 << 30
        ) as writer:
            for a, b in run_bounds(cluster):
                rows = table.slice(a, b - a)
                writer.write({n: rows.column(n).chunk(0) for n in rows.column_names})
                writer.flush()
            writer.close(metadata)
        return Tally({"candidates": len(order)})

    def group_of(self, cluster: int) -> int:
        """Returns the group of a cluster's arm: the number of the file of its candidates."""
        return cluster % self._num_groups()

    @once_per_process
    def pull_keys(self) -> dict[tuple[int, int], str]:
        """Reads the key of every pull by (cluster id, block), once per process.

        The key is a hash of the pull's keys and texts in order, so equal pulls of two runs share their scores.
        """
        paths = [info.path for info in files.find(self.path("groups"))]
        footers = list(files.in_parallel(aligned.read_metadata, paths))
        return {(c, b): key for footer in footers for c, b, key in footer["pulls"]}

    def has_any(self, cluster: int) -> bool:
        """Returns whether a cluster has an example in the reserve."""
        starts = self.blocks.load().pullable_starts
        return bool(starts[cluster + 1] > starts[cluster])

    def read_cluster(self, cluster: int, columns: list[str]) -> pa.Table:
        """Reads the candidates of one cluster, sorted by (block, draw); see `has_any`."""
        group = self.group_of(cluster)
        with files.open_read(self.group_path(group)) as file:
            row_group = self._row_groups(group)[cluster]
            return pq.ParquetFile(file).read_row_group(row_group, columns=columns)

    def read_text(self, cluster: int, key: int) -> str:
        """Reads the text of one candidate."""
        table = self.read_cluster(cluster, ["key", "text"])
        row = np.flatnonzero(table.column("key").to_numpy() == np.uint64(key))[0]
        return str(table.column("text")[int(row)].as_py())

    @once_per_process
    def _row_groups(self, group: int) -> dict[int, int]:
        """Reads the row group of each cluster in a group's file, by cluster id, once per process."""
        clusters = aligned.read_metadata(self.group_path(group))["clusters"]
        return {cluster: i for i, cluster in enumerate(clusters)}

    @once_per_process
    def _num_groups(self) -> int:
        """Returns the number of candidate files, computed once per process."""
        samples, _ = self.blocks.samples_per_pull()
        return num_groups(self.blocks.load().candidates, samples)

    def _drawn(self, split: Split) -> Iterator[pa.RecordBatch]:
        corpus, blocks = self.corpus, self.blocks.load()
        samples, whole = self.blocks.samples_per_pull()
        rows = corpus.rows(split)
        if not rows.usable.any():
            return
        clusters, similarity = self.blocks.clusters.read(split)
        # A worker sees one split, not whole blocks. Draws below a threshold per block leave few texts for the shuffle
        # and are, with overwhelming probability, at least as many as a pull needs.
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
    # Each pack carries a schema and a codec header; one per row group would be 50,000 packs for 10^6 examples.
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
    # Ids alone are not enough: a shard may be edited in place, which changes its texts and keeps its ids.
    texts = (seeding.digest(text) for text in pull.column("text").to_pylist())
    return seeding.digest(*pull.column("key").to_pylist(), *texts)
