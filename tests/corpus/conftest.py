"""Shards that are written for a test."""

import pathlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad.corpus import rows, splits
from beam_quad.corpus.batches import Columns, RowBatch


def _string_array(values: list[bytes | None]) -> pa.Array:
    offsets = np.cumsum([0] + [len(v or b"") for v in values]).astype("<i4")
    validity = pa.array([v is not None for v in values]).buffers()[1]
    data = b"".join(v or b"" for v in values)
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


@pytest.fixture
def string_array() -> Callable[[list[bytes | None]], pa.Array]:
    """Makes a string array of any bytes, valid UTF-8 or not."""
    return _string_array


@pytest.fixture
def write_lines(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes a JSON Lines shard of the given lines."""

    def write(*lines: bytes, name: str = "in/a.jsonl") -> pathlib.Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


@pytest.fixture
def write_table(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes a Parquet shard of the given columns."""

    def write(columns: dict | pa.Table, name: str = "in/a.parquet", **options) -> pathlib.Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table(columns), path, **options)
        return path

    return write


@pytest.fixture
def read_all() -> Callable[..., list[RowBatch]]:
    """Plans the files of a folder and reads all their rows."""

    def read(path: pathlib.Path, batch_rows: int = 3, **options) -> list[RowBatch]:
        plan = splits.plan_input([str(path)], **options)
        columns = Columns(
            options.get("text_column", "text"),
            options.get("id_column"),
            options.get("tokens_column"),
        )
        return [
            batch for split in plan.splits for batch in rows.read_rows(split, columns, batch_rows)
        ]

    return read
