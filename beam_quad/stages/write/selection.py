"""The last stage: filters every split by the selection, then writes manifest, report and COMPLETE."""

import collections
import contextlib
import dataclasses
import json
import logging
import posixpath
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from beam_quad import identity
from beam_quad.additive import ByName
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.corpus.labels import LabelCounts, count_labels, label_columns
from beam_quad.corpus.mds_parts import write_index
from beam_quad.corpus.output import (
    PartWriter,
    Rejected,
    Selected,
    copy_rows,
    cuts_in_place,
    described,
    mds_columns,
    output_schema,
    renamed_columns,
    schema_of,
    write_rejected,
    write_selected,
)
from beam_quad.corpus.parts import WrittenPart, companion, is_part, part_name
from beam_quad.corpus.schemas import is_json_text, why_json_text
from beam_quad.distillation import WeightSums
from beam_quad.errors import IntegrityError
from beam_quad.gradients.checkpoints import OUTPUT_TOKENIZER, load_tokenizer
from beam_quad.gradients.windows import TokenEncoder
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Budget, Reason, Split
from beam_quad.report.card import card
from beam_quad.report.croissant import croissant
from beam_quad.report.data import Outcome
from beam_quad.report.judgements import about_columns
from beam_quad.selection import Kept, RowCounts, part_runs
from beam_quad.selection.decisions import Decided
from beam_quad.selection.parts import MAX_SPLITS_PER_PART
from beam_quad.stages.read.corpus import piece_name
from beam_quad.stages.read.embed import bad_file_detail
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.refresh.base import (
    SELECTED_ROWS,
    Base,
    record_path,
    rows_path,
    unread_path,
)
from beam_quad.stages.refresh.compare import CompareWithBase
from beam_quad.stages.write.decisions import (
    decide_rows,
    twins_of,
    write_decisions,
    writing_decisions,
)
from beam_quad.stages.write.parts import BasePart, Part, PartSums, in_output, name_parts, stem
from beam_quad.stages.write.ranked import Selection
from beam_quad.stages.write.rows import (
    PartLog,
    by_shard,
    count_outcomes,
    outcome_of,
    provenance_of,
    rejected_rows,
)
from beam_quad.stages.write.summary import Summary
from beam_quad.stages.write.taken import RowWeights

_log = logging.getLogger(__name__)
# Parts of rows added by a refresh span this many times more splits, because few splits add rows.
_SPARSER = 16


@dataclasses.dataclass(frozen=True)
class WriteSelection(SplitStage):
    """Writes the selected and rejected rows of every run of splits, optionally the decisions, then the report.

    Takes `Part`s and, in a refresh, `BasePart`s, and gives `PartSums`. Text goes from input to output on one worker and
    is never shuffled. Parts of the base that lost no row are copied within the store. The user names the folder, and
    the configuration is recorded in it.

    Args:
      corpus: The corpus, within the budget.
      selection: Decides which rows are selected.
      output: The output directory.
      output_format: Format of the selected parts.
      budget: The budget; with the size of the corpus it gives the expected size of a part.
      summary: Makes the manifest and the report.
      weights: Weights of the selected rows, or None for a selection without weights.
      changes: The changes of a refresh; None without a base.
      reselects: Whether all rows are written again, including those selected by the base.
      decides: Whether the decision on every row is written as well.
      tokenizer: Path or hub id of the tokenizer for the Megatron format; None for other formats.
      tokenizer_revision: Its revision on the hub.
    """

    kind = "selection"
    # Names no folder, but tells apart outputs whose parts were recorded in another way.
    version = 3
    artifact_name = "COMPLETE"

    selection: Selection
    output: str
    output_format: str
    budget: Budget
    summary: Annotated[Summary, identity.NotCounted("it tells of the selection")]
    weights: RowWeights | None = None
    changes: CompareWithBase | None = None
    reselects: bool = False
    decides: bool = False
    tokenizer: str | None = None
    tokenizer_revision: str | None = None

    @property
    def folder(self) -> str:
        """The output directory."""
        return self.output

    @property
    def digest(self) -> str:
        """Digest of all that decides which rows are selected, with which weights; independent of places."""
        return identity.digest(self.kind, self.version, self.selection, self.weights)

    @property
    def clock(self) -> str:
        return files.join(self.output, "_run", "write")

    def work(self, sizes: Sizes) -> Work:
        # The parts of a base that lost no row are copied within the store.
        texts = sizes.corpus if self.changes is None or self.reselects else sizes.new
        share = self.budget.share(sizes.corpus.documents, sizes.corpus.tokens)
        return Work(
            "write",
            texts.documents,
            core_s=texts.stored_bytes * rates.COPIED_BYTE_S,
            alone_s=rates.REPORT_S,
            bytes_read=texts.stored_bytes,
            bytes_stored=texts.stored_bytes * share,
            requests=texts.requests(11, 1),
        )

    def pieces(self) -> list[Part | BasePart]:
        splits, tokens = self.corpus.splits(), self.corpus.totals().tokens
        # If no part of a base is copied, the parts hold all selected rows.
        if self.changes is None or not self._copies(self.changes.base):
            share = self.budget.share(self.corpus.num_usable(), tokens)
            runs = part_runs(splits, share)
            return [*name_parts(runs, [True] * len(runs), 0, self.output_format, only_added=False)]
        changes = self.changes.load()
        share = changes.added.tokens / max(1, tokens)
        runs = part_runs(splits, share, MAX_SPLITS_PER_PART * _SPARSER)
        has_rows = [any(changes.splits[str(i)] for i in range(*run)) for run in runs]
        numbers = self.changes.numbers()
        total = len(numbers) + sum(has_rows)
        carried = [
            BasePart(stem(name), old, name, changes.parts[str(old)])
            for old, number in numbers.items()
            for name in [part_name(number, total, self.output_format)]
        ]
        added = name_parts(runs, has_rows, len(numbers), self.output_format, only_added=True)
        return [*carried, *added]

    def prefixes(self) -> tuple[str, ...]:
        # Records are kept per configuration: files left here by another one say nothing about this selection.
        names = ("selected", "rejected", *["decisions"] * self.decides)
        folders = (files.join(self.output, name) for name in names)
        return posixpath.dirname(self._record_path("part")), *folders

    def paths(self, piece: Part | BasePart) -> tuple[str, ...]:
        names = [("selected", piece.selected)]
        if isinstance(piece, Part):
            names.append(("rejected", piece.rejected))
            names += [("decisions", piece.rejected)] * self.decides
        written = [files.join(self.output, kind, name) for kind, name in names if name]
        written += [path for path in map(companion, written) if path]
        return self._record_path(piece.name), *written

    def statistic(self, piece: Part | BasePart) -> PartSums:
        return PartSums.from_record(read_json(self._record_path(piece.name)), self.output)

    def do(self, piece: Part | BasePart, model: Any) -> PartSums:
        if isinstance(piece, Part):
            return self._write(piece)
        if self.changes is None:
            raise IntegrityError(f"{piece.name} is a part of a base, and there is none")
        return self._carry_over(piece, self.changes)

    def _write(self, piece: Part) -> PartSums:
        log = PartLog()
        written: list[WrittenPart] = []
        labels: ByName[LabelCounts] = ByName()
        with contextlib.ExitStack() as stack:
            decisions = None
            if self.decides:
                path = files.join(self.output, "decisions", piece.rejected)
                decisions = stack.enter_context(writing_decisions(path))
            # The log is complete only when the selected rows have been written.
            selections = self._select(piece, log, decisions)
            # A run of splits without a new row has a file of rejected rows alone.
            if piece.selected is not None:
                path = files.join(self.output, "selected", piece.selected)
                schema, weighted = self.corpus.schema(), self.weights is not None
                written += write_selected(
                    path, selections, schema, weighted=weighted, encoder=self._encoder()
                )
                # Rows are decided from artifacts and copied from the input, so a changed input shows here.
                _check_rows(written[0], log.num_due)
                labels = count_labels(path, label_columns(schema))
            else:
                # No rows are written, but iterating counts them.
                collections.deque(selections, maxlen=0)
        if decisions is not None:
            written.append(decisions.written)
            _check_rows(decisions.written, log.counts.read)
        rejected = write_rejected(files.join(self.output, "rejected", piece.rejected), log.rejected)
        counts = log.counts
        # Near-duplicates are listed there to name their twins, although they count as not selected.
        _check_rows(rejected, counts.rejected + counts.bad_files + counts.near_duplicates.documents)
        sums = PartSums((*written, rejected), counts, log.weights, labels, tuple(log.outcomes))
        splits = self.corpus.splits()[piece.first : piece.last]
        self._record(piece, sums, [piece_name(split) for split in splits])
        return sums

    def finish(self, sums: PartSums) -> None:
        counts, written = sums.counts, list(sums.files)
        if self.output_format == "mds":
            written.append(self._write_mds_index(sums.files))
        self._check_counts(counts)
        parts = [
            {
                "path": in_output(part.path),
                "sha256": part.sha256,
                "rows": part.num_rows,
                "bytes": part.size_bytes,
            }
            for part in written
        ]
        columns = self._columns()
        for line in about_columns(columns):
            _log.warning(line)
        manifest = self.summary.manifest(
            counts, sorted(parts, key=lambda part: part["path"]), columns, sums.labels
        )
        manifest["verdict"], report = self.summary.report(
            manifest, counts, sums.weights, dict(sums.outcomes)
        )
        pages = {
            "manifest.json": _json(manifest),
            "README.md": card(manifest),
            "croissant.json": _json(croissant(manifest)),
            "report.html": report,
        }
        for name, text in pages.items():
            # A path that is not UTF-8 is escaped, which is valid JSON.
            data = text.encode("utf-8", "backslashreplace")
            files.write(files.join(self.output, name), data)
        # A refresh takes these splits for new, and tries them again.
        unread = [
            piece_name(split)
            for split in self.corpus.splits()
            if split.shard in self.corpus.bad_shards()
        ]
        write_json(unread_path(self.output, self.summary.configuration), {"splits": unread})
        # COMPLETE is written last: an output without it is unfinished.
        files.write_once(self.artifact, b"")

    def progress(self, total: PartSums) -> dict[str, int]:
        counts, is_tokens = total.counts, self.budget.unit == "tokens"
        selected = counts.selected
        return {
            "documents": counts.read,
            "tokens": counts.usable_tokens,
            "accepted": selected.tokens if is_tokens else selected.documents,
        }

    def _encoder(self) -> TokenEncoder | None:
        """Loads the tokenizer, once per process; None if no tokens are written."""
        if self.tokenizer is None:
            return None
        name, revision = self.tokenizer, self.tokenizer_revision
        return cached(
            ("encoder", name, revision),
            lambda: TokenEncoder(load_tokenizer(name, revision, OUTPUT_TOKENIZER), name),
        )

    def _write_mds_index(self, written: Sequence[WrittenPart]) -> WrittenPart:
        """Writes the MDS index, which joins all parts into one dataset."""
        columns = mds_columns(self.corpus.schema(), self.weights is not None)
        shards = [part for part in written if is_part(part.path) and part.path.endswith(".mds")]
        return write_index(
            files.join(self.output, "selected"), columns, sorted(shards, key=lambda part: part.path)
        )

    def _copies(self, base: Base) -> bool:
        """Tells whether parts of the base can be copied to the output: not if the columns have changed."""
        parts, weighted = base.parts(), self.weights is not None
        if self.reselects or not parts:
            return False
        if not cuts_in_place(self.output_format):
            _log.info("parts in %s are all written anew", self.output_format)
            return False
        schema = schema_of(parts[0].path)
        expected = output_schema(self.corpus.schema(), weighted)
        if base.is_weighted() is weighted and (schema is None or schema == expected):
            return True
        _log.warning("the columns have changed: parts of the base are written anew, not copied")
        return False

    def _carry_over(self, piece: BasePart, changes: CompareWithBase) -> PartSums:
        part, path = changes.base.parts()[piece.base_number], self.paths(piece)[1]
        names = changes.base.splits_of(part)
        # A part that lost no row is copied as a file, without reading its rows.
        if piece.num_rows == part.num_rows:
            files.copy(part.path, path)
            written = dataclasses.replace(part, path=path)
        else:
            kept = [changes.still_selected(piece.base_number, name) for name in names]
            written = copy_rows(part.path, path, np.concatenate(kept))
        _check_rows(written, piece.num_rows)
        labels = count_labels(path, label_columns(self.corpus.schema()))
        sums = PartSums((written,), RowCounts(), WeightSums(), labels)
        self._record(piece, sums, names)
        return sums

    def _record_path(self, name: str) -> str:
        return record_path(self.output, self.summary.configuration, name)

    def _record(self, piece: Part | BasePart, sums: PartSums, splits: list[str]) -> None:
        """Records the contents and the splits of a part, for a run that resumes or refreshes it."""
        write_json(self._record_path(piece.name), sums.to_record(splits))

    def _columns(self) -> dict[str, Any]:
        schema, shapes = self.corpus.schema(), self.corpus.totals().shapes
        if self.output_format == "parquet":
            json_text = {f.name: why_json_text(f) for f in schema if is_json_text(f)}
            escaped = [n for n, shape in sorted(shapes.columns.items()) if shape.is_escaped]
        else:
            # JSON Lines rows are carried over as written.
            json_text, escaped = {}, []
        return {
            "schema": described(output_schema(schema, self.weights is not None)),
            "json_text": json_text,
            "escaped": [name for name in escaped if name in schema.names],
            "renamed": renamed_columns(schema, self.weights is not None),
            "files_without_usable_rows": self.corpus.unusable_shards(),
        }

    def _check_counts(self, counts: RowCounts) -> None:
        selected, num_read = counts.selected.documents, counts.read
        accounted = selected + counts.not_selected + counts.rejected
        # The three outcomes are counted independently, so a row lost or counted twice is found here.
        if num_read != accounted:
            raise IntegrityError(
                f"{num_read} rows were read, but {selected} selected, {counts.not_selected} not selected "
                f"and {counts.rejected} rejected make {accounted}"
            )
        plan = self.corpus.plan()
        # JSON Lines have no footers, and a bad file gives fewer rows than its footer says.
        if plan.num_rows_exact and not self.corpus.bad_shards() and num_read != plan.num_rows:
            raise IntegrityError(
                f"{num_read} rows were read of {plan.num_rows} that the input has by its footers"
            )

    def _select(self, part: Part, log: PartLog, decisions: PartWriter | None) -> Iterator[Selected]:
        """Yields the rows that a part holds, and logs what becomes of all rows of its splits."""
        for split in self.corpus.splits()[part.first : part.last]:
            rows = self.corpus.rows(split, with_strings=True)
            if split.shard in self.corpus.bad_shards():
                log.rejected.extend(self._bad_file(split))
                log.counts += RowCounts(bad_files=int(split.first_row == 0))
                self._write_index(split, {field.name: [] for field in SELECTED_ROWS})
                continue
            places = self.corpus.places(split, len(rows.keys))
            bad = [
                Rejected(own.split.shard, None, Reason.BAD_FILE, own.problem)
                for own in places.parts
                if own.problem
            ]
            log.rejected.extend(bad)
            log.counts += RowCounts(bad_files=len(bad))
            # Every count and file of this split follows from this one decision.
            kept = self.selection.keep(split, rows)
            leaks = self.summary.leaks.read(split) if self.summary.leaks is not None else {}
            is_candidate = self.corpus.is_candidate(rows)
            refused = dict(rejected_rows(places, rows, kept, leaks))
            log.rejected.extend(refused.values())
            log.counts += count_outcomes(places, rows, kept, is_candidate, leaks)
            shown = self._shown(rows)
            # Most splits have nothing to show, and without --decisions their rows need not be decided one by one.
            if decisions is not None or len(shown):
                standing = self.selection.standing(split, rows)
                decided = decide_rows(rows, is_candidate, kept, standing)
                log.outcomes.extend(self._outcomes(split, rows, kept, decided, shown))
                if decisions is not None:
                    details = {row: own.detail for row, own in refused.items()}
                    write_decisions(decisions, places, rows, kept, decided, details, leaks)
            is_written, since = self._write_rows(part, split, rows, kept)
            at = np.flatnonzero(is_written)
            log.num_due += len(at)
            if len(at):
                weights = None
                if self.weights is not None:
                    weights = self.weights.of(split, rows)[kept.rows]
                    log.weights += WeightSums.of(weights)
                why = provenance_of(places, rows, kept, since).take(pa.array(at))
                yield from by_shard(places, kept.rows[at], why, weights)

    def _shown(self, rows: aligned.Rows) -> np.ndarray:
        """Finds the rows that the report shows, int64 [m]."""
        wanted = cached(("shown", self.output, self.summary.configuration), self.summary.shown_keys)
        return np.flatnonzero(rows.usable & np.isin(rows.keys, wanted))

    def _outcomes(
        self, split: Split, rows: aligned.Rows, kept: Kept, decided: Decided, shown: np.ndarray
    ) -> Iterator[tuple[str, Outcome]]:
        """Yields what became of the shown rows of a split, by key."""
        if not len(shown):
            return
        # What the base selected keeps its place, unless everything is chosen anew.
        base = None if self.changes is None or self.reselects else self.changes.base
        held = set() if base is None else set(base.selected(split)["row"])
        twins = twins_of(kept)
        for row in shown.tolist():
            outcome = outcome_of(row, kept, decided, twins.get(row), row in held)
            yield str(rows.keys[row]), outcome

    def _write_rows(
        self, part: Part, split: Split, rows: aligned.Rows, kept: Kept
    ) -> tuple[np.ndarray, np.ndarray]:
        """Writes the selected rows of a split, for a later refresh of this run.

        Returns:
          Which of them this part writes, bool [m], and the number of the run that first selected each.
        """
        # A run number, because a fingerprint depends on the location of the input.
        since = np.full(len(kept.rows), len(self.summary.bases), np.int32)
        parts = np.full(len(kept.rows), part.number)
        is_written = np.ones(len(kept.rows), bool)
        if self.changes is not None:
            held = self.changes.base.selected(split)
            stays = np.isin(held["row"], kept.rows, assume_unique=True)
            at = np.searchsorted(kept.rows, held["row"][stays])
            since[at] = held["since"][stays]
            if part.only_added:
                numbers = self.changes.numbers()
                parts[at] = [numbers[old] for old in held["part"][stays].tolist()]
                # These rows are in a copied part of the base and must not be written twice.
                is_written[at] = False
        columns = {
            "row": kept.rows,
            "key": rows.keys[kept.rows],
            "tokens": rows.tokens[kept.rows],
            "part": parts.astype(np.int32),
            "since": since,
            "worth": np.full(len(kept.rows), np.nan) if kept.worth is None else kept.worth,
        }
        self._write_index(split, columns)
        return is_written, since

    def _write_index(self, split: Split, columns: dict[str, Any]) -> None:
        path = rows_path(self.output, self.summary.configuration, split)
        aligned.write_table(path, SELECTED_ROWS, columns)

    def _bad_file(self, split: Split) -> Iterator[Rejected]:
        # One line per file, regardless of its number of splits.
        if split.first_row == 0:
            details = [
                bad_file_detail(self.corpus, other)
                for other in self.corpus.splits()
                if other.shard == split.shard
            ]
            detail = next((text for text in details if text), "unreadable")
            yield Rejected(split.shard, None, Reason.BAD_FILE, detail)


def _json(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _check_rows(part: WrittenPart, expected: int) -> None:
    if part.num_rows != expected:
        raise IntegrityError(
            f"{part.path} holds {part.num_rows} rows where {expected} were due; was the input changed "
            "while the job ran?"
        )
