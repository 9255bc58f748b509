"""Tar archives of WebDataset: consecutive members whose names differ only in the extension form a row.

A row is read as a line of JSON with the members of the sample's `.json`, its name as `__key__`, and its `.txt` as `text`.
Other files of a sample, such as images, are left out.

References:
  https://github.com/webdataset/webdataset
"""

import itertools
import json
import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from beam_quad.artifacts import files
from beam_quad.corpus import json_rows

EXTENSIONS = re.compile(r"\.(tgz|tar(\.\w+)?)$", re.IGNORECASE)
KEY, TEXT = "__key__", "text"

_READ = ("json", "txt")
# `tarfile` copies its read-ahead buffer at every header and file; with 1 MB buffers the copies would dominate.
_READ_BYTES = tarfile.RECORDSIZE
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


class _Counted:
    """A stream that counts the bytes read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size_bytes = 0

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes; empty at the end."""
        data = self._stream.read(size)
        self.size_bytes += len(data)
        return data


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """Reads the rows of a decompressed archive; memory is limited to one sample.

    Args:
      stream: The archive.

    Raises:
      EOFError: If the archive is truncated.
      OSError: Without an errno, if the stream is not an archive.
    """
    counted = _Counted(stream)
    try:
        with tarfile.open(fileobj=counted, mode="r|", bufsize=_READ_BYTES) as archive:  # type: ignore[call-overload]
            for key, sample in itertools.groupby(_members(archive), key=lambda own: own[0]):
                yield _line(key, {extension: data for _, extension, data in sample})
            end = archive.offset
    except tarfile.TarError as error:
        if "unexpected end" in str(error) or "truncated" in str(error):
            raise EOFError(f"truncated tar archive: {error}") from error
        raise OSError(f"no tar archive: {error}") from error
    # Reads what follows the last member, so a compressed stream is checked to its end.
    while counted.read(_READ_BYTES):
        pass
    # An archive ends with two blocks of zeros; if the first is missing, a member may be lost.
    if counted.size_bytes < end + tarfile.BLOCKSIZE:
        raise EOFError("truncated tar archive: its end is not there")


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Reads name, extension and content of every file; the content of omitted files is skipped."""
    for member in archive:
        # `tarfile` keeps a list of all members, which may be millions and are not needed again.
        archive.members = []  # type: ignore[attr-defined]
        folder, name = posixpath.split(member.name)
        stem, _, extension = name.partition(".")
        if not member.isfile() or not stem:
            continue
        data, extension = b"", extension.lower()
        if extension in _READ and (file := archive.extractfile(member)) is not None:
            data = file.read()
        yield files.printable(posixpath.join(folder, stem)), extension, data


def _line(key: str, members: dict[str, bytes]) -> bytes:
    """Converts a sample to a line, which is not a JSON object if the sample's `.json` is not."""
    line = members.get("json", b"{}").removeprefix(json_rows.BOM).translate(_LINE_ENDS).strip()
    text = members.get("txt")
    own = [KEY] if text is None else [KEY, TEXT]
    try:
        if any(f'"{name}"'.encode() in line for name in own):
            line = json_rows.rewritten(line, lambda name: None if name in own else name)
        line = json_rows.splice(line, KEY, key)
    except ValueError:
        return line
    if text is None:
        return line
    # Bytes that are not UTF-8 are kept, so that the reader of rows reports them.
    value = json.dumps(text.decode("utf-8-sig", "surrogateescape"), ensure_ascii=False)
    return line[:-1] + b',"text":' + value.encode("utf-8", "surrogateescape") + b"}"
