"""Sketches of the landmarks' gradients, which any query set can use."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch

from beam_quad import identity
from beam_quad.additive import Tally
from beam_quad.artifacts import files
from beam_quad.errors import IntegrityError
from beam_quad.gradients.optimizer import load_adam
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.sketches import GradientSketcher
from beam_quad.gradients.windows import Documents
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring import tensors
from beam_quad.stages.base import ModelStage
from beam_quad.stages.distillation.landmarks import LandmarkStage
from beam_quad.stages.influence.proxy import TrackedProxy


@dataclasses.dataclass(frozen=True)
class Sketching:
    """The configuration of sketches, by reference.

    Args:
      tracked: The proxy model and its tracked layers.
      dim: Length of a sketch.
      max_entries: Entries of a gradient that are kept.
      seed: The run's seed.
      optimizer_state: Path of Adam's state, which gives the multipliers of examples' gradients, or None.
      optimizer_version: Hash of the state's content.
    """

    tracked: TrackedProxy
    dim: int
    max_entries: int
    seed: int
    optimizer_state: Annotated[str | None, identity.NotCounted("its content has a hash")] = None
    optimizer_version: str = ""

    def load(self) -> "Sketcher":
        """Loads the sketcher, on a worker."""
        proxy = self.tracked.proxy.load()
        blocks = self.tracked.blocks(proxy)
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


@dataclasses.dataclass(frozen=True)
class SketchLandmarks(LandmarkStage, ModelStage):
    """Sketches the normalised gradients of the landmarks, a group at a time.

    Takes group numbers, writes a file of half-precision sketches for each, and returns counts. Sketches do not depend on
    the query set, so a run with another query set reuses them. A landmark without a loss token or with a gradient that is
    not finite is left out.

    Args:
      landmarks: The landmarks.
      sketching: The configuration of the sketches.
    """

    kind = "sketches"
    version = 2
    artifact_name = "sketches.json"
    ending = "safetensors"

    sketching: Sketching

    @property
    def model_key(self) -> str:
        return identity.digest(self.sketching)

    @property
    def device(self) -> str:
        return self.sketching.tracked.proxy.device

    def load(self) -> Sketcher:
        return self.sketching.load()

    def work(self, sizes: Sizes) -> Work:
        number, kept = self.landmarks.drawn.expected(sizes), self.kept_entries(sizes)
        bits = (kept - 1).bit_length()
        # The transform of a padded gradient takes as many sums and differences.
        transform = float((1 << bits) * bits) if self.sketching.dim < kept else 0.0
        passes = sizes.exact_flops(num_vectors=0)
        return Work(
            "landmarks",
            number,
            flops=number * passes,
            # Gradients are formed and compressed in float32 whatever the proxy's dtype.
            float32_flops=number * (sizes.gradient_flops + transform - passes),
            core_s=number * rates.SCORED_ROW_S,
            bytes_stored=2.0 * number * min(self.sketching.dim, kept),
        )

    def kept_entries(self, sizes: Sizes) -> int:
        """Returns the number of entries of a gradient that are kept."""
        entries = sum(math.prod(block.shape) for block in sizes.scoring.blocks)
        return min(self.sketching.max_entries, entries)

    def statistic(self, piece: int) -> Tally:
        keys, _ = self.read(piece)
        return self._tally(piece, len(keys))

    def do(self, piece: int, model: Sketcher) -> Tally:
        table = self.landmarks.read(piece, ["key", "text"])
        documents = model.proxy.read(table.column("text").to_pylist())
        kept, sketches = _sketch(model.gradients, documents)
        keys = table.column("key").to_numpy()[kept]
        named = {
            # Files of tensors have no unsigned integers here; the bits are the same.
            "keys": torch.from_numpy(keys.view(np.int64)),
            # Half precision rounds by far less than the error of a sketch, 1 / sqrt(its length).
            "sketches": torch.from_numpy(sketches.astype(np.float16)),
        }
        with files.writing(self.paths(piece)[0]) as file:
            tensors.write(file, named)
        return self._tally(piece, len(keys))

    def read(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a group's sketches: keys, uint64 [n], and unit rows, float16 [n, dim]."""
        with files.open_read(self.paths(group)[0]) as file:
            named = tensors.read(file)
        return named["keys"].numpy().view(np.uint64), named["sketches"].numpy()

    def _tally(self, piece: int, sketched: int) -> Tally:
        drawn = self.landmarks.read(piece, ["key"]).num_rows
        return Tally({"sketched": sketched, "unscorable": drawn - sketched})


def _sketch(sketcher: GradientSketcher, documents: Documents) -> tuple[np.ndarray, np.ndarray]:
    """Sketches the documents with a finite gradient: their positions, int64 [m], and sketches, float32 [m, dim]."""
    positions = np.flatnonzero(documents.loss_tokens)
    if not len(positions):
        return positions, np.zeros((0, sketcher.dim), np.float32)
    try:
        return positions, sketcher.sketch(documents.take(positions.tolist()))
    except IntegrityError:
        # The error does not name the document, so the documents are sketched again one by one.
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
