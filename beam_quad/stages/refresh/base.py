"""The base of a refresh: a finished selection, by reference."""

import dataclasses
import posixpath
from typing import Annotated, Any, Protocol

import numpy as np
import pyarrow as pa

from beam_quad import identity
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json
from beam_quad.corpus.parts import WrittenPart, is_part
from beam_quad.corpus.plan import read_plan
from beam_quad.records import Split
from beam_quad.selection import held_first, is_reached
from beam_quad.stages.read.corpus import piece_name

SELECTED_ROWS = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("key", pa.uint64()),
        pa.field("tokens", pa.int64()),
        pa.field("part", pa.int32()),
        pa.field("since", pa.int32()),
        pa.field("worth", pa.float64()),
    ]
)
_NOTHING: dict[str, np.ndarray] = {
    field.name: np.zeros(0, field.type.to_pandas_dtype()) for field in SELECTED_ROWS
}


def rows_folder(output: str, configuration: str) -> str:
    """Returns the folder of the selected rows of every split of an output, with columns `SELECTED_ROWS`.

    Args:
      output: Folder of the output.
      configuration: Fingerprint of its configuration, which keeps files of another configuration apart.
    """
    return files.join(output, "_run", "selected", configuration[:20])


def rows_path(output: str, configuration: str, split: Split) -> str:
    """Returns the path of the selected rows of one split. Arguments as for `rows_folder`."""
    return files.join(rows_folder(output, configuration), f"{piece_name(split)}.parquet")


def unread_path(output: str, configuration: str) -> str:
    """Returns the path of the names of unreadable splits. Arguments as for `rows_folder`."""
    return files.join(rows_folder(output, configuration), "unread.json")


def records_folder(output: str, configuration: str) -> str:
    """Returns the folder of the records of an output's parts. Arguments as for `rows_folder`."""
    return files.join(output, "_run", "parts", configuration[:20])


def record_path(output: str, configuration: str, name: str) -> str:
    """Returns the path of the record of a part, which lists the splits of its rows.

    Args:
      output: Folder of the output.
      configuration: Fingerprint of its configuration.
      name: Name of the part, without its extension.
    """
    return files.join(records_folder(output, configuration), f"{name}.json")


@dataclasses.dataclass(frozen=True)
class Base:
    """A finished selection. A refresh keeps its rows and reuses its statistics and scores.

    Args:
      output: Folder of the selection.
      plan_path: Path of the plan of its corpus.
      manifest: SHA-256 of its manifest, which identifies all its files by content.
      configuration: Fingerprint of its configuration.
    """

    output: Annotated[str, identity.NotCounted("the manifest's hash tells what it holds")]
    plan_path: Annotated[str, identity.NotCounted("as the output")]
    manifest: str
    configuration: Annotated[str, identity.NotCounted("the manifest holds it")]

    @once_per_process
    def splits(self) -> dict[str, Split]:
        """Reads the readable splits of its corpus, by the names of their artifacts."""
        # If a split that the base could not read is readable now, it is new.
        unread = set(read_json(unread_path(self.output, self.configuration))["splits"])
        named = {piece_name(split): split for split in read_plan(self.plan_path).splits}
        return {name: split for name, split in named.items() if name not in unread}

    def has(self, split: Split) -> bool:
        """Returns whether its corpus had a split, with the same content."""
        return piece_name(split) in self.splits()

    def selected(self, split: Split) -> dict[str, np.ndarray]:
        """Reads the selected rows of a split, by column of `SELECTED_ROWS`, in the order of the rows."""
        if not self.has(split):
            return dict(_NOTHING)
        return aligned.read_columns(rows_path(self.output, self.configuration, split))

    def missing_rows(self) -> int:
        """Counts the splits whose record of selected rows is missing."""
        listed = files.find(rows_folder(self.output, self.configuration))
        # Without `unread.json` the readable splits are unknown, so the count is only known to be positive.
        there = {posixpath.basename(info.path).partition(".")[0] for info in listed}
        return len(self.splits().keys() - there) if "unread" in there else len(there) + 1

    @once_per_process
    def is_weighted(self) -> bool:
        """Returns whether its rows have weights."""
        config = read_json(files.join(self.output, "manifest.json"))["config"]
        return bool(config["weighted"])

    @once_per_process
    def parts(self) -> list[WrittenPart]:
        """Lists its parts, in order."""
        found = read_json(files.join(self.output, "manifest.json"))["files"]
        return [
            WrittenPart(
                files.join(self.output, *part["path"].split("/")),
                part["sha256"],
                part["rows"],
                part["bytes"],
            )
            for part in found
            if part["path"].startswith("selected/") and is_part(part["path"])
        ]

    def splits_of(self, part: WrittenPart) -> list[str]:
        """Lists the splits of a part's rows, by the names of their artifacts, in the order of the rows."""
        stem = posixpath.basename(part.path).partition(".")[0]
        found: dict[str, Any] = read_json(record_path(self.output, self.configuration, stem))
        return list(found["splits"])

    def rows_in(self, part: int, name: str) -> np.ndarray:
        """Reads the rows of a split, named by its artifacts, that are in a part: ascending, int64 [m]."""
        folder = rows_folder(self.output, self.configuration)
        table = aligned.read_columns(files.join(folder, f"{name}.parquet"))
        rows: np.ndarray = table["row"][table["part"] == part]
        return rows


class Floor(Protocol):
    """Where a budget ends in a ranking."""

    def floors(self, num_levels: int) -> np.ndarray:
        """Reads the lowest selected priority after the first `num_levels` levels of the search, uint64 [1]."""


# The first levels of a search compare ranks only; later levels compare the hashes that break ties.
RANK_LEVELS = 2


@dataclasses.dataclass(frozen=True)
class Held:
    """The rows that a refresh prefers: first the rows selected before, then the best new rows, then all others.

    New rows within twice the budget come before old rows that were not selected. A ranking by score alone would select a
    few more rows of some old shards by chance, and each of these shards would have to be read again.

    Args:
      base: The selection to refresh.
      keeps_all: Whether the budget is at least that of the base.
      twice: Where twice the budget ends in the ranking by score alone; None if no row is ranked anew.
    """

    base: Base
    keeps_all: bool
    twice: Floor | None = None

    def first(self, packed: np.ndarray, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns the priorities of a split with the preferred rows first, uint64 [n]."""
        is_new = np.zeros(len(packed), bool)
        if self.twice is not None and not self.base.has(split):
            is_new = is_reached(packed, self.twice.floors(RANK_LEVELS)[0])
        return held_first(packed, self.of(split, rows), is_new, self.keeps_all)

    def of(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns which rows of a split are held: selected before and still usable, bool [n]."""
        is_held = np.zeros(len(rows.keys), bool)
        is_held[self.base.selected(split)["row"]] = True
        # Since then a held row may have become a duplicate, been excluded or been found to leak.
        return np.asarray(is_held & rows.usable)
