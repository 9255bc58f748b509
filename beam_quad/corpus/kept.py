"""What planning learned of files, kept with the artifacts: a restart, or a refresh, opens only files that are new."""

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

# Raised when summaries change their meaning, so that those of an older version are not read.
_VERSION = 1


class KeptSummaries:
    """Summaries of files, by path and version, for runs that read the same columns.

    What every launch found out anew is one file, so that few are read however many they tell of.

    Args:
      folder: Where the summaries of all runs are kept.
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
        """What planning has found out anew, by path."""
        if not self._new:
            return {}
        data = orjson.dumps(dict(sorted(self._new.items())))
        name = f"{seeding.digest(data)[:20]}.json.gz"
        return {files.join(self._folder, name): gzip.compress(data, mtime=0)}

    def summary(
        self, info: files.FileInfo, summarise: Callable[[files.FileInfo], ShardSummary]
    ) -> ShardSummary:
        """Gives what is known of a file, or finds it out; several threads ask at once."""
        stored = self._load().get(_key(info))
        if stored is not None:
            return _from_json(stored[0])
        summary = summarise(info)
        # What is wrong with a file may be mended by who may read it, which shows in no version.
        if info.version and not summary.problem:
            self._new[_key(info)] = [_as_json(summary), {}]
        return summary

    def exact_columns(
        self,
        info: files.FileInfo,
        names: Collection[str],
        find: Callable[[str, Collection[str]], Collection[str]],
    ) -> set[str]:
        """Gives which columns of a file, whose summary is known, are exact, as `parquet.exact_columns`, or finds it out."""
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
