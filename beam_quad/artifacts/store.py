"""What is asked of whatever holds files."""

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

from beam_quad.artifacts.patterns import Search

# The version of what is not there.
ABSENT = ""
TEMPORARY_PREFIX = ".tmp-"


class Stat(NamedTuple):
    """What is known of a file without reading it.

    Attributes:
      size_bytes: Its size.
      modified_s: Modification time, in seconds since 1970; 0 where none is told.
      checksum: Changes with the content, and with nothing else where the store computes it of the content; empty
        where there is none.
    """

    size_bytes: int
    modified_s: float
    checksum: str = ""


class Store(Protocol):
    """A disk, or an object store; a path is absolute, or a URL.

    A file that is not there raises FileNotFoundError, unless said otherwise.
    """

    def stat(self, path: str) -> Stat | None:
        """Describes a file by one request; None where there is none."""

    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        """Lists at least what is searched for, an object store by one request for each thousand or so.

        If there is a list for hidden files, those need not be given, and what is left out of them is added to it.
        """

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        """Opens a file for reading, as it is stored; at least `buffer_bytes` are fetched at a time."""

    def read(self, path: str) -> tuple[bytes, str]:
        """Reads a whole file, with the version that `put` and `delete` take."""

    def spool(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Gives a file of this machine for what `put` is to store; it is gone after the block."""

    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        """Stores a file under its name, whole, if that is what it was.

        Args:
          path: The name.
          spooled: What `spool` gave, written to its end.
          over: The version that may be replaced: of `read`, `ABSENT`, or None for any.

        Returns:
          Whether it was stored.
        """

    def copy(self, source: str, target: str) -> bool:
        """Has the store copy a file, if it can: then no byte of it comes here."""

    def delete(self, path: str, over: str | None = None) -> None:
        """Deletes a file, of any version or if it is of this one; if it is not there is no error."""
