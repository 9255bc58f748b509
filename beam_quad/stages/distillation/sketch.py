"""Sketches of the gradients of the landmarks, which serve every query set."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from beam_quad import seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import files
from beam_quad.artifacts.cache import cached_proxy
from beam_quad.errors import IntegrityError
from beam_quad.gradients.optimizer import load_adam
from beam_quad.gradients.proxy import Proxy, ProxySpec
from beam_quad.gradients.sketches import GradientSketcher
from beam_quad.gradients.tracked import find_blocks
from beam_quad.gradients.windows import Documents
from beam_quad.scoring import tensors
from beam_quad.stages.base import ModelTask
from beam_quad.stages.distillation.landmarks import (
    landmark_groups,
    read_landmarks,
)
from beam_quad.stages.influence.score import content_spec
from beam_quad.stages.read.corpus import write_json


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
      optimizer_version: Hash of its content.
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


def _sketches_path(folder: str, group: int) -> str:
    return files.join(folder, "groups", f"group-{group:05d}.safetensors")
