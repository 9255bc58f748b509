"""Near-duplicates among selectable documents: the highest-ranked document of each family stays.

Only documents within reach of a few budgets are compared, so that little of a large corpus crosses the shuffle. All
documents are compared only if those are mostly copies, as in a month crawled twice. The usual `Cut`, in a ranking
without the near-duplicates, finds their replacements.
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
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.selection import Twins, is_reached
from beam_quad.selection.near_duplicates import (
    COMPARED_LEVELS,
    NUM_HASHES,
    SIGNATURE_DTYPE,
    Links,
    band_rows,
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

# A group holds the bands, or the signatures, of a share of the documents: for 40 million documents 64 MB per band, or
# 45 MB.
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
    """The documents to compare: selectable ones, and held ones.

    Args:
      signs: The signatures of their texts.
      cut: The cut at `COMPARED_BUDGETS` budgets per target, with `COMPARED_LEVELS` levels decided.
      threshold: Similarity of near-duplicates, in (0, 1].
      held: Rows that stay selected from before; None without a base.
      ranks_new: Whether the ranking covers only splits new since the base.
      is_all: Whether all selectable documents are compared, regardless of the cut.
      num_targets: Number of targets sharing the budget.
    """

    signs: SignTexts
    cut: Cut
    threshold: float
    held: Held | None = None
    ranks_new: bool = False
    is_all: bool = False
    num_targets: int = 1

    def floor(self) -> np.uint64:
        """The lowest compared priority."""
        if self.is_all:
            return np.uint64(0)
        lowest: np.uint64 = self.cut.floors(COMPARED_LEVELS)[0]
        return lowest

    def of(self, split: Split, rows: aligned.Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the documents of a split to compare.

        Returns:
          Their rows, int64 [m], ascending; their priorities, uint64 [m]; and which of them always stay, bool [m].
        """
        is_held, packed = np.zeros(len(rows.keys), bool), np.zeros(len(rows.keys), np.uint64)
        is_old = self.held is not None and self.held.base.has(split)
        if self.held is not None:
            is_held = self.held.of(split, rows)
        # If only new splits are ranked, a split of the base contributes just its held rows.
        if not (is_old and self.ranks_new):
            packed = self.cut.ranking.priorities(split, rows)[:, 0]
        at = np.flatnonzero(is_reached(packed, self.floor()) | is_held)
        return at, packed[at], is_held[at]


@dataclasses.dataclass(frozen=True)
class LinkCandidates(SplitStage, GroupedStage):
    """Finds candidate near-duplicates: documents whose signatures share a band.

    Takes splits; only hashes of bands, 16 bytes each, cross the shuffle. Gives `Links`, and writes their connected
    components.

    Args:
      corpus: The corpus, within the budget.
      compared: The documents.
      earlier: The comparison of fewer documents; if it is enough, this stage does nothing.
    """

    kind = "near_duplicate_candidates"
    artifact_name = "candidates.parquet"

    compared: Compared
    earlier: "FindNearDuplicates | None" = None

    @property
    def name(self) -> str:
        return "LinkAllCandidates" if self.earlier else "LinkCandidates"

    def is_needed(self) -> bool:
        """Tells whether the earlier comparison, if any, was not enough."""
        return self.earlier is None or not self.earlier.is_enough()

    def work(self, sizes: Sizes) -> Work:
        if self.earlier is not None:
            # Hardly ever needed, as the earlier comparison is of several budgets.
            return Work("near-duplicates")
        compared, texts = self.compared, sizes.corpus
        share = 1.0
        if not compared.is_all:
            whole = compared.cut.budget.share(texts.documents, texts.tokens)
            share = min(1.0, compared.cut.times * whole)
        documents = round(share * texts.documents)
        num_bands = NUM_HASHES // band_rows(compared.threshold)
        return Work(
            "near-duplicates",
            documents,
            core_s=documents * rates.COMPARE_ROW_S,
            bytes_shuffled=float(_BANDS.itemsize * num_bands * documents),
            requests=texts.requests(3),
        )

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
        # Equal bands must meet in one group, from whichever splits they come.
        group = packed["hash"] % np.uint64(_NUM_GROUPS)
        for value in np.unique(group):
            yield int(value), packed[group == value].tobytes()

    def put_together(self, group: int, parts: Iterable[bytes]) -> Links:
        packed = np.concatenate([np.frombuffer(part, _BANDS) for part in parts])
        # Sorted, so that the links do not depend on the order of the parts.
        packed = packed[np.argsort(packed["row"], kind="stable")]
        return Links(*link_equal(packed["hash"], packed["row"]))

    def finish(self, total: Links | None) -> None:
        total = total or Links.none()
        rows, families = components(total.left, total.right)
        aligned.write_table(self.artifact, _CANDIDATES, {"row": rows, "family": families})

    @once_per_process
    def load(self) -> dict[str, np.ndarray]:
        """Loads the linked documents, by ascending `row`, and the `family` of each, once per process."""
        return aligned.read_columns(self.artifact)


@dataclasses.dataclass(frozen=True, eq=False)
class Dropped:
    """The near-duplicates left out. An additive statistic.

    Attributes:
      pieces: Number of rows of each split, by its name.
      keys: Their keys, uint64 [m].
      amount: Their total, in the unit of the budget.
    """

    pieces: Tally
    keys: np.ndarray
    amount: int

    def __add__(self, other: "Dropped") -> "Dropped":
        keys = np.concatenate([self.keys, other.keys])
        return Dropped(self.pieces + other.pieces, keys, self.amount + other.amount)


@dataclasses.dataclass(frozen=True)
class FindNearDuplicates(SplitStage, RegroupedStage):
    """Compares candidate near-duplicates, and finds which of them are left out.

    Takes splits; only signatures of candidates cross the shuffle. For each split with near-duplicates, writes the rows
    left out, and the row that stays instead of each.

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
        """The compared documents."""
        return self.candidates.compared

    def work(self, sizes: Sizes) -> Work:
        needed = self.candidates.earlier is None
        return Work("near-duplicates", requests=sizes.corpus.requests(3 if needed else 0))

    def pieces(self) -> Iterable[Any]:
        return enumerate(self.corpus.splits()) if self.candidates.is_needed() else ()

    def draw(self, piece: Any) -> Iterator[tuple[int, bytes]]:
        index, split = piece
        linked = self.candidates.load()
        first, last = np.searchsorted(linked["row"], _numbers(index, np.array([0, 1 << 32])))
        # Most splits hold no candidate, so their rows are not read.
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
        # A family must be in one group, because only one of its documents stays.
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
        # A family has rows of many splits. Each goes back to its own, which has one file of what is left out.
        splits = found["row"] >> _SPLIT_BITS
        for split in np.unique(splits):
            yield int(split), found[splits == split].tobytes()

    def put_together(self, group: int, parts: Iterable[bytes]) -> Dropped:
        splits = self.corpus.splits()
        found = np.concatenate([np.frombuffer(part, _FOUND) for part in parts])
        found = found[np.argsort(found["row"])]
        # Twins are named by shard and row, as people find them in the input.
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
        """Tells whether the compared documents fill the budget without the near-duplicates."""
        compared = self.compared
        budget = compared.cut.budget.exact()
        return fills_budget(compared.floor(), self._found()["amount"], budget)

    def rows(self, split: Split) -> np.ndarray:
        """Reads the rows left out of a split, ascending, int64 [m]."""
        return self._read(split)["row"]

    def without(self, packed: np.ndarray, split: Split) -> np.ndarray:
        """Sets the rows left out of a split to priority 0: uint64 [n, ...] to the same shape."""
        packed = packed.copy()
        packed[self.rows(split)] = 0
        return packed

    def above(self, packed: np.ndarray, split: Split, floor: np.ndarray) -> Twins:
        """Finds the rows left out though their priorities, uint64 [n], reach a floor, uint64 [1] or [n]."""
        found = self._read(split)
        at = np.flatnonzero(is_reached(packed, floor)[found["row"]])
        return Twins(found["row"][at], found["twin"][at].tolist())

    def drops(self, keys: np.ndarray) -> np.ndarray:
        """Tells which examples are left out, by key, bool [n]."""
        return np.isin(keys, self._keys())

    def _read(self, split: Split) -> dict[str, np.ndarray]:
        source = self._source()
        if piece_name(split) not in source._found()["pieces"]:
            return {"row": np.zeros(0, np.int64), "twin": np.zeros(0, object)}
        return aligned.read_columns(piece_path(source.folder, split))

    def _source(self) -> "FindNearDuplicates":
        # If the earlier comparison was enough, this one has compared nothing.
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
