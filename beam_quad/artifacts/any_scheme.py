"""All other file systems of fsspec, such as `hf://` for data sets and buckets of the Hugging Face hub."""

import contextlib
import datetime
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import fsspec

from beam_quad.artifacts.patterns import Search
from beam_quad.artifacts.store import ABSENT, Stat, Store, explained

# Keys under which file systems of fsspec give a checksum, and a time; the first that is set counts.
_CHECKSUMS = ("blob_id", "xet_hash", "ETag", "etag", "md5Hash")
_TIMES = ("mtime", "last_modified", "LastModified", "updated", "created")


class AnyScheme(Store):
    """Any file system of fsspec; conditional writes are only as strong as the file system makes them."""

    def stat(self, path: str) -> Stat | None:
        with explained(path):
            system, key = _system(path)
            try:
                found = system.info(key)
            except FileNotFoundError:
                return None
        return None if found["type"] == "directory" else _info_stat(found)

    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        with explained(search.folder):
            system, folder = _system(search.folder)
            try:
                listed = system.find(folder, detail=True)
            except FileNotFoundError as error:
                # The hub answers so for a private repository too; an empty listing would hide that a login is missing.
                if "repository not found" in str(error):
                    raise PermissionError(str(error)) from error
                return
        for name, found in listed.items():
            yield search.folder + name[len(folder) :], _info_stat(found)

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        with explained(path):
            system, key = fsspec.url_to_fs(path)
            return system.open(key, "rb", block_size=buffer_bytes)

    def read(self, path: str) -> tuple[bytes, str]:
        with explained(path):
            system, key = _system(path)
            data = system.cat_file(key)
        return data, hashlib.sha256(data).hexdigest()

    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        if over:
            try:
                # No file system of fsspec replaces on condition. Between this check and the write another writer may
                # win.
                if self.read(path)[1] != over:
                    return False
            except FileNotFoundError:
                return False
        spooled.flush()
        with explained(path):
            system, key = _system(path)
            try:
                system.put_file(spooled.name, key, mode="create" if over == ABSENT else "overwrite")
            except FileExistsError:
                return False
        return True

    def delete(self, path: str, over: str | None = None) -> None:
        with explained(path), contextlib.suppress(FileNotFoundError):
            if over is None or self.read(path)[1] == over:
                system, key = _system(path)
                system.rm_file(key)


def _system(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    system, key = fsspec.url_to_fs(path)
    # The cache of fsspec lacks files that other processes have written since.
    system.invalidate_cache(key)
    return system, key


def _info_stat(found: Mapping[str, Any]) -> Stat:
    checksum = next((str(found[name]) for name in _CHECKSUMS if found.get(name)), "")
    modified = next((found[name] for name in _TIMES if found.get(name)), 0.0)
    # A time may be a number, an ISO text or a datetime, as the file system likes.
    if isinstance(modified, str):
        modified = datetime.datetime.fromisoformat(modified)
    if isinstance(modified, datetime.datetime):
        modified = modified.timestamp()
    return Stat(found["size"] or 0, float(modified), checksum)
