"""Where the artifacts of a corpus lie, and what every stage reads of them."""

import dataclasses
import json
import posixpath
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad import seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.corpus import schemas
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.json_types import Shapes
from beam_quad.corpus.plan import read_plan
from beam_quad.corpus.splits import InputPlan
from beam_quad.records import Budget, Reason, Split

# In the metadata of an embeddings file the rows whose text has no vector, and in the totals how many, by piece.
WITHOUT_EMBEDDING = "without_embedding"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The corpus of a run, by reference.

    Args:
      plan_path: The plan: splits and schema.
      totals_path: Counts over the corpus and the shapes of its rows, the artifact of the first stage.
      rows_dir: Folder of the rows artifacts (keys, tokens, reasons).
      embeddings_dir: Folder of the embeddings, or None where no stage needs them.
      reserve_dir: Folder of the texts set aside for scoring.
      reserve_rate: Share of the examples whose text is set aside, in (0, 1].
      duplicates_dir: Folder of the duplicate rows by id, or None without an id column.
      text_column: Column of the text.
      id_column: Column of the id, or None: `shard#row`.
      tokens_column: Column of the token counts, or None: counted by the proxy's tokenizer.
      seed: The run's seed.
      seen_dir: Folder of the records of `io.seen`.
      budget: What is selected of it.
    """

    plan_path: str
    totals_path: str
    rows_dir: str
    embeddings_dir: str | None
    reserve_dir: str
    reserve_rate: float
    duplicates_dir: str | None
    text_column: str
    id_column: str | None
    tokens_column: str | None
    seed: int
    seen_dir: str
    budget: Budget

    def plan(self) -> InputPlan:
        """The plan, read once per process."""
        return cached(("plan", self.plan_path), lambda: read_plan(self.plan_path))

    def splits(self) -> tuple[Split, ...]:
        """All splits, by (shard, first row)."""
        return self.plan().splits

    def columns(self) -> Columns:
        """The columns that are read from every row."""
        return Columns(text=self.text_column, id=self.id_column, tokens=self.tokens_column)

    def totals(self) -> dict[str, int]:
        """Counts over the corpus: `read`, `usable`, `tokens`, `reserve`, `rejected/REASON`, and some by piece or length.

        `without_embedding/PIECE` counts texts; `length/b` the examples of 2**b to 2**(b + 1) - 1 tokens, and
        `length_tokens/b` their tokens. Duplicates by id and texts without an embedding are counted as usable: they are
        known only after the splits were read.
        """
        return self._read()["counts"]

    def schema(self) -> pa.Schema:
        """The columns that are carried to the output, by their own names."""
        plan, choice = self.plan(), schemas.choice_of(self.plan().schema)
        return schemas.carried(plan.stored, self.shapes(), choice, plan.schema)

    def shapes(self) -> Shapes:
        """What the rows of JSON Lines look like."""
        return Shapes.from_json(self._read()["shapes"])

    def unusable_shards(self) -> list[str]:
        """Shards of which no row can be used, though they have rows."""
        rows: dict[str, int] = {}
        for split in self.splits():
            rows[split.shard] = rows.get(split.shard, 0) + split.num_rows
        counts = self.totals()
        # Rows of JSON Lines are not known when planning: -1.
        return [s for s, n in rows.items() if 0 < counts.get(f"unusable/{s}", 0) >= n]

    def _read(self) -> dict[str, Any]:
        return cached(("totals", self.totals_path), lambda: read_json(self.totals_path))

    def num_usable(self) -> int:
        """Examples that can be selected, but for texts both duplicate and without embedding; at least 1, to divide by."""
        without = sum(n for name, n in self.totals().items() if name.startswith(WITHOUT_EMBEDDING))
        return max(1, self.num_distinct() - without)

    def num_distinct(self) -> int:
        """Examples of `distinct_rows` that are usable; at least 1, to divide by."""
        duplicates = self._duplicate_counts()["duplicates"] if self.duplicates_dir else 0
        return max(1, self.totals().get("usable", 0) - duplicates)

    def all_rows(self, split: Split, with_strings: bool = False) -> aligned.Rows:
        """What is known of every row of the split, duplicates by id included; none of a bad shard."""
        if split.shard in self.bad_shards():
            return aligned.Rows.none()
        return aligned.read_rows_file(piece_path(self.rows_dir, split), with_strings)

    def rows(self, split: Split, with_strings: bool = False) -> aligned.Rows:
        """What is known of every row of the split; duplicates by id and texts without embedding are rejected."""
        rows = self.all_rows(split, with_strings)
        rows = _rejecting(rows, self._without_embedding(split), Reason.NO_EMBEDDING)
        return _rejecting(rows, self._duplicates(split), Reason.DUPLICATE_ID)

    def distinct_rows(self, split: Split) -> aligned.Rows:
        """What is known of every row of the split, whatever embeds it; duplicates by id are rejected."""
        return _rejecting(self.all_rows(split), self._duplicates(split), Reason.DUPLICATE_ID)

    def bad_shards(self) -> frozenset[str]:
        """Shards that turned out unreadable and were left out (`--on_bad_file=reject`)."""
        return frozenset(
            name.removeprefix("bad_file/") for name in self.totals() if name.startswith("bad_file/")
        )

    def in_reserve(self, rows: aligned.Rows) -> np.ndarray:
        """Which rows have their text set aside, bool [n]."""
        return rows.usable & seeding.is_drawn(self.seed, "reserve", rows.keys, self.reserve_rate)

    def longest(self) -> int:
        """How many tokens an example may have to be selected."""
        return self.budget.longest(self._by_length("length"), self._by_length("length_tokens"))

    def may_pass_over(self) -> bool:
        """Tells whether any example can be too long to be selected."""
        return 2 << max(self._by_length("length"), default=0) > self.longest() + 1

    def is_candidate(self, rows: aligned.Rows) -> np.ndarray:
        """Which rows can be selected: the usable ones that are not too long for the budget, bool [n]."""
        return np.asarray(rows.usable & (rows.tokens <= self.longest()))

    def _by_length(self, name: str) -> dict[int, int]:
        counts = Tally(self.totals()).under(f"{name}/")
        return {int(exponent): count for exponent, count in counts.items()}

    def _without_embedding(self, split: Split) -> np.ndarray:
        if (
            self.embeddings_dir is None
            or f"{WITHOUT_EMBEDDING}/{piece_name(split)}" not in self.totals()
        ):
            return np.zeros(0, np.int64)
        return np.array(without_embedding(self.embeddings_dir, split), np.int64)

    def _duplicates(self, split: Split) -> np.ndarray:
        folder = self.duplicates_dir
        if folder is None or piece_name(split) not in self._duplicate_counts()["pieces"]:
            return np.zeros(0, np.int64)
        path = piece_path(folder, split)
        return np.asarray(aligned.read_columns(path, ["row"])["row"])

    def _duplicate_counts(self) -> dict:
        path = files.join(self.duplicates_dir or "", "done.json")
        return cached(("duplicates", path), lambda: read_json(path))

    def bad_path(self, split: Split) -> str:
        """Where it is noted that the split's file is unreadable: with this snapshot, so that it is tried again."""
        return files.join(posixpath.dirname(self.totals_path), "bad", f"{piece_name(split)}.json")


def piece_name(split: Split) -> str:
    """Names the artifacts of a split by its content: shard, version and row groups."""
    stem = posixpath.basename(split.shard).split(".")[0][:40]
    where = seeding.digest(split.shard, split.version, split.first_group, split.num_groups)
    return f"{stem}-{where[:20]}"


def piece_path(folder: str, split: Split) -> str:
    """Where a row-aligned artifact of the split lies in its folder."""
    return files.join(folder, f"{piece_name(split)}.parquet")


def _rejecting(rows: aligned.Rows, numbers: np.ndarray, reason: Reason) -> aligned.Rows:
    """Rejects some rows, by number, unless they are rejected already."""
    if not len(numbers):
        return rows
    reasons = rows.reasons.copy()
    reasons[numbers[reasons[numbers] == aligned.USABLE]] = aligned.reason_code(reason)
    return dataclasses.replace(rows, reasons=reasons)


def without_embedding(embeddings_dir: str, split: Split) -> list[int]:
    """Lists the rows of a split whose text the embedder gave no finite, non-zero vector."""
    metadata = aligned.read_metadata(piece_path(embeddings_dir, split))
    return list(metadata.get(WITHOUT_EMBEDDING, ()))


def content_name(path: str) -> str:
    """Names an artifact by its folder and file, which tell its content, and not by where the artifacts lie."""
    return "/".join(path.split("/")[-2:])


def read_json(path: str) -> dict:
    """Reads a small JSON artifact."""
    return dict(json.loads(files.read_bytes(path)))


def write_json(path: str, value: object) -> None:
    """Writes a small JSON artifact once, with sorted keys."""
    files.write_once(path, json.dumps(value, sort_keys=True, indent=1).encode())


def hash_sample(seed: int, purpose: str, rows: aligned.Rows, rate: float) -> np.ndarray:
    """Draws a share of the usable rows by hash: sorted row numbers, int64 [m]."""
    return np.flatnonzero(rows.usable & seeding.is_drawn(seed, purpose, rows.keys, rate))
