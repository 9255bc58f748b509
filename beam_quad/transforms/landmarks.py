"""Landmarks of Influence Distillation: drawn by hash, gathered with their texts, and their gradients sketched."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from beam_quad import seeding
from beam_quad.additive import Tally
from beam_quad.distillation import LandmarkDraw, default_num_landmarks
from beam_quad.errors import IntegrityError
from beam_quad.gradients.optimizer import load_adam
from beam_quad.gradients.proxy import Proxy, ProxySpec
from beam_quad.gradients.sketches import GradientSketcher
from beam_quad.gradients.tracked import find_blocks
from beam_quad.gradients.windows import Documents
from beam_quad.io import aligned, files
from beam_quad.records import Split
from beam_quad.scoring import tensors
from beam_quad.transforms.cache import cached, cached_proxy
from beam_quad.transforms.corpus import Corpus, piece_path, read_json, write_json
from beam_quad.transforms.score import content_spec
from beam_quad.transforms.stage import GroupedTask, ModelTask, Task

# A group is a piece of work and a file of sketches: 16 MB of 131,072 numbers each in half precision.
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
        corpus = self.corpus
        usable = corpus.rows(split).usable
        keys = np.array(list(ranks), np.uint64)
        parts = []
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


@dataclasses.dataclass(frozen=True)
class Sketching:
    """How gradients are sketched, by reference.

    Args:
      proxy: The proxy model.
      proxy_fingerprint: Content of the proxy model.
      layers: Tracked layers.
      dim: Length of a sketch.
      max_entries: Entries of a gradient that are kept.
      seed: The run's seed.
      optimizer_state: Path of Adam's state, by which examples' gradients are multiplied, or None.
      optimizer_version: Its size and generation or modification time.
    """

    proxy: ProxySpec
    proxy_fingerprint: str
    layers: str
    dim: int
    max_entries: int
    seed: int
    optimizer_state: str | None = None
    optimizer_version: str = ""

    @property
    def key(self) -> str:
        """Names everything that a sketch depends on besides the text."""
        return seeding.digest(
            "sketch",
            1,
            self.proxy_fingerprint,
            content_spec(self.proxy),
            self.layers,
            self.dim,
            self.max_entries,
            self.seed,
            self.optimizer_version,
        )

    def load(self) -> "Sketcher":
        """Loads what sketches, on a worker."""
        proxy = cached_proxy(self.proxy)
        blocks = find_blocks(proxy.model, self.layers)
        multipliers = None
        if self.optimizer_state is not None:
            with files.local_copy(self.optimizer_state) as path:
                multipliers = load_adam(path, proxy.model, blocks).multipliers
        sketcher = GradientSketcher(
            proxy, blocks, self.dim, self.max_entries, self.seed, multipliers
        )
        return Sketcher(proxy, sketcher)


@dataclasses.dataclass(frozen=True)
class Sketcher:
    """A loaded `GradientSketcher` with its proxy."""

    proxy: Proxy
    gradients: GradientSketcher


class SketchingTask(ModelTask):
    """A task whose model sketches gradients."""

    sketching: Sketching

    @property
    def model_key(self) -> str:
        return self.sketching.key

    @property
    def device(self) -> str:
        return self.sketching.proxy.device

    def load(self) -> Sketcher:
        return self.sketching.load()


@dataclasses.dataclass
class SketchLandmarks(SketchingTask):
    """Sketches the normalised gradients of the landmarks, a group at a time.

    Takes group numbers, writes a file of half-precision sketches each, and gives counts. They know nothing of the query
    set, so that another one finds them made. A landmark that predicts no token, or whose gradient is not finite, is left out.

    Args:
      sketching: How.
      landmarks_dir: Folder of `GatherLandmarks`.
      folder: Where the sketches and `sketches.json` go.
    """

    sketching: Sketching
    landmarks_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "SketchLandmarks"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "sketches.json")

    def pieces(self) -> list[int]:
        return landmark_groups(self.landmarks_dir)

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "groups"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (_sketches_path(self.folder, piece),)

    def read(self, piece: int) -> Tally:
        keys, _ = read_sketches(self.folder, piece)
        return self._tally(piece, len(keys))

    def do(self, piece: int, model: Sketcher) -> Tally:
        table = read_landmarks(self.landmarks_dir, piece, ["key", "text"])
        documents = model.proxy.read(table.column("text").to_pylist())
        kept, sketches = _sketch(model.gradients, documents)
        keys = table.column("key").to_numpy()[kept]
        named = {
            "keys": torch.from_numpy(keys.view(np.int64)),
            "sketches": torch.from_numpy(sketches.astype(np.float16)),
        }
        files.write_once(self.paths(piece)[0], tensors.dump(named))
        return self._tally(piece, len(keys))

    def finish(self, total: Tally | None) -> None:
        counts = total or Tally()
        write_json(
            self.artifact, {"sketched": counts["sketched"], "unscorable": counts["unscorable"]}
        )

    def _tally(self, piece: int, sketched: int) -> Tally:
        drawn = read_landmarks(self.landmarks_dir, piece, ["key"]).num_rows
        return Tally({"sketched": sketched, "unscorable": drawn - sketched})


def read_sketches(folder: str, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads a group's sketches: keys, uint64 [n], and unit rows, float16 [n, dim]."""
    named = tensors.parse(files.read_bytes(_sketches_path(folder, group)))
    return named["keys"].numpy().view(np.uint64), named["sketches"].numpy()


def _sketch(sketcher: GradientSketcher, documents: Documents) -> tuple[np.ndarray, np.ndarray]:
    """Sketches the documents that can be: their positions, int64 [m], and float32 [m, dim]."""
    positions = np.flatnonzero(documents.loss_tokens)
    if not len(positions):
        return positions, np.zeros((0, sketcher.dim), np.float32)
    try:
        return positions, sketcher.sketch(documents.take(positions.tolist()))
    except IntegrityError:
        kept = [(i, one) for i in positions.tolist() for one in _sketch_one(sketcher, documents, i)]
        sketches = [np.zeros((0, sketcher.dim), np.float32), *(one for _, one in kept)]
        return np.array([i for i, _ in kept], np.int64), np.concatenate(sketches)


def _sketch_one(
    sketcher: GradientSketcher, documents: Documents, position: int
) -> Iterator[np.ndarray]:
    try:
        yield sketcher.sketch(documents.take([position]))
    except IntegrityError:
        return


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


def _sketches_path(folder: str, group: int) -> str:
    return files.join(folder, "groups", f"group-{group:05d}.safetensors")
