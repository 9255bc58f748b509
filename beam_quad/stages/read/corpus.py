"""The corpus of a run, by reference: the paths of its artifacts, and how stages read them."""

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

# Key in the metadata of an embeddings file: the rows whose text has no vector.
WITHOUT_EMBEDDING = "without_embedding"
# Keys in the metadata of the rows of joined shards: number of rows of each shard, and problem of each shard left out.
READ_OF = "rows_by_shard"
BAD = "bad_by_shard"
# Increased when files of a folder change their meaning, so that files of an older version are not read.
_VERSIONS = {"rows": 4, "embeddings": 2, "points": 1, "reserve": 1, "corpus": 6}


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one shard among those of a split.

    Attributes:
      split: The part of the shard in the split.
      first: First row in the split.
      num_rows: Number of rows.
      problem: Why there are no rows, if a shard joined with others could not be read; else empty.
    """

    split: Split
    first: int
    num_rows: int
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Places:
    """The places of the rows of a split in its shards.

    Attributes:
      parts: The rows of each shard, in order.
    """

    parts: Sequence[Part]

    def of(self, row: int) -> tuple[str, int]:
        """The shard of a row of the split, and its row number in that shard."""
        after = bisect.bisect_right(self.parts, row, key=lambda part: part.first)
        # An empty shard starts at the same row as the next one, so the last shard at a row is the right one.
        part = self.parts[after - 1]
        return part.split.shard, part.split.first_row + row - part.first


class Leaking(Protocol):
    """Documents that contain a protected text."""

    def rows(self, split: Split) -> np.ndarray:
        """Finds the leaking rows of a split, ascending, int64 [m]."""

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Tells which usable documents leak, by key, bool [n]."""

    def num_documents(self) -> int:
        """Counts the usable documents that leak."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The corpus of a run.

    Rows, embeddings and set-aside texts are stored separately, each named by its inputs: a run with another embedder
    reuses the rows, and a run with another tokenizer reuses the embeddings.

    Args:
      root: The folder of all artifacts.
      plan_path: The plan: splits and schema.
      seen_dir: Folder of the records of `corpus.seen`.
      layout: Hash of the splits: shards, versions and row groups.
      columns: The columns read from every row.
      tokenizer: Content of the tokenizer that counts tokens and finds answers; None with a column of token counts and
        no answers.
      embedder: The embedder, or None if no stage needs vectors.
      embedder_fingerprint: Its content.
      on_bad_file: How an unreadable file is treated: "fail" or "reject".
      seed: The run's seed.
      reserve_rate: Share of the examples whose text is set aside, in (0, 1].
      context_length: Tokens of the proxy's window, in which an answer must fit; None if the texts have no answers, or
        there is no proxy.
      budget: The budget; None for a stage that does not depend on it, see `within`.
      leaks: The leaking documents, which are rejected; None as for the budget, or if leaks were not searched for.
      excluded: The ids of `--exclude`, whose rows every stage rejects; None without the flag.
      part: Hash of the splits a stage reads; None for all. All counts stay those of the whole corpus.
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
        """Folder of the embeddings set aside for centers; see `stages.read.points`."""
        return self._folder("points", *self.by_row())

    @functools.cached_property
    def reserve_dir(self) -> str:
        """Folder of the texts set aside for scoring."""
        rows = posixpath.basename(self.rows_dir)
        return self._folder("reserve", rows, self.seed, self.reserve_rate)

    @functools.cached_property
    def folder(self) -> str:
        """Folder of the plan, of the totals and of the rows with a repeated id, independent of the selection."""
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
        """The corpus for a stage that depends on what can be selected: on the budget and on leaks."""
        return dataclasses.replace(self, budget=budget, leaks=leaks)

    def as_read(self) -> "Corpus":
        """The corpus, or its part, independent of the selection."""
        return dataclasses.replace(self, budget=None, leaks=None)

    def whole(self) -> "Corpus":
        """The whole corpus, independent of the selection."""
        return dataclasses.replace(self.as_read(), part=None, part_path=None)

    def by_row(self) -> list[object]:
        """The inputs of an artifact that depends only on each row itself."""
        embeddings = self.embeddings_dir and posixpath.basename(self.embeddings_dir)
        return [posixpath.basename(self.rows_dir), embeddings, self.seed]

    def texts(self) -> "Corpus":
        """The texts alone: the corpus for stages that do not depend on the embedder."""
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
        """The counts of the first reading, loaded once per process."""
        return ReadSums.from_json(read_json(self.totals_path))

    def schema(self) -> pa.Schema:
        """The columns carried to the output, by their own names."""
        plan, choice = self.plan(), schemas.choice_of(self.plan().schema)
        return schemas.carried(plan.stored, self.totals().shapes, choice, plan.schema)

    def unusable_shards(self) -> list[str]:
        """Shards that have rows, but no usable row."""
        unusable = self.totals().unusable
        splits: dict[str, list[Split]] = {}
        for part in itertools.chain.from_iterable(map(parts_of, self.plan().splits)):
            if unusable[part.shard] and part.shard not in self.bad_shards():
                splits.setdefault(part.shard, []).append(part)
        return [shard for shard, own in splits.items() if not self._has_usable(own)]

    def _has_usable(self, splits: Sequence[Split]) -> bool:
        """Tells whether a shard has a usable row, though some of its splits have none."""
        num_rows = [split.num_rows for split in splits]
        if min(num_rows) >= 0:
            return self.totals().unusable[splits[0].shard] < sum(num_rows)
        # The number of rows in JSON Lines is unknown when planning.
        return len(splits) > 1 and any(self.stored_rows(s).usable.any() for s in splits)

    def num_usable(self) -> int:
        """Number of selectable examples; a duplicate without embedding is subtracted twice."""
        without = sum(self.totals().without_embedding.counts.values())
        return max(0, self.num_distinct() - without)

    def num_distinct(self) -> int:
        """Number of usable examples in `distinct_rows`, without leaking documents."""
        duplicates = self._duplicate_counts()["duplicates"] if self.duplicates_dir else 0
        leaking = self.leaks.num_documents() if self.leaks is not None else 0
        return max(0, self.totals().usable - duplicates - leaking)

    def readable(self, split: Split) -> Split:
        """The split without its bad shards, so that its rows match the stored artifacts."""
        return leave_out(split, self.bad_shards())

    def places(self, split: Split, num_rows: int = -1) -> Places:
        """Finds the shard of each row of a split that was read; pass `num_rows` if a split of one shard needs it."""
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
        """All rows of the split, duplicates by id included; empty for a bad shard."""
        if split.shard in self.bad_shards():
            return aligned.Rows.none()
        return self.stored_rows(split, with_strings)

    def stored_rows(self, split: Split, with_strings: bool = False) -> aligned.Rows:
        """The stored rows of a split that was read; excluded ids are rejected."""
        rows = aligned.read_rows_file(piece_path(self.rows_dir, split), with_strings)
        if self.excluded is None:
            return rows
        # Applied before duplicates are rejected, so that every row of a repeated id is excluded.
        return _rejecting(rows, np.flatnonzero(self.excluded.rows_of(rows)), Reason.EXCLUDED)

    def own_rows(self, split: Split, with_strings: bool = False) -> aligned.Rows:
        """All rows of the split, judged independently of other rows; texts without embedding are rejected."""
        rows = self.all_rows(split, with_strings)
        return _rejecting(rows, self._without_embedding(split), Reason.NO_EMBEDDING)

    def rows(self, split: Split, with_strings: bool = False) -> aligned.Rows:
        """All rows of the split; duplicates by id, texts without embedding and leaks are rejected."""
        rows = self.own_rows(split, with_strings)
        rows = _rejecting(rows, self._duplicates(split), Reason.DUPLICATE_ID)
        if self.leaks is None or split.shard in self.bad_shards():
            return rows
        return _rejecting(rows, self.leaks.rows(split), Reason.CONTAMINATED)

    def rejected_since(self, split: Split) -> np.ndarray:
        """Row numbers, int64 [m], that files of the split may still count: duplicates by id, and excluded ids.

        An id may appear in another split, or on a list, without the split's files being made again.
        """
        duplicates = self._duplicates(split)
        if self.excluded is None or split.shard in self.bad_shards():
            return duplicates
        rows = aligned.read_rows_file(piece_path(self.rows_dir, split))
        return np.union1d(duplicates, np.flatnonzero(self.excluded.rows_of(rows)))

    def distinct_rows(self, split: Split) -> aligned.Rows:
        """All rows of the split, independent of the embedder; duplicates by id are rejected."""
        return _rejecting(self.all_rows(split), self._duplicates(split), Reason.DUPLICATE_ID)

    def embeddings_path(self, split: Split) -> str:
        """Path of the embeddings of a split.

        Raises:
          IntegrityError: If nothing is embedded.
        """
        if self.embeddings_dir is None:
            raise IntegrityError("a stage asks for embeddings of a corpus that was not embedded")
        return piece_path(self.embeddings_dir, split)

    def embeddings(self, split: Split) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the embeddings of a split by runs of rows: number of the first row, and float16 [n, dim]."""
        return aligned.read_embeddings(self.embeddings_path(split))

    def some_embeddings(self, split: Split, rows: np.ndarray) -> np.ndarray:
        """Reads the embeddings of some rows of a split, int64 [n] ascending: float16 [n, dim]."""
        return aligned.read_some_embeddings(self.embeddings_path(split), rows)

    def bad_shards(self) -> frozenset[str]:
        """Unreadable shards that were left out (`--on_bad_file=reject`)."""
        return frozenset(self.totals().bad_files.counts)

    def in_reserve(self, rows: aligned.Rows) -> np.ndarray:
        """Tells which rows have their text set aside, bool [n]."""
        return rows.usable & seeding.is_drawn(self.seed, "reserve", rows.keys, self.reserve_rate)

    def longest(self) -> int:
        """The most tokens of a selectable example.

        Raises:
          IntegrityError: If the calling stage does not depend on the budget (see `within`).
        """
        if self.budget is None:
            raise IntegrityError("a stage asks what is too long for a budget that it does not have")
        return self.budget.longest(*self._by_length())

    def may_pass_over(self) -> bool:
        """Tells whether any example can be too long to be selected, or leaks."""
        if self.leaks is not None and self.leaks.num_documents():
            return True
        # An example of exponent b has at most 2**(b + 1) - 1 tokens.
        return 2 << max(self._by_length()[0], default=0) > self.longest() + 1

    def is_candidate(self, rows: aligned.Rows) -> np.ndarray:
        """Tells which rows can be selected: usable, short enough for the budget, and not leaking, bool [n]."""
        return np.asarray(rows.usable & self.can_be(rows.keys, rows.tokens))

    def can_be(self, keys: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Tells which usable examples can be selected, by keys, uint64 [n], and tokens, int64 [n]: bool [n]."""
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
            # One split of a file may be readable and another not; the whole file is then left out.
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
        """Path of the note on an unreadable file; kept with this snapshot, so a new one tries again."""
        return files.join(self.folder, "bad", f"{piece_name(split)}.json")


def piece_name(split: Split) -> str:
    """Names the artifacts of a split by its content: shard, version and row groups, or rows."""
    # The stem is for people; cut, because file systems limit the length of names.
    stem = posixpath.basename(split.shard).split(".")[0][:40]
    where = seeding.digest(split.shard, split.version, split.first_group, split.num_groups)
    return f"{stem}-{where[:20]}"


def piece_path(folder: str, split: Split) -> str:
    """Path of a row-aligned artifact of the split in its folder."""
    return files.join(folder, f"{piece_name(split)}.parquet")


def _rejecting(rows: aligned.Rows, numbers: np.ndarray, reason: Reason) -> aligned.Rows:
    """Rejects rows by number; a row rejected already keeps its reason."""
    if not len(numbers):
        return rows
    reasons = rows.reasons.copy()
    reasons[numbers[reasons[numbers] == aligned.USABLE]] = aligned.reason_code(reason)
    return dataclasses.replace(rows, reasons=reasons)


def without_embedding(embeddings_dir: str, split: Split) -> list[int]:
    """Lists the rows of a split whose text has no finite, non-zero vector."""
    metadata = aligned.read_metadata(piece_path(embeddings_dir, split))
    return list(metadata.get(WITHOUT_EMBEDDING, ()))


def hash_sample(seed: int, purpose: str, rows: aligned.Rows, rate: float) -> np.ndarray:
    """Draws a share of the usable rows by hash: sorted row numbers, int64 [m]."""
    return np.flatnonzero(rows.usable & seeding.is_drawn(seed, purpose, rows.keys, rate))
