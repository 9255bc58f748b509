"""New clusters for new documents far from every center; old clusters keep their ids and centers."""

import dataclasses
from typing import Annotated, Any, ClassVar

import numpy as np

from beam_quad import identity, seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.clustering import Centers
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.refresh import grow_centers
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import read_points, write_points
from beam_quad.stages.read.corpus import piece_path
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.refresh.drift import MeasureReference

# The most far documents whose vectors are clustered, about: 80 MB in 512 dimensions.
_MOST_FAR = 40_000


@dataclasses.dataclass(frozen=True)
class GrowCenters(SplitStage):
    """Draws far documents by hash from the new splits and opens clusters for them.

    Takes splits and writes one sample file for each, then `centers.npz` and `fit.json`, as `FitCenters` does.

    Args:
      corpus: The embedded corpus.
      clusters: Its clusters, by the old centers.
      reference: The sums over old documents, with their distances from their centers.
    """

    kind = "grown_centers"
    artifact_name = "centers.npz"

    clusters: AssignClusters
    reference: MeasureReference

    def work(self, sizes: Sizes) -> Work:
        return dataclasses.replace(super().work(sizes), line="fit centers")

    def pieces(self) -> list[Split]:
        base = self.reference.base
        return [split for split in self.corpus.splits() if not base.has(split)]

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("sample"),)

    def do(self, piece: Split, model: Any) -> Tally:
        rows = self.corpus.rows(piece)
        usable = np.flatnonzero(rows.usable)
        keys = rows.keys[usable]
        clusters, cosine, _ = self.reference.documents.read(piece, usable)
        is_far = self.reference.load().is_far(clusters, cosine, keys, is_old=False)
        # Centers need a sample of bounded size only, however many documents are far.
        rate = min(1.0, _MOST_FAR / max(1, self.corpus.num_usable()))
        is_drawn = is_far & seeding.is_drawn(self.corpus.seed, "far", keys, rate)
        path = piece_path(self.path("sample"), piece)
        if is_drawn.any():
            write_points(path, self.corpus.some_embeddings(piece, usable[is_drawn]))
        return Tally({"far": int(is_far.sum()), "drawn": int(is_drawn.sum())})

    def finish(self, total: Tally | None) -> None:
        found, old = total or Tally(), self.clusters.centers.load()
        # The order of the files does not matter: the fit is independent of the order of its points.
        paths = [info.path for info in files.find(self.path("sample"))]
        points = read_points(paths, found["drawn"])
        sizes = self.clusters.sums().examples
        grown = old
        if len(points):
            grown = grow_centers(old, points, found["far"], sizes, self.corpus.seed)
        facts = {"far": found["far"], "opened": grown.num_clusters - old.num_clusters}
        write_json(self.path("fit.json"), facts)
        files.write_once(self.artifact, grown.to_bytes())

    @once_per_process
    def load(self) -> Centers:
        """Loads the centers, once per process."""
        return Centers.from_bytes(files.read_bytes(self.artifact))

    def report(self) -> dict[str, Any]:
        """Reads the numbers of `far` new documents and of `opened` clusters."""
        return read_json(self.path("fit.json"))


@dataclasses.dataclass(frozen=True)
class StoredCenters:
    """The centers of an earlier run, by the folder of the stage that made them.

    Args:
      root: The folder of all artifacts.
      kind: Kind of the stage.
      name: Digest of the stage's fields, the rest of its folder's name.
    """

    artifact_name: ClassVar[str] = "centers.npz"

    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    kind: str
    name: str

    def identity(self) -> list[str]:
        """Returns the identity of the stage that made the centers."""
        return [self.kind, self.name]

    @property
    def folder(self) -> str:
        """Folder of the centers."""
        return files.join(self.root, self.kind, self.name)

    @property
    def artifact(self) -> str:
        """Path of the centers."""
        return files.join(self.folder, self.artifact_name)

    @once_per_process
    def load(self) -> Centers:
        """Loads the centers, once per process."""
        return Centers.from_bytes(files.read_bytes(self.artifact))

    def report(self) -> dict[str, Any]:
        """Reads the stage's facts of the fit."""
        return read_json(files.join(self.folder, "fit.json"))
