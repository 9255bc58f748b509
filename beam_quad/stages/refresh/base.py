"""The finished selection that a run goes on from, by reference."""

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
    """Where an output keeps, for every split, which rows of it are selected: `SELECTED_ROWS`.

    Args:
      output: The folder.
      configuration: Fingerprint of its configuration: what another one has left there says nothing of it.
    """
    return files.join(output, "_run", "selected", configuration[:20])


def rows_path(output: str, configuration: str, split: Split) -> str:
    """Where an output keeps which rows of a split are selected. Arguments as for `rows_folder`."""
    return files.join(rows_folder(output, configuration), f"{piece_name(split)}.parquet")


def unread_path(output: str, configuration: str) -> str:
    """Where an output keeps which splits could not be read, by name. Arguments as for `rows_folder`."""
    return files.join(rows_folder(output, configuration), "unread.json")


def record_path(output: str, configuration: str, name: str) -> str:
    """Where an output keeps what a part of it holds.

    Args:
      output: The folder.
      configuration: Fingerprint of its configuration.
      name: The part's name, without its ending.
    """
    return files.join(output, "_run", "parts", configuration[:20], f"{name}.json")


@dataclasses.dataclass(frozen=True)
class Base:
    """A finished selection, whose rows are kept, and whose statistics and scores are found made.

    Args:
      output: Its folder.
      plan_path: The plan of its corpus.
      manifest: SHA-256 of its manifest, which names all of its files by content.
      configuration: Fingerprint of its configuration.
    """

    output: Annotated[str, identity.NotCounted("the manifest's hash tells what it holds")]
    plan_path: Annotated[str, identity.NotCounted("as the output")]
    manifest: str
    configuration: Annotated[str, identity.NotCounted("the manifest holds it")]

    @once_per_process
    def splits(self) -> dict[str, Split]:
        """The splits of its corpus that could be read, by the names of their artifacts."""
        unread = set(read_json(unread_path(self.output, self.configuration))["splits"])
        named = {piece_name(split): split for split in read_plan(self.plan_path).splits}
        return {name: split for name, split in named.items() if name not in unread}

    def has(self, split: Split) -> bool:
        """Says whether a split was a part of its corpus, with the same content."""
        return piece_name(split) in self.splits()

    def selected(self, split: Split) -> dict[str, np.ndarray]:
        """Reads which rows of a split it selected, by column of `SELECTED_ROWS`, in the order of the rows."""
        if not self.has(split):
            return dict(_NOTHING)
        return aligned.read_columns(rows_path(self.output, self.configuration, split))

    def missing_rows(self) -> int:
        """Counts the splits of which it is not known any more which rows it selected."""
        listed = files.find(rows_folder(self.output, self.configuration))
        there = {posixpath.basename(info.path).partition(".")[0] for info in listed}
        return len(self.splits().keys() - there) if "unread" in there else len(there) + 1

    @once_per_process
    def is_weighted(self) -> bool:
        """Whether its rows have weights."""
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
        """Lists the splits that gave a part its rows, by the names of their artifacts, in the order of the rows."""
        stem = posixpath.basename(part.path).partition(".")[0]
        found: dict[str, Any] = read_json(record_path(self.output, self.configuration, stem))
        return list(found["splits"])

    def rows_in(self, part: int, name: str) -> np.ndarray:
        """Reads which rows of a split, by the name of its artifacts, are in a part: ascending, int64 [m]."""
        folder = rows_folder(self.output, self.configuration)
        table = aligned.read_columns(files.join(folder, f"{name}.parquet"))
        rows: np.ndarray = table["row"][table["part"] == part]
        return rows


class Floor(Protocol):
    """Where a budget ends in a ranking."""

    def floors(self, num_levels: int) -> np.ndarray:
        """Reads the lowest priority that it reaches, by the first levels of the search, uint64 [1]."""


# Levels of a search that decide by rank alone, and not by the hashes that decide between equals.
RANK_LEVELS = 2


@dataclasses.dataclass(frozen=True)
class Held:
    """What a refresh puts first: the rows that stay selected because they were, and the best of the new ones.

    New rows that are among what twice the budget would select come before old ones. Whether a shard gives a few rows more or
    fewer is chance, and for each of those few an old shard would be read again.

    Args:
      base: The selection that the run goes on from.
      keeps_all: Whether the budget is no smaller than that selection's.
      twice: Where twice the budget ends, in the ranking without regard to the base; None if no row is ranked anew.
    """

    base: Base
    keeps_all: bool
    twice: Floor | None = None

    def first(self, packed: np.ndarray, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Puts what comes first into the priorities of a split, uint64 [n]."""
        is_new = np.zeros(len(packed), bool)
        if self.twice is not None and not self.base.has(split):
            is_new = is_reached(packed, self.twice.floors(RANK_LEVELS)[0])
        return held_first(packed, self.of(split, rows), is_new, self.keeps_all)

    def of(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Says which rows of a split are held, bool [n]: those that were selected, and are usable still."""
        is_held = np.zeros(len(rows.keys), bool)
        is_held[self.base.selected(split)["row"]] = True
        return np.asarray(is_held & rows.usable)
