"""Ids that no run may select: opt-outs, take-downs, licences."""

import dataclasses
import hashlib
import io
from typing import Annotated

import numpy as np

from beam_quad import identity
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.columns import find_sorted

_FOLDER = "excluded"
_KEYS = "keys.npy"


@dataclasses.dataclass(frozen=True)
class Excluded:
    """The ids of `--exclude`, by reference: their keys, in a file named by content.

    A row is compared by the 64-bit key of its id, the only form in which artifacts keep default ids. The probability
    that any of n rows shares a key with a different one of m listed ids is n·m / 2⁶⁴: 5·10⁻⁵ for a billion rows and a
    million ids. Such a row would be excluded too; this is harmless, and saves reading the ids, the largest column of
    the rows.

    Args:
      root: The folder of all artifacts.
      digest: Hash of the keys.
    """

    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    digest: str

    @property
    def folder(self) -> str:
        """Where the keys are stored."""
        return files.join(self.root, _FOLDER, self.digest)

    @property
    def path(self) -> str:
        """The file of the keys."""
        return files.join(self.folder, _KEYS)

    @once_per_process
    def keys(self) -> np.ndarray:
        """Loads the keys, uint64 [m], ascending, once per process."""
        return keys_of(files.read_bytes(self.path))

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Tells which keys, uint64 [n], belong to listed ids, bool [n]."""
        return find_sorted(self.keys(), keys) >= 0

    def rows_of(self, rows: aligned.Rows) -> np.ndarray:
        """Tells which usable rows of a split have a listed id, bool [n]."""
        return np.asarray(rows.usable & self.holds(rows.keys))


def listed(root: str, keys: np.ndarray) -> tuple[Excluded, bytes]:
    """Names a list by its keys, uint64 [m], and returns the content of the file at its `path`."""
    keys = np.unique(keys)
    buffer = io.BytesIO()
    np.save(buffer, keys, allow_pickle=False)
    digest = hashlib.blake2b(keys.astype("<u8").tobytes(), digest_size=10).hexdigest()
    return Excluded(root, digest), buffer.getvalue()


def lists_below(root: str) -> list[Excluded]:
    """Finds the lists excluded by runs with these artifacts."""
    paths = [info.path for info in files.find(files.join(root, _FOLDER))]
    return [Excluded(root, path.split("/")[-2]) for path in paths if path.endswith(f"/{_KEYS}")]


def keys_of(raw: bytes) -> np.ndarray:
    """Reads the content made by `listed`: uint64 [m], ascending."""
    return np.asarray(np.load(io.BytesIO(raw), allow_pickle=False))
