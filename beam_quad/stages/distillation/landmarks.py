"""Landmarks of Influence Distillation: drawn by hash, gathered with their texts, and scored exactly."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad import seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.distillation import LandmarkDraw, default_num_landmarks
from beam_quad.records import Split
from beam_quad.stages.base import GroupedTask, ModelTask, Task
from beam_quad.stages.influence.score import InfluenceScoring, Scorer
from beam_quad.stages.read.corpus import Corpus, piece_path, read_json, write_json

# A group is a piece of work, and a file of sketches: 16 MB of 131,072 numbers each in half precision.
_LANDMARKS_PER_GROUP = 64


@dataclasses.dataclass
class DrawLandmarks(Task):
    """Draws the landmarks: the usable examples of the reserve with the lowest draws, a uniform sample of the corpus.

    Takes splits and gives a `LandmarkDraw`.

    Args:
      corpus: The corpus.
      folder: Where `draw.npz` goes.
      num_landmarks: How many, or None for the default of the corpus's size.
    """

    corpus: Corpus
    folder: str
    num_landmarks: int | None

    @property
    def name(self) -> str:
        return "DrawLandmarks"

    @property
    def artifact(self) -> str:
        return _draw_path(self.folder)

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def do(self, piece: Split, model: Any) -> LandmarkDraw:
        rows = self.corpus.rows(piece)
        number = self.num_landmarks or default_num_landmarks(self.corpus.num_usable())
        return LandmarkDraw.of(rows.keys[self.corpus.in_reserve(rows)], self.corpus.seed, number)

    def finish(self, total: LandmarkDraw) -> None:
        files.write_once(self.artifact, total.to_bytes())


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


@dataclasses.dataclass
class ScoreLandmarks(ModelTask):
    """Scores the landmarks exactly on every target: a forward and a backward pass, and no gradient of a parameter formed.

    Takes group numbers, writes a file of scores each, and gives counts. A score is the product of the target's vector with the
    landmark's gradient over the norm of that gradient. A landmark that predicts no token, or whose score is not finite,
    has none. Those of group 0 are scored under the halves of each target's texts too.

    Args:
      scoring: The targets' vectors, on normalised gradients.
      halves: The same with the vectors of their halves.
      landmarks_dir: Folder of `GatherLandmarks`.
      folder: Where the scores by group and `scores.json` go.
    """

    scoring: InfluenceScoring
    halves: InfluenceScoring
    landmarks_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "ScoreLandmarks"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "scores.json")

    @property
    def model_key(self) -> str:
        return seeding.digest(self.scoring.key, self.halves.key)

    @property
    def device(self) -> str:
        return self.scoring.device

    def load(self) -> Scorer:
        return self.scoring.load()

    def pieces(self) -> list[int]:
        return landmark_groups(self.landmarks_dir)

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "groups"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (scores_path(self.folder, piece),)

    def read(self, piece: int) -> Tally:
        return count_scores(aligned.read_table(self.paths(piece)[0]))

    def do(self, piece: int, model: Scorer) -> Tally:
        landmarks = read_landmarks(self.landmarks_dir, piece, [*LANDMARK_COLUMNS, "text"])
        texts = model.prepare(landmarks.column("text").to_pylist())
        # Twice as many vectors, which one worker holds for one piece.
        under_halves = self.halves.load().score(texts) if piece == 0 else None
        table = score_table(landmarks, model.score(texts), under_halves)
        write_scores(self.folder, piece, table)
        return count_scores(table)

    def finish(self, total: Tally | None) -> None:
        write_json(self.artifact, (total or Tally()).counts)


# What the scores keep of the landmarks.
LANDMARK_COLUMNS = ["key", "tokens", "example_id"]
_SCORES = pa.list_(pa.float64())


def score_table(
    landmarks: pa.Table, scores: np.ndarray, under_halves: np.ndarray | None
) -> pa.Table:
    """Puts the scores of a group beside its landmarks, without those that have none.

    Args:
      landmarks: `LANDMARK_COLUMNS` of n landmarks.
      scores: Float64 [n, num_targets]; nan where there is none.
      under_halves: The same for the halves' vectors, or None.
    """
    finite = np.isfinite(scores).all(axis=1)
    table = landmarks.select(LANDMARK_COLUMNS)
    table = table.append_column("scores", pa.array(list(scores), _SCORES))
    halves = [None] * len(scores) if under_halves is None else list(under_halves)
    return table.append_column("halves", pa.array(halves, _SCORES)).filter(pa.array(finite))


def write_scores(folder: str, group: int, table: pa.Table) -> None:
    """Writes what `score_table` made."""
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    aligned.write_table(scores_path(folder, group), table.schema, columns)


def scores_path(folder: str, group: int) -> str:
    """Where the scores of a group of landmarks lie."""
    return files.join(folder, "groups", f"group-{group:05d}.parquet")


def count_scores(table: pa.Table) -> Tally:
    """Counts the landmarks of a group that have scores."""
    return Tally({"scored": table.num_rows})


def load_draw(folder: str) -> LandmarkDraw:
    """Loads the draw, once per process."""
    path = _draw_path(folder)
    return cached(("draw", path), lambda: LandmarkDraw.from_bytes(files.read_bytes(path)))


def _ranks(folder: str) -> dict[int, int]:
    def read() -> dict[int, int]:
        return {int(key): rank for rank, key in enumerate(load_draw(folder).keys)}

    return cached(("landmark ranks", folder), read)


def _draw_path(folder: str) -> str:
    return files.join(folder, "draw.npz")


def _group_path(folder: str, group: int) -> str:
    return files.join(folder, "texts", f"group-{group:05d}.parquet")
