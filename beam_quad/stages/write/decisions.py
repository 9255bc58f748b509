"""The decisions: one row for every row read, with its outcome and reason."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_quad.artifacts import aligned
from beam_quad.corpus.output import PartWriter, writing_part
from beam_quad.records import Reason
from beam_quad.selection import Kept
from beam_quad.selection.decisions import (
    DECISIONS,
    NO_REASON,
    REASONS,
    Decided,
    Standing,
    decide,
)
from beam_quad.stages.read.corpus import Places
from beam_quad.stages.read.leaks import FoundLeak

# A few names repeat in all rows, so rows hold their numbers.
_NAME = pa.dictionary(pa.int32(), pa.string())
DECISIONS_SCHEMA = pa.schema(
    [
        pa.field("example_id", pa.string()),
        pa.field("decision", _NAME),
        pa.field("reason", _NAME),
        pa.field("detail", pa.string()),
        pa.field("shard", _NAME),
        pa.field("row", pa.int64()),
        pa.field("tokens", pa.int64()),
        pa.field("cluster", pa.int32()),
        pa.field("block", pa.int32()),
        pa.field("round", pa.int32()),
        pa.field("influence", pa.float64()),
        pa.field("predicted_influence", pa.float64()),
        pa.field("rank", pa.float64()),
        pa.field("cut", pa.float64()),
        pa.field("target", pa.string()),
        pa.field("twin", pa.string()),
        pa.field("leak", pa.string()),
    ]
)
# Ids and details become Python strings, which take far more memory than the columns they come from.
_ROWS_AT_ONCE = 1 << 16


def writing_decisions(path: str) -> contextlib.AbstractContextManager[PartWriter]:
    """Opens a part of the decisions."""
    return writing_part(path, DECISIONS_SCHEMA)


def decide_rows(
    rows: aligned.Rows, is_candidate: np.ndarray, kept: Kept, standing: Standing
) -> Decided:
    """Decides the n rows of a split.

    Args:
      rows: The rows.
      is_candidate: Which can be selected: usable, and short enough for the budget, bool [n].
      kept: The selected rows.
      standing: Standing of all rows.
    """
    names = [aligned.reason_of(code) for code in range(len(Reason) + 1)]
    return decide(names, rows.reasons, is_candidate, kept, standing)


def twins_of(kept: Kept) -> dict[int, str]:
    """Returns the rows left out for a near-duplicate, each with the name of the one that stays."""
    if kept.twins is None:
        return {}
    return dict(zip(kept.twins.rows.tolist(), kept.twins.names, strict=True))


def write_decisions(
    part: PartWriter,
    places: Places,
    rows: aligned.Rows,
    kept: Kept,
    decided: Decided,
    details: Mapping[int, str],
    leaks: Mapping[int, FoundLeak],
) -> None:
    """Writes the decisions on the n rows of a split.

    Args:
      part: The file to write to.
      places: Places of the rows in their shards.
      rows: The rows, with strings.
      kept: The selected rows.
      decided: The decisions, by `decide_rows`.
      details: Details of rejected rows, as in `rejected/`, by row.
      leaks: Protected texts that rows leak, by row.
    """
    found, twins = decided.standing, twins_of(kept)
    leaked = {row: leak.item for row, leak in leaks.items()}
    targets = {} if kept.target is None else dict(zip(kept.rows.tolist(), kept.target, strict=True))
    for first in range(0, len(rows.keys), _ROWS_AT_ONCE):
        run = slice(first, min(first + _ROWS_AT_ONCE, len(rows.keys)))
        numbers = range(run.start, run.stop)
        shards, in_shard = _places(places, run)
        columns: dict[str, Any] = {
            "example_id": _ids(rows.ids[run], shards, in_shard),
            "decision": _named(decided.decision[run], list(map(str, DECISIONS))),
            "reason": _named(decided.reason[run], list(REASONS)),
            "shard": shards,
            "row": in_shard,
            "tokens": _masked(rows.tokens[run], ~rows.usable[run]),
            "influence": pa.array(found.influence[run], from_pandas=True),
            "predicted_influence": pa.array(found.predicted[run], from_pandas=True),
            "rank": pa.array(found.rank[run], from_pandas=True),
            "cut": pa.array(found.cut[run], from_pandas=True),
        }
        for name in ("cluster", "block", "round"):
            values = getattr(found, name)[run]
            columns[name] = _masked(values, values < 0)
        for name, known in (
            ("detail", details), ("target", targets), ("twin", twins), ("leak", leaked),
        ):  # fmt: skip
            columns[name] = [known.get(i) for i in numbers] if known else pa.nulls(len(numbers))
        arrays = [_as(columns[field.name], field.type) for field in DECISIONS_SCHEMA]
        part.write(pa.RecordBatch.from_arrays(arrays, schema=DECISIONS_SCHEMA))


def _places(places: Places, run: slice) -> tuple[pa.DictionaryArray, np.ndarray]:
    """Shard of each row of a run, and its row number in that shard, int64."""
    numbers = np.arange(run.start, run.stop)
    firsts = np.array([part.first for part in places.parts])
    # An empty shard starts at the same row as the next one, so the last shard at a row is the right one.
    at = np.searchsorted(firsts, numbers, side="right") - 1
    offsets = np.array([part.split.first_row - part.first for part in places.parts])
    shards = [part.split.shard for part in places.parts]
    return pa.DictionaryArray.from_arrays(pa.array(at.astype(np.int32)), shards), numbers + offsets[
        at
    ]


def _ids(ids: Any, shards: pa.DictionaryArray, in_shard: np.ndarray) -> pa.Array:
    """The ids of the input, or `default_id` of each row."""
    names = shards.cast(pa.string())
    places = pc.binary_join_element_wise(names, pa.array(in_shard).cast(pa.string()), "#")
    return pc.coalesce(pa.array(ids, pa.string()), places)


def _named(numbers: np.ndarray, names: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        _masked(numbers.astype(np.int32), numbers == NO_REASON), names
    )


def _masked(values: np.ndarray, is_null: np.ndarray) -> pa.Array:
    return pa.array(values, mask=is_null)


def _as(values: Any, data_type: pa.DataType) -> pa.Array:
    return values.cast(data_type) if isinstance(values, pa.Array) else pa.array(values, data_type)
