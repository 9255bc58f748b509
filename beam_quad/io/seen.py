"""Which content local files had when they were read, so that a copy of a corpus, or one that was touched, is the same.

A local disk tells size and modification time, and nothing of the content. The stage that reads a file therefore records
a hash of its bytes beside the version that its artifacts are named by, in a file whose name says all: one listing tells
the planner what is known. A file that is where it was, with the same size and time, is taken for unchanged; of one whose
name and size are known from elsewhere, or from another time, the planner compares the content.
"""

import dataclasses
import gzip
import hashlib
import json
import threading
from typing import NamedTuple

from beam_quad import seeding
from beam_quad.errors import BadFileError
from beam_quad.io import files
from beam_quad.io.files import FileInfo
from beam_quad.records import Split

_HASH_BYTES = 16
# Query files are few and small: their content is their version from the start.
_SMALL_BYTES = 64 << 20


class _Record(NamedTuple):
    version: str
    content: str


@dataclasses.dataclass(eq=False)
class SeenFiles:
    """What is known of local files by their content.

    Attributes:
      folder: Where the records are.
      unwritten: Records that planning has made, by path: files of a known content in a new place, or at a new time.
    """

    folder: str
    unwritten: dict[str, bytes] = dataclasses.field(default_factory=dict)
    _by_shard: dict[tuple[str, int], dict[str, _Record]] | None = None
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def version(self, shard: str, info: FileInfo) -> str:
        """Finds the version that a shard's artifacts are named by.

        A file is read only if one of its shard's name and size is known, but not from here and now.
        """
        if not files.is_local(info.path):
            return info.version
        known = self._known().get((_shard_id(shard), info.size_bytes))
        if known is None:
            return info.version
        here = known.get(_place_id(info))
        if here is not None:
            return here.version
        content = content_hash(info.path)
        same = sorted(record.version for record in known.values() if record.content == content)
        # Not by its time: another file of this name and size may have had the very same.
        version = same[0] if same else f"{info.size_bytes}-{content}"
        path, data = _record(self.folder, shard, info, version, content)
        self.unwritten[path] = data
        return version

    def _known(self) -> dict[tuple[str, int], dict[str, _Record]]:
        with self._lock:
            if self._by_shard is None:
                self._by_shard = {}
                for info in files.find(self.folder):
                    name = info.path.rsplit("/", 1)[-1].removesuffix(_SUFFIX)
                    if name.count("_") == 3:
                        shard, place, version, content = name.split("_")
                        key = shard, int(version.split("-")[0])
                        self._by_shard.setdefault(key, {})[place] = _Record(version, content)
            return self._by_shard


def small_version(shard: str, info: FileInfo) -> str:
    """Finds the version of a query file: its content where it is local and below 64 MB."""
    if not files.is_local(info.path) or info.size_bytes > _SMALL_BYTES:
        return info.version
    return f"{info.size_bytes}-{content_hash(info.path)}"


def record(folder: str, split: Split) -> None:
    """Records the content of a split's file, which was read; one in an object store has its checksum for a version.

    Args:
      folder: Where the records are.
      split: The split; `found_version` says what the file was like when it was planned.

    Raises:
      BadFileError: If the file has changed since.
    """
    if not files.is_local(split.path):
        return
    content = content_hash(split.path)
    info = files.stat(split.path)
    if info is None or info.version != split.found_version:
        raise BadFileError(split.path, "has changed since it was planned")
    path, data = _record(folder, split.shard, info, split.version, content)
    files.write_once(path, data)


def content_hash(path: str) -> str:
    """Hashes the bytes of a local file, to 32 hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_HASH_BYTES))
    return digest.hexdigest()


_SUFFIX = ".json.gz"


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
