"""The scores of pulls, which runs share: a pull that any of them has scored is not scored again."""

import dataclasses
import threading
from typing import Annotated

import pyarrow as pa

from beam_quad import identity
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.columns import run_bounds
from beam_quad.stages.base import Stored
from beam_quad.stages.influence.score import Scoring
from beam_quad.stages.quad.bandit import Bandit

SCORES_SCHEMA = pa.schema(
    [
        pa.field("pull_key", pa.string()),
        pa.field("example_id", pa.string()),
        pa.field("key", pa.uint64()),
        pa.field("tokens", pa.int64()),
        pa.field("scores", pa.list_(pa.float64())),
    ]
)


@dataclasses.dataclass(frozen=True)
class Scores(Stored):
    """The scores of pulls, shared by all runs with the same scoring.

    Args:
      bandit: A bandit with this scoring.
      scoring: The scoring.
    """

    kind = "scores"
    version = 2

    bandit: Annotated[Bandit, identity.NotCounted("others that score in this way find the scores")]
    scoring: Scoring

    @property
    def root(self) -> str:
        return self.bandit.root

    def load(self) -> "ScoreStore":
        """Returns the process's store of these scores, refreshed."""
        return cached(("scores", self.folder), lambda: ScoreStore(self.folder)).refresh()


class ScoreStore:
    """All scores in a folder, by pull key. `refresh` reads only files that it has not read yet."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._read: set[str] = set()
        self._tables: dict[str, pa.Table] = {}
        self._lock = threading.Lock()

    def refresh(self) -> "ScoreStore":
        """Reads the files written since the last call."""
        # Other workers and other runs add files at any time, but never change one.
        with self._lock:
            new = sorted({info.path for info in files.find(self._folder)} - self._read)
            for table in files.in_parallel(aligned.read_table, new):
                self._add(table)
            self._read.update(new)
        return self

    def __contains__(self, pull_key: str) -> bool:
        return pull_key in self._tables

    def __getitem__(self, pull_key: str) -> pa.Table:
        return self._tables[pull_key]

    def _add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        keys = table.column("pull_key").to_numpy(zero_copy_only=False)
        for a, b in run_bounds(keys):
            # Two runs at the same time may both score a pull; the first file by name is used.
            self._tables.setdefault(keys[a], table.slice(a, b - a))
