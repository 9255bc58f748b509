"""The last stage: every split is filtered against the selection, then manifest, report and COMPLETE."""

import dataclasses
import json
import logging
import posixpath
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from beam_quad import identity
from beam_quad.additive import total
from beam_quad.artifacts import aligned, files, traffic
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.corpus.batches import default_id
from beam_quad.corpus.output import (
    Rejected,
    Selected,
    WrittenPart,
    part_name,
    provenance,
    renamed_columns,
    write_rejected,
    write_selected,
)
from beam_quad.corpus.schemas import is_json_text, why_json_text
from beam_quad.distillation import WeightSums
from beam_quad.errors import IntegrityError
from beam_quad.records import Budget, Reason, Split, as_json
from beam_quad.selection import Kept, RowCounts, count_rows, part_runs
from beam_quad.stages.read.embed import bad_file_detail
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.write.ranked import Selection
from beam_quad.stages.write.summary import Summary, about_columns
from beam_quad.stages.write.taken import RowWeights

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of the output: a run of splits.

    Attributes:
      number: Its number.
      num_parts: How many there are.
      first: Index of its first split.
      last: Index after its last split.
    """

    number: int
    num_parts: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class PartSums:
    """What parts hold. An additive statistic.

    Attributes:
      files: The files written.
      counts: What became of the rows.
      weights: Of the selected rows, where they are weighed.
    """

    files: tuple[WrittenPart, ...]
    counts: RowCounts
    weights: WeightSums

    def __add__(self, other: "PartSums") -> "PartSums":
        return PartSums(
            self.files + other.files, self.counts + other.counts, self.weights + other.weights
        )


@dataclasses.dataclass(frozen=True)
class WriteSelection(SplitStage):
    """Writes the selected and the rejected rows of every run of splits, then what a reader needs to trust them.

    Takes `Part`s and gives `PartSums`. Text goes from the input to the output on one worker; it is never shuffled. The
    user names the folder; which configuration it belongs to is recorded there.

    Args:
      corpus: The corpus, within the budget.
      selection: Says which rows are selected.
      output: The output directory.
      output_format: Format of the selected parts.
      budget: What is asked for, which with the corpus's size tells how large the parts will be.
      summary: Makes the manifest and the report.
      weights: Weighs what is selected, or None for a selection without weights.
    """

    kind = "selection"
    artifact_name = "COMPLETE"

    selection: Selection
    output: str
    output_format: str
    budget: Budget
    summary: Annotated[Summary, identity.NotCounted("it tells of the selection")]
    weights: RowWeights | None = None

    @property
    def folder(self) -> str:
        """The output directory."""
        return self.output

    @property
    def clock(self) -> str:
        return files.join(self.output, "_run", "write")

    def pieces(self) -> list[Part]:
        tokens = self.corpus.totals().tokens
        share = self.budget.share(self.corpus.num_usable(), tokens)
        runs = part_runs(self.corpus.splits(), share)
        return [Part(i, len(runs), first, last) for i, (first, last) in enumerate(runs)]

    def prefixes(self) -> tuple[str, ...]:
        # A part is of one configuration: what another one has left here says nothing of this selection.
        records = files.join(self.output, "_run", "parts", self.summary.configuration[:20])
        folders = (files.join(self.output, name) for name in ("selected", "rejected"))
        return records, *folders

    def paths(self, piece: Part) -> tuple[str, ...]:
        formats = ("json", self.output_format, "parquet")
        return tuple(
            files.join(folder, part_name(piece.number, piece.num_parts, ending))
            for folder, ending in zip(self.prefixes(), formats, strict=True)
        )

    def statistic(self, piece: Part) -> PartSums:
        record = read_json(self.paths(piece)[0])
        parts = tuple(
            WrittenPart(files.join(self.output, path), sha256, num_rows, size)
            for path, sha256, num_rows, size in record["files"]
        )
        return PartSums(
            parts, RowCounts.from_json(record["counts"]), WeightSums(*record["weights"])
        )

    def do(self, piece: Part, model: Any) -> PartSums:
        counts: list[RowCounts] = []
        rejected: list[Rejected] = []
        weights: list[WeightSums] = []
        record_path, selected_path, rejected_path = self.paths(piece)
        selected = write_selected(
            selected_path,
            self._select(piece, counts, rejected, weights),
            self.corpus.schema(),
            weighted=self.weights is not None,
        )
        refused = write_rejected(rejected_path, rejected)
        sums = PartSums(
            (selected, refused), total(counts, RowCounts()), total(weights, WeightSums())
        )
        _check_rows(selected, sums.counts.selected.documents)
        _check_rows(refused, sums.counts.rejected + sums.counts.bad_files)
        record = {
            "files": [
                (
                    posixpath.join(folder, posixpath.basename(f.path)),
                    f.sha256,
                    f.num_rows,
                    f.size_bytes,
                )
                for folder, f in (("selected", selected), ("rejected", refused))
            ],
            "counts": as_json(sums.counts),
            "weights": dataclasses.astuple(sums.weights),
        }
        write_json(record_path, record)
        return sums

    def finish(self, sums: PartSums) -> None:
        counts = sums.counts
        selected = counts.selected.documents
        accounted = selected + counts.not_selected + counts.rejected
        if counts.read != accounted:
            raise IntegrityError(
                f"{counts.read} rows were read, but {selected} selected, {counts.not_selected} not selected "
                f"and {counts.rejected} rejected make {accounted}"
            )
        self._check_read(counts.read)
        parts = [
            {
                "path": posixpath.join(*part.path.replace("\\", "/").split("/")[-2:]),
                "sha256": part.sha256,
                "rows": part.num_rows,
                "bytes": part.size_bytes,
            }
            for part in sums.files
        ]
        columns = self._columns()
        for line in about_columns(columns):
            _log.warning(line)
        manifest = self.summary.manifest(
            counts, sorted(parts, key=lambda part: part["path"]), columns
        )
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        # A path that is not UTF-8 becomes an escape, which is JSON too.
        data = text.encode("utf-8", "backslashreplace")
        files.write(files.join(self.output, "manifest.json"), data)
        page = self.summary.report(manifest, counts, sums.weights)
        data = page.encode("utf-8", "backslashreplace")
        files.write(files.join(self.output, "report.html"), data)
        files.write_once(self.artifact, b"")

    def progress(self, total: PartSums) -> dict[str, int]:
        selected = total.counts.selected
        is_tokens = self.budget.unit == "tokens"
        return {"accepted": selected.tokens if is_tokens else selected.documents}

    def _columns(self) -> dict[str, Any]:
        schema, shapes = self.corpus.schema(), self.corpus.totals().shapes
        if self.output_format == "parquet":
            json_text = {f.name: why_json_text(f) for f in schema if is_json_text(f)}
            escaped = [n for n, shape in sorted(shapes.columns.items()) if shape.is_escaped]
        else:
            # What rows of JSON Lines hold is carried as it is written.
            json_text, escaped = {}, []
        return {
            "json_text": json_text,
            "escaped": [name for name in escaped if name in schema.names],
            "renamed": renamed_columns(schema, self.weights is not None),
            "files_without_usable_rows": self.corpus.unusable_shards(),
        }

    def _check_read(self, num_read: int) -> None:
        plan = self.corpus.plan()
        if plan.num_rows_exact and not self.corpus.bad_shards() and num_read != plan.num_rows:
            raise IntegrityError(
                f"{num_read} rows were read of {plan.num_rows} that the input has by its footers"
            )

    def _select(
        self,
        part: Part,
        counts: list[RowCounts],
        rejected: list[Rejected],
        weighed: list[WeightSums],
    ) -> Iterator[Selected]:
        for split in self.corpus.splits()[part.first : part.last]:
            rows = self.corpus.rows(split, with_strings=True)
            if split.shard in self.corpus.bad_shards():
                rejected.extend(self._bad_file(split))
                counts.append(RowCounts(bad_files=int(split.first_row == 0)))
                continue
            kept = self.selection.keep(split, rows)
            rejected.extend(_rejected(split, rows, kept))
            counts.append(_counts(split, rows, kept, self.corpus.is_candidate(rows)))
            if len(kept.rows):
                traffic.count("bytes_read", split.size_bytes)
                weights = None
                if self.weights is not None:
                    weights = self.weights.of(split, rows)[kept.rows]
                    weighed.append(WeightSums.of(weights))
                why = _provenance(split, rows, kept)
                yield Selected(split, split.first_row + kept.rows, why, weights)

    def _bad_file(self, split: Split) -> Iterator[Rejected]:
        # One line a file, however many splits it has.
        if split.first_row == 0:
            details = [
                bad_file_detail(self.corpus, other)
                for other in self.corpus.splits()
                if other.shard == split.shard
            ]
            detail = next((text for text in details if text), "unreadable")
            yield Rejected(split.shard, None, Reason.BAD_FILE, detail)


def _check_rows(part: WrittenPart, expected: int) -> None:
    if part.num_rows != expected:
        raise IntegrityError(
            f"{part.path} holds {part.num_rows} rows where {expected} were due; was the input changed "
            "while the job ran?"
        )


def _provenance(split: Split, rows: aligned.Rows, kept: Kept) -> Any:
    ids = [
        rows.ids[row] or default_id(split.shard, split.first_row + row)
        for row in kept.rows.tolist()
    ]
    return provenance(
        ids,
        tokens=rows.tokens[kept.rows],
        cluster=_or_null(kept.cluster),
        block=_or_null(kept.block),
        round=_or_null(kept.round),
        influence=kept.influence,
        block_influence=kept.block_influence,
        predicted_influence=kept.predicted,
        target=kept.target,
    )


def _or_null(column: np.ndarray) -> Any:
    return np.ma.masked_less(column, 0) if (column < 0).any() else column


def _rejected(split: Split, rows: aligned.Rows, kept: Kept) -> Iterator[Rejected]:
    unscorable = set(kept.unscorable.tolist())
    for row in sorted(unscorable.union(np.flatnonzero(~rows.usable).tolist())):
        number = split.first_row + row
        if row in unscorable:
            yield Rejected(split.shard, number, Reason.NOT_FINITE, "its score is not finite")
            continue
        reason = aligned.reason_of(int(rows.reasons[row]))
        detail = rows.details[row] or ""
        if reason is Reason.DUPLICATE_ID:
            detail = f"id {rows.ids[row]!r} stands at an earlier row"
        elif reason is Reason.NO_EMBEDDING:
            detail = "the embedder gives its text no finite, non-zero vector"
        yield Rejected(split.shard, number, reason or Reason.BAD_FILE, detail)


def _counts(split: Split, rows: aligned.Rows, kept: Kept, is_candidate: np.ndarray) -> RowCounts:
    codes, occurrences = np.unique(rows.reasons[~rows.usable], return_counts=True)
    reasons = {
        str(aligned.reason_of(int(code))): int(count)
        for code, count in zip(codes, occurrences, strict=True)
    }
    return count_rows(split.shard, rows.usable, is_candidate, rows.tokens, reasons, kept)
