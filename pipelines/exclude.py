"""The ids of `--exclude`, as found by the launcher."""

import dataclasses

import numpy as np

from beam_quad import seeding
from beam_quad.columns import find_sorted
from beam_quad.corpus.finding import find_files, naming
from beam_quad.corpus.ids import EXAMPLE_ID, read_ids
from beam_quad.errors import UsageError
from beam_quad.stages.read.excluded import Excluded, keys_of, listed, lists_below
from pipelines.run_options import RunOptions

_FLAG = "--exclude"


@dataclasses.dataclass(frozen=True)
class ExcludedIds:
    """The ids in the lists of `--exclude`.

    Attributes:
      excluded: The ids, by reference.
      paths: The lists, sorted.
      num_ids: Number of distinct ids.
      unwritten: Files to write before the job starts, by path.
    """

    excluded: Excluded
    paths: tuple[str, ...]
    num_ids: int
    unwritten: dict[str, bytes]

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Tells which keys, uint64 [n], belong to excluded ids, bool [n]; reads no file."""
        own = keys_of(self.unwritten[self.excluded.path])
        return np.asarray(find_sorted(own, keys) >= 0)


def read_excluded(options: RunOptions) -> ExcludedIds | None:
    """Reads the lists of `--exclude`; None without the flag.

    Raises:
      UsageError: If nothing matches, a list is unreadable or has no ids, or an earlier run with these artifacts excluded
        more ids, because their texts are missing from the shared artifacts.
    """
    root = options.artifacts_root
    found = _read(options, root) if options.exclude else None
    own = keys_of(found.unwritten[found.excluded.path]) if found else np.zeros(0, np.uint64)
    for earlier in lists_below(root):
        if found is None or earlier != found.excluded:
            missing = np.count_nonzero(find_sorted(own, earlier.keys()) < 0)
            if missing:
                raise UsageError(
                    f"an earlier run with the artifacts {root} excluded {missing:,} ids that this one does not: pass "
                    f"its {_FLAG} too, or another --artifacts"
                )
    return found


def _read(options: RunOptions, root: str) -> ExcludedIds:
    columns = [name for name in (options.id_column, EXAMPLE_ID) if name]
    # A list is a small separate input, like a query set.
    lists = find_files(options.exclude, _FLAG, is_query=True)
    keys = []
    for info in lists.infos:
        with naming(lists.origins[info.path]):
            keys.append(seeding.keys(read_ids(info.path, list(dict.fromkeys(columns)))))
    excluded, raw = listed(root, np.concatenate(keys))
    paths = tuple(info.path for info in lists.infos)
    return ExcludedIds(excluded, paths, len(keys_of(raw)), {excluded.path: raw})
