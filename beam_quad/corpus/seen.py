"""Records the content of local files as they are read, so that a copied or touched corpus counts as the same.

A local disk reports size and modification time but nothing about the content. The stage that reads a file therefore records
a hash of the content and the version in its artifacts' names. The name of the record's file contains all of this, so one
listing gives the planner all records; records of joined shards share one file. A file with the same path, size and time
counts as unchanged. If a known name and size appear at another path or time, the planner compares the content.

The hash of a Parquet file covers the footer and the columns that the run reads, so wide unread columns cost nothing. For
unread columns the footer has sizes, positions and statistics, so a changed value of the same size within the same bounds
goes unnoticed. Only the output holds values of unread columns, and it is read from the file itself. A hash of some columns
is no use to a run that reads others; that run compares the file again.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from beam_quad import seeding
from beam_quad.artifacts import files
from beam_quad.artifacts.files import FileInfo
from beam_quad.corpus import damage, parquet
from beam_quad.corpus.joining import parts_of
from beam_quad.errors import BadFileError
from beam_quad.records import Split

_HASH_BYTES = 16
_PIECE_BYTES = 1 << 20
# Query files are few and small: their content is their version from the start.
_SMALL_BYTES = 64 << 20


class _Record(NamedTuple):
    place: str
    version: str
    content: str


@dataclasses.dataclass(eq=False)
class SeenFiles:
    """Records of local files by their content.

    Attributes:
      folder: Folder of the records.
      columns: Names of the columns that the run reads.
      unwritten: New records of planning, by path, for files of known content at a new path or time.
    """

    folder: str
    columns: Sequence[str]
    unwritten: dict[str, bytes] = dataclasses.field(default_factory=dict)
    _by_shard: dict[tuple[str, int], list[_Record]] | None = None
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def version(self, shard: str, info: FileInfo) -> str:
        """Finds the version used in the names of a shard's artifacts.

        A file is read only if a shard of this name and size is known, but from another path or time.
        """
        if not files.is_local(info.path):
            return info.version
        known = self._known().get((_shard_id(shard), info.size_bytes))
        if known is None:
            return info.version
        kind = _kind_id(info.path, self.columns)
        alike = [record for record in known if record.content.startswith(kind)]
        here = {record.version for record in known if record.place == _place_id(info)}
        for record in alike:
            if record.place == _place_id(info):
                return record.version
        # Two files may share a version under other columns; the first one read with these columns keeps it.
        if free := sorted(here.difference(record.version for record in alike)):
            return free[0]
        content = kind + content_hash(info.path, self.columns)
        same = sorted(record.version for record in known if record.content == content)
        # The version uses the content, because another file of this name and size may have had the same time.
        version = same[0] if same else f"{info.size_bytes}-{content}"
        path, data = _record(self.folder, shard, info, version, content)
        self.unwritten[path] = data
        return version

    def _known(self) -> dict[tuple[str, int], list[_Record]]:
        with self._lock:
            if self._by_shard is None:
                self._by_shard = {}
                for name in _names(self.folder):
                    # Other names are those of joined records, whose content is read instead.
                    if name.count("_") == 3:
                        shard, place, version, content = name.split("_")
                        key = shard, int(version.split("-")[0])
                        self._by_shard.setdefault(key, []).append(_Record(place, version, content))
            return self._by_shard


def _names(folder: str) -> Iterator[str]:
    """Reads all records: one per file name, and those of joined shards from one file."""
    paths = [info.path for info in files.find(folder)]
    joined = [path for path in paths if _name_of(path).startswith(_JOINED)]
    yield from map(_name_of, paths)
    for data in files.in_parallel(files.read_bytes, joined):
        yield from json.loads(gzip.decompress(data))


def _name_of(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(_SUFFIX)


def small_version(shard: str, info: FileInfo) -> str:
    """Finds the version of a query file: a hash of its content if it is local and below 64 MB."""
    if not files.is_local(info.path) or info.size_bytes > _SMALL_BYTES:
        return info.version
    return f"{info.size_bytes}-{content_hash(info.path)}"


def record(folder: str, split: Split, columns: Sequence[str]) -> None:
    """Records the content of a split's files after reading; files in an object store have a checksum as their version.

    Args:
      folder: Folder of the records.
      split: The split; `found_version` is the version of the file when it was planned.
      columns: Names of the columns that were read.

    Raises:
      BadFileError: If the file has changed since planning.
    """
    records = {}
    for part in parts_of(split):
        if files.is_local(part.path):
            # Hashed before the version is compared, so a change during either reading is found.
            content = _kind_id(part.path, columns) + content_hash(part.path, columns)
            info = files.stat(part.path)
            if info is None or info.version != part.found_version:
                raise BadFileError(part.path, "has changed since it was planned")
            path, data = _record(folder, part.shard, info, part.version, content)
            records[path] = data
    if split.packed and records:
        names = sorted(_name_of(path) for path in records)
        path = files.join(folder, f"{_JOINED}{seeding.digest(*names)[:20]}{_SUFFIX}")
        records = {path: gzip.compress(json.dumps(names).encode(), mtime=0)}
    for path, data in records.items():
        files.write_once(path, data)


def content_hash(path: str, columns: Sequence[str] | None = None) -> str:
    """Hashes the bytes of a local file to 32 hexadecimal digits.

    Args:
      path: The file.
      columns: Columns of a Parquet file to hash along with its footer; None: the whole file.
    """
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    places = [(0, os.path.getsize(path))]
    if columns is not None and _is_by_column(path):
        # A file that is not valid Parquet is hashed whole; its readers report the damage.
        with contextlib.suppress(BadFileError), damage.naming(path):
            places = list(parquet.places(path, columns))
    with open(path, "rb", buffering=0) as file:
        for start, num_bytes in places:
            file.seek(start)
            while num_bytes > 0 and (piece := file.read(min(num_bytes, _PIECE_BYTES))):
                digest.update(piece)
                num_bytes -= len(piece)
    return digest.hexdigest()


def _is_by_column(path: str) -> bool:
    return parquet.EXTENSIONS.search(path) is not None


def _kind_id(path: str, columns: Sequence[str]) -> str:
    """Names the content covered by a hash; empty for a whole file."""
    return f"{seeding.digest(*sorted(columns))[:8]}-" if _is_by_column(path) else ""


_SUFFIX = ".json.gz"
_JOINED = "joined-"


def _record(
    folder: str, shard: str, info: FileInfo, version: str, content: str
) -> tuple[str, bytes]:
    name = "_".join([_shard_id(shard), _place_id(info), version, content])
    text = json.dumps({"shard": shard, "path": info.path, "version": version, "content": content})
    return files.join(folder, name + _SUFFIX), gzip.compress(text.encode(), mtime=0)


def _shard_id(shard: str) -> str:
    return seeding.digest(shard)[:20]


def _place_id(info: FileInfo) -> str:
    return seeding.digest(info.path, info.version)[:20]
