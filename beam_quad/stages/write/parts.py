"""The parts of an output: which splits each holds, and the record of what is in it."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from beam_quad.additive import ByName, add_fields
from beam_quad.artifacts import files
from beam_quad.corpus.labels import LabelCounts
from beam_quad.corpus.parts import WrittenPart, part_name
from beam_quad.distillation import WeightSums
from beam_quad.records import as_json
from beam_quad.report.data import Outcome
from beam_quad.selection import RowCounts


@dataclasses.dataclass(frozen=True)
class Part:
    """A run of splits, with a file of its rejected rows and, if any are due, a file of its selected rows.

    Attributes:
      name: Name of its record.
      first: Index of its first split.
      last: Index after its last split.
      rejected: Name of the file of rejected rows.
      selected: Name of the file of selected rows, or None.
      number: Number of the file of selected rows.
      only_added: Whether the part holds only added rows; rows selected by the base are then in parts of the base.
    """

    name: str
    first: int
    last: int
    rejected: str
    selected: str | None
    number: int
    only_added: bool


@dataclasses.dataclass(frozen=True)
class BasePart:
    """A part of the base with rows still selected.

    Attributes:
      name: Name of its record.
      base_number: Number of the part in the base.
      selected: Name of the file of these rows.
      num_rows: Number of these rows.
    """

    name: str
    base_number: int
    selected: str
    num_rows: int


@dataclasses.dataclass(frozen=True)
class PartSums:
    """Contents of parts. An additive statistic.

    Attributes:
      files: The files written.
      counts: The rows by outcome.
      weights: Sums over the weights of the selected rows, if weights are written.
      labels: Selected rows by column and value, for the columns that name a licence or a language.
      outcomes: What became of the examples that the report shows, by key.
    """

    files: tuple[WrittenPart, ...]
    counts: RowCounts
    weights: WeightSums
    labels: ByName[LabelCounts] = dataclasses.field(default_factory=ByName)
    outcomes: tuple[tuple[str, Outcome], ...] = ()

    def __add__(self, other: "PartSums") -> "PartSums":
        return add_fields(self, other)

    @classmethod
    def from_record(cls, record: dict[str, Any], output: str) -> "PartSums":
        """Reads what `to_record` gave; paths in it are relative to the output."""
        written = tuple(
            WrittenPart(files.join(output, path), sha256, num_rows, size)
            for path, sha256, num_rows, size in record["files"]
        )
        labels = {column: LabelCounts(counts) for column, counts in record["labels"].items()}
        return cls(
            written,
            RowCounts.from_json(record["counts"]),
            WeightSums(*record["weights"]),
            ByName(labels),
            tuple((key, Outcome(**own)) for key, own in record["outcomes"].items()),
        )

    def to_record(self, splits: Sequence[str]) -> dict[str, Any]:
        """Returns the contents as JSON, with the names of the splits of the rows, for a run that resumes or refreshes."""
        return {
            "files": [
                (in_output(file.path), file.sha256, file.num_rows, file.size_bytes)
                for file in self.files
            ],
            "counts": as_json(self.counts),
            "weights": dataclasses.astuple(self.weights),
            "labels": {column: own.counts for column, own in self.labels.named.items()},
            "splits": splits,
            "outcomes": {key: dataclasses.asdict(own) for key, own in self.outcomes},
        }


def in_output(path: str) -> str:
    """Returns the path of a written file relative to its output: folder and name."""
    # Relative, because an output may be moved before a run resumes or refreshes it.
    return "/".join(path.replace("\\", "/").split("/")[-2:])


def name_parts(
    runs: Sequence[tuple[int, int]],
    has_rows: Sequence[bool],
    num_before: int,
    output_format: str,
    *,
    only_added: bool,
) -> Iterator[Part]:
    """Names the files of runs of splits: rejected rows, and selected rows, numbered after the parts of a base.

    Args:
      runs: (first, last) of each run of splits, `last` excluded.
      has_rows: Whether each run has selected rows to write.
      num_before: Number of parts that are copied from a base.
      output_format: Format of the selected rows.
      only_added: As for `Part`.
    """
    # Names hold the number of all parts, so it is counted before the first is written.
    number, total = num_before, num_before + sum(has_rows)
    for i, ((first, last), is_written) in enumerate(zip(runs, has_rows, strict=True)):
        rejected, selected = part_name(i, len(runs)), None
        name = f"rejected-{stem(rejected)}"
        if is_written:
            selected = part_name(number, total, output_format)
            name = stem(selected)
        yield Part(name, first, last, rejected, selected, number, only_added)
        # A run of splits without selected rows takes no number, so that the numbers of parts have no gap.
        number += is_written


def stem(name: str) -> str:
    """A file's name without its ending."""
    return name.partition(".")[0]
