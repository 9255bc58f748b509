"""The texts of the landmarks, gathered in groups."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.distillation import LandmarkDraw
from beam_quad.records import Split
from beam_quad.stages.base import GroupedTask
from beam_quad.stages.distillation.draw_landmarks import draw_path
from beam_quad.stages.read.corpus import Corpus, piece_path, read_json, write_json

# A group is a piece of work, and a file of sketches: 16 MB of 131,072 numbers each in half precision.
_LANDMARKS_PER_GROUP = 64


@dataclasses.dataclass
class GatherLandmarks(GroupedTask):
    """Brings the landmarks' texts and embeddings together, in groups in the order of the draw.

    Takes splits; what crosses the shuffle are the landmarks, a few thousand in all.

    Args:
      corpus: The corpus, embedded.
      folder: Folder of `DrawLandmarks`; the groups go there too.
    """

    corpus: Corpus
    folder: str

    @property
    def name(self) -> str:
        return "GatherLandmarks"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "landmarks.json")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def draw(self, piece: Split) -> Iterator[tuple[int, bytes]]:
        ranks = _ranks(self.folder)
        table = self._landmarks_of(piece, ranks)
        if not table.num_rows:
            return
        rank = np.array([ranks[key] for key in table.column("key").to_pylist()])
        for group in np.unique(rank // _LANDMARKS_PER_GROUP):
            own = np.flatnonzero(rank // _LANDMARKS_PER_GROUP == group)
            yield int(group), aligned.pack(table.take(pa.array(own)))

    def put_together(self, group: int, parts: Iterable[bytes]) -> Tally:
        table = aligned.unpack(parts)
        ranks = _ranks(self.folder)
        order = np.argsort([ranks[key] for key in table.column("key").to_pylist()])
        table = table.take(pa.array(order)).combine_chunks()
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        aligned.write_table(_group_path(self.folder, group), table.schema, columns)
        return Tally({"landmarks": table.num_rows, f"group/{group}": 1})

    def finish(self, total: Tally | None) -> None:
        groups = sorted(
            int(n.removeprefix("group/")) for n in (total or Tally()).counts if "/" in n
        )
        write_json(
            self.artifact, {"landmarks": total["landmarks"] if total else 0, "groups": groups}
        )

    def _landmarks_of(self, split: Split, ranks: dict[int, int]) -> pa.Table:
        corpus, rows = self.corpus, self.corpus.rows(split)
        usable = rows.usable
        keys = np.array(list(ranks), np.uint64)
        parts: list[pa.Table] = []
        if not np.isin(rows.keys[usable], keys).any():
            return pa.table({})
        with files.open_read(piece_path(corpus.reserve_dir, split)) as file:
            parquet = pq.ParquetFile(file)
            for i in range(parquet.num_row_groups):
                # Keys first: few row groups of a large corpus hold a landmark.
                head = parquet.read_row_group(i, columns=["row", "key"])
                found = np.isin(head.column("key").to_numpy(), keys)
                found &= usable[head.column("row").to_numpy()]
                if found.any():
                    parts.append(parquet.read_row_group(i).take(pa.array(np.flatnonzero(found))))
        if not parts:
            return pa.table({})
        table = pa.concat_tables(parts)
        embeddings = aligned.read_some_embeddings(
            piece_path(corpus.embeddings_dir or "", split), table.column("row").to_numpy()
        )
        return table.drop(["row"]).append_column("embedding", aligned.embedding_column(embeddings))


def read_landmarks(folder: str, group: int, columns: list[str]) -> pa.Table:
    """Reads a group of landmarks, in the order of the draw: `key`, `tokens`, `example_id`, `text`, `embedding`."""
    with files.open_read(_group_path(folder, group)) as file:
        return pq.read_table(file, columns=columns)


def landmark_groups(folder: str) -> list[int]:
    """The numbers of the groups of `GatherLandmarks`."""
    return list(read_json(files.join(folder, "landmarks.json"))["groups"])


# What the scores keep of the landmarks.
LANDMARK_COLUMNS = ["key", "tokens", "example_id"]


def load_draw(folder: str) -> LandmarkDraw:
    """Loads the draw, once per process."""
    path = draw_path(folder)
    return cached(("draw", path), lambda: LandmarkDraw.from_bytes(files.read_bytes(path)))


def _ranks(folder: str) -> dict[int, int]:
    def read() -> dict[int, int]:
        return {int(key): rank for rank, key in enumerate(load_draw(folder).keys)}

    return cached(("landmark ranks", folder), read)


def _group_path(folder: str, group: int) -> str:
    return files.join(folder, "texts", f"group-{group:05d}.parquet")
