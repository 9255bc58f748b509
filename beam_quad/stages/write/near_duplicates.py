"""Near-duplicates among what could be selected: of each family, the document that ranks highest stays.

They are looked for among the documents that a few budgets would reach, so that little crosses the shuffle of a large corpus;
and among all documents only if those are mostly copies, as in a month that was crawled twice. What takes the place of those
that are left out is found by the same `Cut` as ever, in a ranking without them.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.records import Split
from beam_quad.selection import Twins, is_reached
from beam_quad.selection.near_duplicates import (
    COMPARED_BUDGETS,
    COMPARED_LEVELS,
    NUM_HASHES,
    SIGNATURE_DTYPE,
    Links,
    bands,
    components,
    fills_budget,
    find_twins,
    link_equal,
)
from beam_quad.stages.base import GroupedStage, RegroupedStage
from beam_quad.stages.read.corpus import piece_name, piece_path
from beam_quad.stages.read.sign import SignTexts
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.refresh.base import Held
from beam_quad.stages.write.budget import Cut

# A group holds the bands, or the signatures, of a share of the documents: of 40 million 64 MB a band, or 45 MB.
_NUM_GROUPS = 256
_BANDS = np.dtype([("hash", "<u8"), ("row", "<u8")])
_MEMBERS = np.dtype(
    [
        ("row", "<u8"),
        ("key", "<u8"),
        ("priority", "<u8"),
        ("amount", "<i8"),
        ("is_held", "?"),
        ("signature", SIGNATURE_DTYPE, (NUM_HASHES,)),
    ]
)
_FOUND = np.dtype([("row", "<u8"), ("key", "<u8"), ("amount", "<i8"), ("twin", "<u8")])
_SPLIT_BITS = np.uint64(32)
_CANDIDATES = pa.schema([pa.field("row", pa.uint64()), pa.field("family", pa.int64())])
_KEYS = pa.schema([pa.field("key", pa.uint64())])
_DROPPED = pa.schema([pa.field("row", pa.int64()), pa.field("twin", pa.string())])


@dataclasses.dataclass(frozen=True)
class Compared:
    """The documents that are compared: those that could be selected, and those that stay selected.

    Args:
      signs: The signatures of their texts.
      cut: Where `COMPARED_BUDGETS` of each target end in their ranking, of which `COMPARED_LEVELS` are decided.
      threshold: Similarity of near-duplicates, in (0, 1].
      held: What stays selected as it was selected before; None without a base.
      ranks_new: Whether the ranking speaks of the splits alone that the base did not have.
      is_all: Whether all documents are compared that can be selected, wherever the cut lies.
      num_targets: How many share the budget.
    """

    signs: SignTexts
    cut: Cut
    threshold: float
    held: Held | None = None
    ranks_new: bool = False
    is_all: bool = False
    num_targets: int = 1

    def floor(self) -> np.uint64:
        """The lowest priority that is compared."""
        if self.is_all:
            return np.uint64(0)
        lowest: np.uint64 = self.cut.floors(COMPARED_LEVELS)[0]
        return lowest

    def of(self, split: Split, rows: aligned.Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds those of a split.

        Returns:
          Their rows, int64 [m], ascending; their priorities, uint64 [m]; and which of them stay in any case, bool [m].
        """
        is_held, packed = np.zeros(len(rows.keys), bool), np.zeros(len(rows.keys), np.uint64)
        is_old = self.held is not None and self.held.base.has(split)
        if self.held is not None:
            is_held = self.held.of(split, rows)
        if not (is_old and self.ranks_new):
            packed = self.cut.ranking.priorities(split, rows)[:, 0]
        at = np.flatnonzero(is_reached(packed, self.floor()) | is_held)
        return at, packed[at], is_held[at]


@dataclasses.dataclass(frozen=True)
class LinkCandidates(SplitStage, GroupedStage):
    """Finds the documents that may be near-duplicates of each other: those that share a band of their signatures.

    Takes splits; what crosses the shuffle are hashes of bands, 16 bytes each. Gives `Links`, and writes which documents they
    connect.

    Args:
      corpus: The corpus, within the budget.
      compared: The documents.
      earlier: What was found among fewer documents; nothing is done if that is enough.
    """

    kind = "near_duplicate_candidates"
    artifact_name = "candidates.parquet"

    compared: Compared
    earlier: "FindNearDuplicates | None" = None

    @property
    def name(self) -> str:
        return "LinkAllCandidates" if self.earlier else "LinkCandidates"

    def is_needed(self) -> bool:
        """Whether nothing was found before that is enough."""
        return self.earlier is None or not self.earlier.is_enough()

    def pieces(self) -> Iterable[Any]:
        return enumerate(self.corpus.splits()) if self.is_needed() else ()

    def draw(self, piece: Any) -> Iterator[tuple[int, bytes]]:
        index, split = piece
        at, _, _ = self.compared.of(split, self.corpus.rows(split))
        if not len(at):
            return
        hashes = bands(self.compared.signs.read(split, at), self.compared.threshold)
        packed = np.empty(hashes.shape, _BANDS)
        packed["hash"], packed["row"] = hashes, _numbers(index, at)[:, None]
        packed = packed.ravel()
        group = packed["hash"] % np.uint64(_NUM_GROUPS)
        for value in np.unique(group):
            yield int(value), packed[group == value].tobytes()

    def put_together(self, group: int, parts: Iterable[bytes]) -> Links:
        packed = np.concatenate([np.frombuffer(part, _BANDS) for part in parts])
        packed = packed[np.argsort(packed["row"], kind="stable")]
        return Links(*link_equal(packed["hash"], packed["row"]))

    def finish(self, total: Links | None) -> None:
        total = total or Links.none()
        rows, families = components(total.left, total.right)
        aligned.write_table(self.artifact, _CANDIDATES, {"row": rows, "family": families})

    @once_per_process
    def load(self) -> dict[str, np.ndarray]:
        """Loads the documents that have links, by ascending `row`, and the `family` of each, once per process."""
        return aligned.read_columns(self.artifact)


@dataclasses.dataclass(frozen=True, eq=False)
class Dropped:
    """What is left out. An additive statistic.

    Attributes:
      pieces: How many rows of each split, by its name.
      keys: Their keys, uint64 [m].
      amount: What they would take from the budget.
    """

    pieces: Tally
    keys: np.ndarray
    amount: int

    def __add__(self, other: "Dropped") -> "Dropped":
        keys = np.concatenate([self.keys, other.keys])
        return Dropped(self.pieces + other.pieces, keys, self.amount + other.amount)


@dataclasses.dataclass(frozen=True)
class FindNearDuplicates(SplitStage, RegroupedStage):
    """Compares the documents that may be near-duplicates, and finds which of them are left out.

    Takes splits; what crosses the shuffle are the signatures of the candidates. Writes, for each split that has any, the rows
    that are left out, and the row that stays in the place of each.

    Args:
      corpus: The corpus, within the budget.
      candidates: The candidates.
    """

    kind = "near_duplicates"
    artifact_name = "near_duplicates.json"

    candidates: LinkCandidates

    @property
    def name(self) -> str:
        return "FindAllNearDuplicates" if self.candidates.earlier else "FindNearDuplicates"

    @property
    def compared(self) -> Compared:
        """The documents that were compared."""
        return self.candidates.compared

    def pieces(self) -> Iterable[Any]:
        return enumerate(self.corpus.splits()) if self.candidates.is_needed() else ()

    def draw(self, piece: Any) -> Iterator[tuple[int, bytes]]:
        index, split = piece
        linked = self.candidates.load()
        first, last = np.searchsorted(linked["row"], _numbers(index, np.array([0, 1 << 32])))
        if first == last:
            return
        rows = self.corpus.rows(split)
        at, priorities, is_held = self.compared.of(split, rows)
        own = np.searchsorted(at, _rows(linked["row"][first:last]))
        at = at[own]
        packed = np.empty(len(at), _MEMBERS)
        packed["row"], packed["key"] = _numbers(index, at), rows.keys[at]
        packed["priority"], packed["is_held"] = priorities[own], is_held[own]
        packed["amount"] = self.compared.cut.budget.amounts(rows.tokens)[at]
        packed["signature"] = self.compared.signs.read(split, at)
        group = linked["family"][first:last] % _NUM_GROUPS
        for value in np.unique(group):
            yield int(value), packed[group == value].tobytes()

    def regroup(self, group: int, parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        packed = np.concatenate([np.frombuffer(part, _MEMBERS) for part in parts])
        packed = packed[np.argsort(packed["row"])]
        twins = find_twins(
            packed["signature"], packed["priority"], packed["is_held"], self.compared.threshold
        )
        at = np.flatnonzero(twins != np.arange(len(twins)))
        found = np.empty(len(at), _FOUND)
        for name in ("row", "key", "amount"):
            found[name] = packed[name][at]
        found["twin"] = packed["row"][twins[at]]
        splits = found["row"] >> _SPLIT_BITS
        for split in np.unique(splits):
            yield int(split), found[splits == split].tobytes()

    def put_together(self, group: int, parts: Iterable[bytes]) -> Dropped:
        splits = self.corpus.splits()
        found = np.concatenate([np.frombuffer(part, _FOUND) for part in parts])
        found = found[np.argsort(found["row"])]
        twins = zip(
            (found["twin"] >> _SPLIT_BITS).tolist(), _rows(found["twin"]).tolist(), strict=True
        )
        places = {
            i: self.corpus.places(splits[i])
            for i in np.unique(found["twin"] >> _SPLIT_BITS).tolist()
        }
        names = ["{}#{}".format(*places[i].of(row)) for i, row in twins]
        columns = {"row": _rows(found["row"]), "twin": names}
        aligned.write_table(piece_path(self.folder, splits[group]), _DROPPED, columns)
        number = Tally({piece_name(splits[group]): len(found)})
        return Dropped(number, found["key"], int(found["amount"].sum()))

    def finish(self, total: Dropped | None) -> None:
        total = total or Dropped(Tally(), np.zeros(0, np.uint64), 0)
        aligned.write_table(self.path("keys.parquet"), _KEYS, {"key": np.sort(total.keys)})
        write_json(self.artifact, {"pieces": total.pieces.counts, "amount": total.amount})

    def is_enough(self) -> bool:
        """Whether the documents that were compared fill the budget without those that are left out."""
        compared = self.compared
        budget = compared.cut.budget.amount // (COMPARED_BUDGETS * compared.num_targets)
        return fills_budget(compared.floor(), self._found()["amount"], budget)

    def rows(self, split: Split) -> np.ndarray:
        """Reads the rows of a split that are left out, ascending, int64 [m]."""
        return self._read(split)["row"]

    def without(self, packed: np.ndarray, split: Split) -> np.ndarray:
        """Gives priority 0 to the rows of a split that are left out: uint64 [n, ...] to the same shape."""
        packed = packed.copy()
        packed[self.rows(split)] = 0
        return packed

    def above(self, packed: np.ndarray, split: Split, floor: np.ndarray) -> Twins:
        """Finds the rows of a split that are left out though their priorities, uint64 [n], reach a floor, uint64 [1] or [n]."""
        found = self._read(split)
        at = np.flatnonzero(is_reached(packed, floor)[found["row"]])
        return Twins(found["row"][at], found["twin"][at].tolist())

    def drops(self, keys: np.ndarray) -> np.ndarray:
        """Says which examples are left out, by key, bool [n]."""
        return np.isin(keys, self._keys())

    def _read(self, split: Split) -> dict[str, np.ndarray]:
        source = self._source()
        if piece_name(split) not in source._found()["pieces"]:
            return {"row": np.zeros(0, np.int64), "twin": np.zeros(0, object)}
        return aligned.read_columns(piece_path(source.folder, split))

    def _source(self) -> "FindNearDuplicates":
        earlier = self.candidates.earlier
        return earlier if earlier is not None and earlier.is_enough() else self

    @once_per_process
    def _found(self) -> dict[str, Any]:
        return read_json(self.artifact)

    @once_per_process
    def _keys(self) -> np.ndarray:
        return aligned.read_columns(self._source().path("keys.parquet"))["key"]


def _numbers(split: int, rows: np.ndarray) -> np.ndarray:
    """Numbers rows of a split among those of all splits, uint64 [n]."""
    return (np.uint64(split) << _SPLIT_BITS) + rows.astype(np.uint64)


def _rows(numbers: np.ndarray) -> np.ndarray:
    """Row numbers within their split, int64 [n]."""
    return (numbers & np.uint64((1 << 32) - 1)).astype(np.int64)
