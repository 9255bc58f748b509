"""The texts of the landmarks, gathered in groups."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.distillation import LandmarkDraw
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.stages.base import GroupedStage, NumberedStage
from beam_quad.stages.read.corpus import piece_path
from beam_quad.stages.read.splits import SplitStage

# A group is one piece of work and one file of sketches: 16 MB if a sketch has 131,072 numbers in half precision.
LANDMARKS_PER_GROUP = 64


class Drawn(Protocol):
    """Documents drawn to be scored, all in the reserve."""

    @property
    def what(self) -> str:
        """What they are drawn for, in CapWords."""

    @property
    def line(self) -> str:
        """Line of the plan that scoring them belongs to."""

    def expected(self, sizes: Sizes) -> int:
        """Returns the expected number of documents."""

    def load(self) -> LandmarkDraw:
        """Loads the draw."""


@dataclasses.dataclass(frozen=True)
class GatherLandmarks(SplitStage, GroupedStage):
    """Gathers the texts and embeddings of landmarks, or of other drawn documents, in groups, in the order of the draw.

    Takes splits. Only the landmarks cross the shuffle, a few thousand in all.

    Args:
      corpus: The embedded corpus.
      drawn: The draw of the landmarks.
    """

    kind = "landmarks"
    version = 2
    artifact_name = "landmarks.json"

    drawn: Drawn

    @property
    def name(self) -> str:
        return f"Gather{self.drawn.what}"

    def work(self, sizes: Sizes) -> Work:
        texts, number = self.texts_of(sizes), self.drawn.expected(sizes)
        gathered = number * (texts.mean_stored_bytes + 2.0 * sizes.embedder.dim)
        return Work(
            self.drawn.line,
            number,
            bytes_shuffled=gathered,
            bytes_stored=gathered,
            requests=texts.requests(3),
        )

    def draw(self, piece: Split) -> Iterator[tuple[int, bytes]]:
        ranks = self._ranks()
        table = self._landmarks_of(piece, ranks)
        if not table.num_rows:
            return
        rank = np.array([ranks[key] for key in table.column("key").to_pylist()])
        for group in np.unique(rank // LANDMARKS_PER_GROUP):
            own = np.flatnonzero(rank // LANDMARKS_PER_GROUP == group)
            yield int(group), aligned.pack(table.take(pa.array(own)))

    def put_together(self, group: int, parts: Iterable[bytes]) -> Tally:
        table = aligned.unpack(parts)
        # Parts come in any order; the order of the draw makes the file the same on every run.
        ranks = self._ranks()
        order = np.argsort([ranks[key] for key in table.column("key").to_pylist()])
        table = table.take(pa.array(order)).combine_chunks()
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        aligned.write_table(self.group_path(group), table.schema, columns)
        return Tally({str(group): table.num_rows})

    def finish(self, total: Tally | None) -> None:
        numbers = (total or Tally()).counts
        facts = {"landmarks": sum(numbers.values()), "groups": sorted(map(int, numbers))}
        write_json(self.artifact, facts)

    def num_landmarks(self) -> int:
        """Reads the number of landmarks."""
        return int(read_json(self.artifact)["landmarks"])

    def groups(self) -> list[int]:
        """Reads the numbers of the groups."""
        return list(read_json(self.artifact)["groups"])

    def read(self, group: int, columns: list[str]) -> pa.Table:
        """Reads a group, in the order of the draw: `key`, `tokens`, `example_id`, `text`, `embedding`."""
        with files.open_read(self.group_path(group)) as file:
            return pq.read_table(file, columns=columns)

    @once_per_process
    def _ranks(self) -> dict[int, int]:
        """The rank of each document in the draw, by key, computed once per process."""
        return {int(key): rank for rank, key in enumerate(self.drawn.load().keys)}

    def _landmarks_of(self, split: Split, ranks: dict[int, int]) -> pa.Table:
        corpus, rows = self.corpus, self.corpus.rows(split)
        usable = rows.usable
        keys = np.array(list(ranks), np.uint64)
        parts: list[pa.Table] = []
        # Most splits of a large corpus hold no landmark; their reserve is not opened.
        if not np.isin(rows.keys[usable], keys).any():
            return pa.table({})
        with files.open_read(piece_path(corpus.reserve_dir, split)) as file:
            parquet = pq.ParquetFile(file)
            for i in range(parquet.num_row_groups):
                # Keys are read first, because few row groups of a large corpus hold a landmark.
                head = parquet.read_row_group(i, columns=["row", "key"])
                found = np.isin(head.column("key").to_numpy(), keys)
                # The reserve keeps rows that were rejected after it was written.
                found &= usable[head.column("row").to_numpy()]
                if found.any():
                    parts.append(parquet.read_row_group(i).take(pa.array(np.flatnonzero(found))))
        if not parts:
            return pa.table({})
        table = pa.concat_tables(parts)
        embeddings = corpus.some_embeddings(split, table.column("row").to_numpy())
        return table.drop(["row"]).append_column("embedding", aligned.embedding_column(embeddings))


# Columns of the landmarks kept with their scores.
LANDMARK_COLUMNS = ["key", "tokens", "example_id"]


@dataclasses.dataclass(frozen=True)
class LandmarkStage(NumberedStage):
    """A stage whose pieces are the groups of landmarks, with one file each.

    Args:
      landmarks: The landmarks.
    """

    landmarks: GatherLandmarks

    @property
    def root(self) -> str:
        return self.landmarks.root

    def pieces(self) -> list[int]:
        return self.landmarks.groups()
