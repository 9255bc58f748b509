"""Finds the documents that contain a protected text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.columns import find_sorted
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.stages.read.corpus import piece_name
from beam_quad.stages.read.leaks import FoundLeak, Leaks
from beam_quad.stages.read.text_stage import TextStage

_KEYS = pa.schema([pa.field("key", pa.uint64())])


@dataclasses.dataclass(frozen=True, eq=False)
class LeakingDocuments:
    """Documents that leak. An additive statistic.

    Attributes:
      pieces: Number of leaking rows of each split, by the name of its artifacts.
      keys: Keys of the usable ones, uint64 [m].
    """

    pieces: Tally
    keys: np.ndarray

    def __add__(self, other: "LeakingDocuments") -> "LeakingDocuments":
        keys = np.concatenate([self.keys, other.keys])
        return LeakingDocuments(self.pieces + other.pieces, keys)


@dataclasses.dataclass(frozen=True)
class FindLeaks(TextStage):
    """Finds the documents that contain a protected text.

    Takes splits and gives `LeakingDocuments`. Leaking documents are embedded, clustered and scored like all others, but
    cannot be selected, so fits to the corpus do not depend on the protected texts.

    Args:
      corpus: The corpus, whose duplicates by id were found.
      leaks: The texts.
    """

    kind = "leaking"
    artifact_name = "leaking.json"
    schema = pa.schema(
        [
            pa.field("item", pa.int32()),
            pa.field("share", pa.float64()),
            pa.field("matched", pa.string()),
        ]
    )

    leaks: Leaks

    def work(self, sizes: Sizes) -> Work:
        return dataclasses.replace(super().work(sizes), line="leaks")

    def made_from(self) -> tuple[object, ...]:
        return (self.leaks,)

    def columns_of(self, texts: Sequence[str | None]) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {name: [] for name in self.schema.names}
        for leak in self.leaks.index().find([text or "" for text in texts]):
            for name, values in columns.items():
                values.append(leak and getattr(leak, name))
        return columns

    def statistic(self, piece: Split) -> LeakingDocuments:
        at = self._rows(piece)
        if not len(at):
            return LeakingDocuments(Tally(), np.zeros(0, np.uint64))
        rows = self.corpus.distinct_rows(piece)
        keys = rows.keys[at[rows.usable[at]]]
        return LeakingDocuments(Tally({piece_name(piece): len(at)}), keys)

    def finish(self, total: LeakingDocuments | None) -> None:
        total = total or LeakingDocuments(Tally(), np.zeros(0, np.uint64))
        # Sorted for `find_sorted`; splits arrive in any order.
        aligned.write_table(self.path("keys.parquet"), _KEYS, {"key": np.sort(total.keys)})
        write_json(self.artifact, total.pieces.counts)

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Tells which usable documents leak, by key, bool [n]."""
        return find_sorted(self._keys(), keys) >= 0

    def num_documents(self) -> int:
        """Counts the usable documents that leak."""
        return len(self._keys())

    def rows(self, split: Split) -> np.ndarray:
        """Finds the rows of a split that leak, ascending, int64 [m]."""
        return np.array([], np.int64) if self._has_none(split) else self._rows(split)

    def read(self, split: Split) -> dict[int, FoundLeak]:
        """Reads the leaks of a split, by ascending row."""
        if self._has_none(split):
            return {}
        rows, items = self._rows(split), self.leaks.items()
        found = aligned.read_table(self.path_of(split)).take(pa.array(rows)).to_pylist()
        return {
            row: FoundLeak(*items[own.pop("item")], **own)
            for row, own in zip(rows.tolist(), found, strict=True)
        }

    def _rows(self, split: Split) -> np.ndarray:
        # A null is read as nan, which is not above 0.
        return np.flatnonzero(aligned.read_columns(self.path_of(split), ["share"])["share"] > 0)

    def _has_none(self, split: Split) -> bool:
        return piece_name(split) not in self._pieces()

    @once_per_process
    def _keys(self) -> np.ndarray:
        return aligned.read_columns(self.path("keys.parquet"))["key"]

    @once_per_process
    def _pieces(self) -> dict[str, int]:
        counts: dict[str, int] = read_json(self.artifact)
        return counts
