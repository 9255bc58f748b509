"""The corpus of a run, by reference: where its artifacts are stored, and what every stage reads of them."""

import bisect
import dataclasses
import functools
import itertools
import posixpath
from collections.abc import Iterator, Sequence
from typing import Annotated, Protocol

import numpy as np
import pyarrow as pa

from beam_quad import identity, seeding
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached, once_per_process
from beam_quad.artifacts.json_files import read_json
from beam_quad.corpus import schemas
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.joining import leave_out, parts_of
from beam_quad.corpus.plan import read_plan
from beam_quad.corpus.splits import InputPlan
from beam_quad.corpus.sums import ReadSums
from beam_quad.embedding import AnyEmbedderSpec
from beam_quad.errors import IntegrityError
from beam_quad.records import Budget, Reason, Split
from beam_quad.stages.read.excluded import Excluded

# In the metadata of an embeddings file the rows whose text has no vector.
WITHOUT_EMBEDDING = "without_embedding"
# In the metadata of the rows of joined shards: how many rows each has, and what is wrong with those that are left out.
READ_OF = "rows_by_shard"
BAD = "bad_by_shard"
# Raised when the files of that folder change their meaning, so that those of an older version are not read.
_VERSIONS = {"rows": 4, "embeddings": 2, "points": 1, "reserve": 1, "corpus": 6}


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one shard among those of a split.

    Attributes:
      split: What of the shard is in the split.
      first: Where its rows start in the split.
      num_rows: How many they are.
      problem: Why there is none, if nothing of a shard that was joined with others could be used.
    """

    split: Split
    first: int
    num_rows: int
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the rows of a split stand in shards.

    Attributes:
      parts: The rows of each shard, in order.
    """

    parts: Sequence[Part]

    def of(self, row: int) -> tuple[str, int]:
        """The shard of a row of the split, and its row of that shard."""
        after = bisect.bisect_right(self.parts, row, key=lambda part: part.first)
        # Of shards without rows, which start where the next one does, the last one counts.
        part = self.parts[after - 1]
        return part.split.shard, part.split.first_row + row - part.first


class Leaking(Protocol):
    """Documents that hold a text which no selection may."""

    def rows(self, split: Split) -> np.ndarray:
        """Finds the rows of a split that do, ascending, int64 [m]."""

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Says which usable documents do, by key, bool [n]."""

    def num_documents(self) -> int:
        """Counts the usable ones."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The corpus of a run.

    Its rows, embeddings and set-aside texts are stored apart, each named by what it is made from: another embedder finds
    the rows made, and another tokenizer the embeddings.

    Args:
      root: The folder of all artifacts.
      plan_path: The plan: splits and schema.
      seen_dir: Folder of the records of `corpus.seen`.
      layout: Hash of the splits: shards, versions and row groups.
      columns: The columns that are read from every row.
      tokenizer: Content of what counts tokens, and finds those of answers; None with a column of token counts and no answers.
      embedder: What embeds, or None if no stage needs vectors.
      embedder_fingerprint: Its content.
      on_bad_file: What becomes of a file of which nothing can be used: "fail" or "reject".
      seed: The run's seed.
      reserve_rate: Share of the examples whose text is set aside, in (0, 1].
      context_length: Tokens of the proxy's window, in which an answer must fit; None if the texts have none, or there is no proxy.
      budget: What is selected of it; None for a stage that does not ask, see `within`.
      leaks: The documents that no selection may hold, which are rejected; None as for the budget, or if nothing was looked for.
      excluded: The ids of `--exclude`, whose rows are rejected whatever reads them; None without the flag.
      part: Hash of the splits that a stage looks at; None for all. Whatever else is known is that of the whole corpus.
      part_path: The plan of these splits.
    """

    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    plan_path: Annotated[str, identity.NotCounted("the layout tells what the plan holds")]
    seen_dir: Annotated[
        str, identity.NotCounted("records of what was read; nothing is made from them")
    ]
    layout: str
    columns: Columns
    tokenizer: str | None
    embedder: AnyEmbedderSpec | None
    embedder_fingerprint: str
    on_bad_file: str
    seed: int
    reserve_rate: float
    context_length: int | None = None
    budget: Budget | None = None
    leaks: Leaking | None = None
    excluded: Excluded | None = None
    part: str | None = None
    part_path: Annotated[str | None, identity.NotCounted("the part tells what the plan holds")] = (
        None
    )

    @functools.cached_property
    def rows_dir(self) -> str:
        """Folder of the rows (keys, tokens, reasons)."""
        return self._folder("rows", self.columns, self.tokenizer, self.context_length)

    @functools.cached_property
    def embeddings_dir(self) -> str | None:
        """Folder of the embeddings; None if nothing is embedded."""
        if self.embedder is None:
            return None
        made_from = (self.columns, self.embedder_fingerprint, self.embedder)
        return self._folder("embeddings", *made_from)

    @functools.cached_property
    def points_dir(self) -> str:
        """Folder of the embeddings that are set aside for centers; see `stages.read.points`."""
        return self._folder("points", *self.by_row())

    @functools.cached_property
    def reserve_dir(self) -> str:
        """Folder of the texts set aside for scoring."""
        rows = posixpath.basename(self.rows_dir)
        return self._folder("reserve", rows, self.seed, self.reserve_rate)

    @functools.cached_property
    def folder(self) -> str:
        """Folder of the plan, of the totals and of the rows with an id seen before, whatever is selected."""
        return self._folder("corpus", self.whole())

    @property
    def totals_path(self) -> str:
        """Counts over the corpus and the shapes of its rows: the artifact of the first stage."""
        return files.join(self.folder, "totals.json")

    @property
    def duplicates_dir(self) -> str | None:
        """Folder of the duplicate rows by id; None without an id column."""
        return files.join(self.folder, "duplicates") if self.columns.id else None

    def _folder(self, kind: str, *made_from: object) -> str:
        name = identity.digest(kind, _VERSIONS[kind], *made_from)
        return files.join(self.root, kind, name[:20])

    def within(self, budget: Budget, leaks: Leaking | None = None) -> "Corpus":
        """The corpus for a stage that asks what can be selected for a budget, and so depends on it and on what leaks."""
        return dataclasses.replace(self, budget=budget, leaks=leaks)

    def as_read(self) -> "Corpus":
        """The corpus, or its part, whatever is selected of it."""
        return dataclasses.replace(self, budget=None, leaks=None)

    def whole(self) -> "Corpus":
        """All of the corpus, whatever is selected of it."""
        return dataclasses.replace(self.as_read(), part=None, part_path=None)

    def by_row(self) -> list[object]:
        """What an artifact of a row depends on, whatever other rows there are."""
        embeddings = self.embeddings_dir and posixpath.basename(self.embeddings_dir)
        return [posixpath.basename(self.rows_dir), embeddings, self.seed]

    def texts(self) -> "Corpus":
        """Its texts alone: what stands for the corpus in stages that do not ask how they were embedded."""
        return dataclasses.replace(self.as_read(), embedder=None, embedder_fingerprint="")

    def plan(self) -> InputPlan:
        """The plan, read once per process."""
        return cached(("plan", self.plan_path), lambda: read_plan(self.plan_path))

    def splits(self) -> tuple[Split, ...]:
        """All splits, or those of the part, by (shard, first row)."""
        path = self.part_path
        if path is None:
            return self.plan().splits
        return cached(("plan", path), lambda: read_plan(path)).splits

    @once_per_process
    def totals(self) -> ReadSums:
        """What was read of the corpus, once per process."""
        return ReadSums.from_json(read_json(self.totals_path))

    def schema(self) -> pa.Schema:
        """The columns that are carried to the output, by their own names."""
        plan, choice = self.plan(), schemas.choice_of(self.plan().schema)
        return schemas.carried(plan.stored, self.totals().shapes, choice, plan.schema)

    def unusable_shards(self) -> list[str]:
        """Shards of which no row can be used, though they have rows."""
        unusable = self.totals().unusable
        splits: dict[str, list[Split]] = {}
        for part in itertools.chain.from_iterable(map(parts_of, self.plan().splits)):
            if unusable[part.shard] and part.shard not in self.bad_shards():
                splits.setdefault(part.shard, []).append(part)
        return [shard for shard, own in splits.items() if not self._has_usable(own)]

    def _has_usable(self, splits: Sequence[Split]) -> bool:
        """Says whether any row of a shard, some of whose splits have no usable row, can be used."""
        num_rows = [split.num_rows for split in splits]
        if min(num_rows) >= 0:
            return self.totals().unusable[splits[0].shard] < sum(num_rows)
        # Rows of JSON Lines are not known when planning.
        return len(splits) > 1 and any(self.stored_rows(s).usable.any() for s in splits)

    def num_usable(self) -> int:
        """Examples that can be selected, but for texts both duplicate and without embedding."""
        without = sum(self.totals().without_embedding.counts.values())
        return max(0, self.num_distinct() - without)

    def num_distinct(self) -> int:
        """Examples of `distinct_rows` that are usable."""
        duplicates = self._duplicate_counts()["duplicates"] if self.duplicates_dir else 0
        leaking = self.leaks.num_documents() if self.leaks is not None else 0
        return max(0, self.totals().usable - duplicates - leaking)

    def readable(self, split: Split) -> Split:
        """A split to read the rows of which something is known: without those shards of joined ones that are bad."""
        return leave_out(split, self.bad_shards())

    def places(self, split: Split, num_rows: int = -1) -> Places:
        """Says which rows of a split that was read are of which shard; `num_rows` of a split of one shard, if asked for."""
        if not split.packed:
            return Places([Part(split, 0, num_rows)])
        path = piece_path(self.rows_dir, split)
        stored = cached(("places", path), lambda: aligned.read_metadata(path))
        parts, first = [], 0
        for own in parts_of(split):
            num_rows = stored[READ_OF].get(own.shard, 0)
            parts.append(Part(own, first, num_rows, stored[BAD].get(own.shard, "")))
            first += num_rows
        return Places(parts)

    def all_rows(self, split: Split, with_strings: bool = False) -> aligned.Rows:
        """What is known of every row of the split, duplicates by id included; none of a bad shard."""
        if split.shard in self.bad_shards():
            return aligned.Rows.none()
        return self.stored_rows(split, with_strings)

    def stored_rows(self, split: Split, with_strings: bool = False) -> aligned.Rows:
        """What is stored of every row of the split, which was read; excluded ids are rejected."""
        rows = aligned.read_rows_file(piece_path(self.rows_dir, split), with_strings)
        if self.excluded is None:
            return rows
        # Before all that is found out later: of a repeated id every row is excluded.
        return _rejecting(rows, np.flatnonzero(self.excluded.rows_of(rows)), Reason.EXCLUDED)

    def own_rows(self, split: Split, with_strings: bool = False) -> aligned.Rows:
        """What is known of every row of the split by itself; texts without embedding are rejected."""
        rows = self.all_rows(split, with_strings)
        return _rejecting(rows, self._without_embedding(split), Reason.NO_EMBEDDING)

    def rows(self, split: Split, with_strings: bool = False) -> aligned.Rows:
        """What is known of every row of the split; duplicates by id, texts without embedding and leaks are rejected."""
        rows = self.own_rows(split, with_strings)
        rows = _rejecting(rows, self._duplicates(split), Reason.DUPLICATE_ID)
        if self.leaks is None or split.shard in self.bad_shards():
            return rows
        return _rejecting(rows, self.leaks.rows(split), Reason.CONTAMINATED)

    def rejected_since(self, split: Split) -> np.ndarray:
        """The rows of a split that files made of it may still count, numbers int64 [m]: duplicates by id, and excluded ids.

        An id stands elsewhere, or is put on a list, without any file of the split being made anew.
        """
        duplicates = self._duplicates(split)
        if self.excluded is None or split.shard in self.bad_shards():
            return duplicates
        rows = aligned.read_rows_file(piece_path(self.rows_dir, split))
        return np.union1d(duplicates, np.flatnonzero(self.excluded.rows_of(rows)))

    def distinct_rows(self, split: Split) -> aligned.Rows:
        """What is known of every row of the split, whatever embeds it; duplicates by id are rejected."""
        return _rejecting(self.all_rows(split), self._duplicates(split), Reason.DUPLICATE_ID)

    def embeddings_path(self, split: Split) -> str:
        """Where the embeddings of a split are stored.

        Raises:
          IntegrityError: If nothing is embedded.
        """
        if self.embeddings_dir is None:
            raise IntegrityError("a stage asks for embeddings of a corpus that was not embedded")
        return piece_path(self.embeddings_dir, split)

    def embeddings(self, split: Split) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the embeddings of a split by runs of rows: number of the first, and float16 [n, dim]."""
        return aligned.read_embeddings(self.embeddings_path(split))

    def some_embeddings(self, split: Split, rows: np.ndarray) -> np.ndarray:
        """Reads the embeddings of some rows of a split, int64 [n] ascending: float16 [n, dim]."""
        return aligned.read_some_embeddings(self.embeddings_path(split), rows)

    def bad_shards(self) -> frozenset[str]:
        """Shards that turned out unreadable and were left out (`--on_bad_file=reject`)."""
        return frozenset(self.totals().bad_files.counts)

    def in_reserve(self, rows: aligned.Rows) -> np.ndarray:
        """Which rows have their text set aside, bool [n]."""
        return rows.usable & seeding.is_drawn(self.seed, "reserve", rows.keys, self.reserve_rate)

    def longest(self) -> int:
        """How many tokens an example may have to be selected.

        Raises:
          IntegrityError: If the stage that asks does not depend on the budget (see `within`).
        """
        if self.budget is None:
            raise IntegrityError("a stage asks what is too long for a budget that it does not have")
        return self.budget.longest(*self._by_length())

    def may_pass_over(self) -> bool:
        """Tells whether any example can be too long to be selected, or leaks."""
        if self.leaks is not None and self.leaks.num_documents():
            return True
        return 2 << max(self._by_length()[0], default=0) > self.longest() + 1

    def is_candidate(self, rows: aligned.Rows) -> np.ndarray:
        """Which rows can be selected: the usable ones that are not too long for the budget, and do not leak, bool [n]."""
        return np.asarray(rows.usable & self.can_be(rows.keys, rows.tokens))

    def can_be(self, keys: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Which usable examples can be selected, by keys, uint64 [n], and tokens, int64 [n]: bool [n]."""
        is_short = np.asarray(tokens <= self.longest())
        return is_short if self.leaks is None else is_short & ~self.leaks.holds(keys)

    def _by_length(self) -> tuple[dict[int, int], dict[int, int]]:
        """Examples, and their tokens, by the exponent of their lengths."""
        totals = self.totals()
        examples, tokens = (
            {int(exponent): number for exponent, number in tally.counts.items()}
            for tally in (totals.lengths, totals.length_tokens)
        )
        return examples, tokens

    def _without_embedding(self, split: Split) -> np.ndarray:
        if (
            self.embeddings_dir is None
            # A part of a file may be read though another cannot be: then none of it counts.
            or split.shard in self.bad_shards()
            or piece_name(split) not in self.totals().without_embedding.counts
        ):
            return np.zeros(0, np.int64)
        return np.array(without_embedding(self.embeddings_dir, split), np.int64)

    def _duplicates(self, split: Split) -> np.ndarray:
        folder = self.duplicates_dir
        if folder is None or piece_name(split) not in self._duplicate_counts()["pieces"]:
            return np.zeros(0, np.int64)
        path = piece_path(folder, split)
        return np.asarray(aligned.read_columns(path, ["row"])["row"])

    @once_per_process
    def _duplicate_counts(self) -> dict:
        return read_json(files.join(self.folder, "duplicates", "done.json"))

    def bad_path(self, split: Split) -> str:
        """Where it is noted that the split's file is unreadable: with this snapshot, so that it is tried again."""
        return files.join(self.folder, "bad", f"{piece_name(split)}.json")


def piece_name(split: Split) -> str:
    """Names the artifacts of a split by its content: shard, version and row groups, or rows."""
    stem = posixpath.basename(split.shard).split(".")[0][:40]
    where = seeding.digest(split.shard, split.version, split.first_group, split.num_groups)
    return f"{stem}-{where[:20]}"


def piece_path(folder: str, split: Split) -> str:
    """Where a row-aligned artifact of the split is stored in its folder."""
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


def hash_sample(seed: int, purpose: str, rows: aligned.Rows, rate: float) -> np.ndarray:
    """Draws a share of the usable rows by hash: sorted row numbers, int64 [m]."""
    return np.flatnonzero(rows.usable & seeding.is_drawn(seed, purpose, rows.keys, rate))
