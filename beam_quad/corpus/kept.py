"""Summaries of files, stored with the artifacts, so that a restart or a refresh opens only new files."""

import base64
import dataclasses
import gzip
import threading
from collections.abc import Callable, Collection
from typing import Any

import orjson
import pyarrow as pa

from beam_quad import seeding
from beam_quad.artifacts import files
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.json_types import Shapes
from beam_quad.corpus.summaries import RowGroup, ShardSummary

# Increase when summaries change their meaning, so that summaries of older versions are not read.
_VERSION = 1


class KeptSummaries:
    """Summaries of files, by path and version, for runs that read the same columns.

    Each launch writes its new summaries to one file, so few files are read however many summaries there are.

    Args:
      folder: Folder of the summaries of all runs.
      columns: The columns that the run reads.
    """

    def __init__(self, folder: str, columns: Columns) -> None:
        made_from = seeding.digest(_VERSION, *dataclasses.astuple(columns))
        self._folder = files.join(folder, made_from[:20])
        self._known: dict[str, list[Any]] | None = None
        self._new: dict[str, list[Any]] = {}
        self._lock = threading.Lock()

    @property
    def unwritten(self) -> dict[str, bytes]:
        """Files with the new summaries of planning, by path."""
        if not self._new:
            return {}
        data = orjson.dumps(dict(sorted(self._new.items())))
        name = f"{seeding.digest(data)[:20]}.json.gz"
        # No time in the header, so equal summaries are equal files.
        return {files.join(self._folder, name): gzip.compress(data, mtime=0)}

    def summary(
        self, info: files.FileInfo, summarise: Callable[[files.FileInfo], ShardSummary]
    ) -> ShardSummary:
        """Returns the stored summary of a file, or computes it; called from several threads."""
        stored = self._load().get(_key(info))
        if stored is not None:
            return _from_json(stored[0])
        summary = summarise(info)
        # A file's problem may be its permissions, and fixing those does not change its version.
        if info.version and not summary.problem:
            self._new[_key(info)] = [_as_json(summary), {}]
        return summary

    def exact_columns(
        self,
        info: files.FileInfo,
        names: Collection[str],
        find: Callable[[str, Collection[str]], Collection[str]],
    ) -> set[str]:
        """Returns the exact columns of a summarised file, as `parquet.exact_columns`, stored or computed."""
        stored = self._new.get(_key(info)) or self._load().get(_key(info))
        known = stored[1] if stored else {}
        if not known.keys() >= set(names):
            found = find(info.path, names)
            known = known | {name: name in found for name in names}
            if stored:
                self._new[_key(info)] = [stored[0], known]
        return {name for name in names if known[name]}

    def _load(self) -> dict[str, list[Any]]:
        with self._lock:
            if self._known is None:
                self._known = {}
                for info in files.find(self._folder):
                    found = orjson.loads(gzip.decompress(files.read_bytes(info.path)))
                    for key, (summary, exact) in found.items():
                        before = self._known.get(key, [None, {}])
                        self._known[key] = [summary, before[1] | exact]
            return self._known


def _key(info: files.FileInfo) -> str:
    return seeding.digest(info.path, info.version)[:20]


def _as_json(summary: ShardSummary) -> list[Any]:
    schema, shapes = summary.schema, summary.shapes
    return [
        None if schema is None else base64.b64encode(schema.serialize()).decode(),
        None if shapes is None else shapes.as_json(as_found=True),
        summary.num_rows,
        summary.is_exact,
        [(group.num_rows, group.size_bytes) for group in summary.groups],
        summary.is_known,
        summary.doubt,
    ]


def _from_json(stored: list[Any]) -> ShardSummary:
    schema, shapes, num_rows, is_exact, groups, is_known, doubt = stored
    return ShardSummary(
        None if schema is None else pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema))),
        None if shapes is None else Shapes.from_json(shapes),
        num_rows,
        is_exact,
        tuple(RowGroup(*group) for group in groups),
        is_known,
        doubt,
    )
