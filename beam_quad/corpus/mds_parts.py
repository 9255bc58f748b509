"""Writes shards of MDS and the index of their dataset; `corpus.mds` describes the format of a shard."""

import itertools
import json
import posixpath
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from beam_quad.artifacts import files
from beam_quad.corpus.mds import SIZE, Column
from beam_quad.corpus.parts import MDS_INDEX, WrittenPart
from beam_quad.errors import UsageError

_COPIED_BYTES = 1 << 20
_MOST_BYTES = 1 << 32


def _config(columns: Sequence[Column]) -> dict[str, Any]:
    names, encodings, sizes = (list(values) for values in zip(*columns, strict=True))
    return {
        "version": 2,
        "format": "mds",
        "column_names": names,
        "column_encodings": encodings,
        "column_sizes": sizes,
        "compression": None,
        "hashes": ["sha256"],
        "size_limit": None,
    }


def write_samples(
    path: str, columns: Sequence[Column], samples: Iterable[Sequence[bytes]], replace: bool = False
) -> WrittenPart:
    """Writes a shard; its samples are buffered on the local disk until their offsets are known.

    Args:
      path: The shard.
      columns: Its columns, by ascending name.
      samples: The encoded values of each sample, in the order of the columns.
      replace: Whether to replace a finished shard.

    Raises:
      UsageError: If the shard would reach 4 GiB, the limit of the format.
    """
    sizes: list[int] = []
    with tempfile.TemporaryFile() as waiting:
        for values in samples:
            free = [
                len(v) for v, column in zip(values, columns, strict=True) if column.size is None
            ]
            sizes.append(waiting.write(b"".join([np.array(free, SIZE).tobytes(), *values])))
        config = json.dumps(_config(columns), sort_keys=True).encode()
        before = (len(sizes) + 2) * SIZE.itemsize + len(config)
        starts = list(itertools.accumulate(sizes, initial=before))
        if starts[-1] >= _MOST_BYTES:
            raise UsageError(
                f"{path}: would have {starts[-1]:,} bytes, and a shard of MDS has less than 4 GiB; pass a lower --split_mb"
            )
        waiting.seek(0)
        with files.writing(path, replace) as file:
            file.write(np.array([len(sizes), *starts], SIZE).tobytes())
            file.write(config)
            while piece := waiting.read(_COPIED_BYTES):
                file.write(piece)
    return WrittenPart(path, file.sha256, len(sizes), file.size_bytes)


def write_index(
    folder: str, columns: Sequence[Column], parts: Sequence[WrittenPart]
) -> WrittenPart:
    """Writes the index of a folder's shards."""
    shards = [
        {
            **_config(columns),
            "samples": part.num_rows,
            "raw_data": {
                "basename": posixpath.basename(part.path.replace("\\", "/")),
                "bytes": part.size_bytes,
                "hashes": {"sha256": part.sha256},
            },
            "zip_data": None,
        }
        for part in parts
    ]
    data = json.dumps({"shards": shards, "version": 2}, sort_keys=True, indent=1).encode()
    path = files.join(folder, MDS_INDEX)
    with files.writing(path, replace=True) as file:
        file.write(data)
    return WrittenPart(path, file.sha256, 0, len(data))
