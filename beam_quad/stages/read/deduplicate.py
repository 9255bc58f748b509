"""Finds rows with a repeated id by a shuffle of hashes; used only with an id column."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from beam_quad import identity, seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.artifacts.json_files import write_json
from beam_quad.columns import find_repeats
from beam_quad.corpus.joining import parts_of
from beam_quad.errors import IntegrityError
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.stages.base import RegroupedStage
from beam_quad.stages.read.corpus import Corpus, piece_name, piece_path
from beam_quad.stages.read.splits import SplitStage

# An element holds the hashes of one split in one bucket: 256 buckets hold 10^9 ids in 40 GB, 160 MB each.
_NUM_BUCKETS = 256
_KEYS = np.dtype([
    ("high", "<u8"), ("low", "<u8"), ("split", "<u4"), ("row", "<u8"), ("shard", "<u4"), ("shard_row", "<u8"),
])  # fmt: skip
_DUPLICATES = pa.schema([pa.field("row", pa.int64())])


@dataclasses.dataclass(frozen=True)
class FindDuplicateIds(SplitStage, RegroupedStage):
    """Writes, for each split that has any, the rows whose id occurs at an earlier (shard, row).

    Takes splits; only 128-bit hashes of the ids, packed by split and bucket, cross the shuffle. The probability that
    two of 10^9 ids share a hash by chance is 10^-21. Rows of unreadable shards do not count as seen.

    Args:
      corpus: The corpus, with an id column.
    """

    kind = "duplicates"
    artifact_name = "done.json"

    corpus: Annotated[Corpus, identity.CountedAs(Corpus.whole, "nothing is selected here")]

    @property
    def folder(self) -> str:
        """Folder of the repeated rows: that of the corpus, whose splits they belong to."""
        if self.corpus.duplicates_dir is None:
            raise IntegrityError("duplicates are looked for only with an id column")
        return self.corpus.duplicates_dir

    def work(self, sizes: Sizes) -> Work:
        shuffled = float(_KEYS.itemsize * sizes.corpus.documents)
        return dataclasses.replace(super().work(sizes), line="embed", bytes_shuffled=shuffled)

    def pieces(self) -> Iterable[Any]:
        return enumerate(self.corpus.splits())

    @functools.cached_property
    def _ranks(self) -> dict[str, int]:
        """Places of the shards in the order of their names."""
        shards = {part.shard for split in self.corpus.splits() for part in parts_of(split)}
        return {shard: rank for rank, shard in enumerate(sorted(shards))}

    def draw(self, piece: Any) -> Iterator[tuple[int, bytes]]:
        index, split = piece
        rows = self.corpus.all_rows(split)
        kept = np.flatnonzero(rows.usable)
        if not len(kept):
            return
        ids = aligned.read_columns(piece_path(self.corpus.rows_dir, split), ["example_id"])[
            "example_id"
        ]
        hashes = np.frombuffer(seeding.wide_keys(ids[kept]), "<u8").reshape(-1, 2)
        packed = np.empty(len(kept), _KEYS)
        packed["high"], packed["low"] = hashes.T
        packed["split"], packed["row"] = index, kept
        for part in self.corpus.places(split, len(rows.keys)).parts:
            own = (kept >= part.first) & (kept < part.first + part.num_rows)
            packed["shard"][own] = self._ranks[part.split.shard]
            packed["shard_row"][own] = part.split.first_row + kept[own] - part.first
        # Equal ids have equal hashes and meet in one bucket, from whichever splits they come.
        bucket = packed["high"] % np.uint64(_NUM_BUCKETS)
        for value in np.unique(bucket):
            yield int(value), packed[bucket == value].tobytes()

    def regroup(self, group: int, parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        packed = np.concatenate([np.frombuffer(part, _KEYS) for part in parts])
        # The first row by shard and row number stays, however shards are joined.
        ids, places = (
            [packed[name] for name in names] for names in (("high", "low"), ("shard", "shard_row"))
        )
        again = packed[find_repeats(ids, places)]
        again = again[np.argsort(again["split"], kind="stable")]
        splits, starts = np.unique(again["split"], return_index=True)
        for split, rows in zip(splits, np.split(again["row"], starts[1:]), strict=False):
            yield int(split), rows.astype("<i8").tobytes()

    def put_together(self, group: int, parts: Iterable[bytes]) -> Tally:
        split: Split = self.corpus.splits()[group]
        # Buckets arrive in any order.
        rows = np.sort(np.concatenate([np.frombuffer(part, "<i8") for part in parts]))
        aligned.write_table(piece_path(self.folder, split), _DUPLICATES, {"row": rows})
        return Tally({piece_name(split): len(rows)})

    def finish(self, total: Tally | None) -> None:
        counts = total.counts if total else {}
        found = {"pieces": sorted(counts), "duplicates": sum(counts.values())}
        write_json(self.artifact, found)
