"""A large file that is cut is read on where a reader in the same process left off, not from its start."""

import threading
from collections.abc import Iterator
from typing import NamedTuple


class Cursor(NamedTuple):
    """A file that is read to some row.

    Attributes:
      row: Number of the next row.
      lines: It, and those that follow.
    """

    row: int
    lines: Iterator[bytes]


class Cursors:
    """The files that are open between two parts of them.

    Args:
      most: The most of them: each holds a buffer. The one that was left first is closed for another.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._left: list[tuple[str, Cursor]] = []
        self._lock = threading.Lock()

    def take(self, file: str, row: int) -> Cursor | None:
        """Takes the cursor that is nearest before a row, or at it; None if there is none.

        Args:
          file: Names the file and its content.
          row: The first row that is wanted.
        """
        with self._lock:
            found = [own for own in self._left if own[0] == file and own[1].row <= row]
            if not found:
                return None
            nearest = max(found, key=lambda own: own[1].row)
            self._left.remove(nearest)
            return nearest[1]

    def leave(self, file: str, cursor: Cursor) -> None:
        """Leaves a cursor to who reads on."""
        with self._lock:
            self._left.append((file, cursor))
            # What holds no reference to it any more closes the file.
            self._left = self._left[-self._most :]
