"""Open positions in large, split files, so that a reader resumes where another in the same process stopped."""

import threading
from collections.abc import Iterator
from typing import NamedTuple


class Cursor(NamedTuple):
    """A file read up to some row.

    Attributes:
      row: Number of the next row.
      lines: The next row and all later ones.
    """

    row: int
    lines: Iterator[bytes]


class Cursors:
    """Files kept open between reads of their parts.

    Args:
      most: Maximum number of open files, since each holds a buffer. The oldest one is closed to make room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._left: list[tuple[str, Cursor]] = []
        self._lock = threading.Lock()

    def take(self, file: str, row: int) -> Cursor | None:
        """Takes the nearest cursor at or before a row; None if there is none.

        Args:
          file: Name of the file and its content.
          row: The first row to read.
        """
        with self._lock:
            found = [own for own in self._left if own[0] == file and own[1].row <= row]
            if not found:
                return None
            # The nearest skips the fewest lines. A cursor is taken out, because a stream can serve one reader.
            nearest = max(found, key=lambda own: own[1].row)
            self._left.remove(nearest)
            return nearest[1]

    def leave(self, file: str, cursor: Cursor) -> None:
        """Leaves a cursor for the next reader."""
        with self._lock:
            self._left.append((file, cursor))
            # Dropping the last reference closes the file.
            self._left = self._left[-self._most :]
