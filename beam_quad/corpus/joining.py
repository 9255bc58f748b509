"""Joins small shards into splits: one piece of work, with one file for each kind of artifact.

The grouping is stored with the artifacts. Shards that an earlier run read together, or alone, stay so, and new shards are
joined only with new ones, so new shards never cause a second reading of old rows. If one of the joined shards is removed or
changes, the others count as new. Joined shards are read in the order of their names, even if other shards sort between
them; code that depends on an order compares shards and rows, as `FindDuplicateIds` does. No draw depends on the grouping,
because an example's id names its own shard and row.
"""

import base64
import dataclasses
import functools
import gzip
import json
import operator
import zlib
from collections.abc import Collection, Iterator, Sequence

from beam_quad import seeding
from beam_quad.artifacts import files
from beam_quad.records import Split

# With fewer splits joining saves nothing and leaves workers idle, so at least this many remain.
MANY_SPLITS = 1000
# Each shard is opened separately; many more would take minutes in an object store, however small they are.
MOST_PARTS = 1024
_OWN_FIELDS = operator.attrgetter(
    *(field.name for field in dataclasses.fields(Split) if field.name != "packed")
)


def join(splits: Sequence[Split]) -> Split:
    """Joins the splits of at least two whole shards into one."""
    # The name ends without a known extension, so no shard can have it.
    name = f"{splits[0].shard} and {len(splits) - 1:,} more"
    return dataclasses.replace(
        _packed(splits),
        shard=name,
        version=seeding.digest(*map(_name, splits)),
        found_version=seeding.digest(*((split.path, split.found_version) for split in splits)),
    )


def parts_of(split: Split) -> tuple[Split, ...]:
    """Returns the splits joined into a split, in order; the split itself if it is not joined."""
    if not split.packed:
        return (split,)
    return tuple(
        Split(*values) for values in json.loads(zlib.decompress(base64.b85decode(split.packed)))
    )


def _packed(splits: Sequence[Split]) -> Split:
    rows = [split.num_rows for split in splits]
    parts = list(map(_OWN_FIELDS, splits))
    packed = base64.b85encode(zlib.compress(json.dumps(parts).encode(), 9)).decode()
    num_rows = -1 if min(rows, default=0) < 0 else sum(rows)
    size_bytes = sum(split.size_bytes for split in splits)
    return Split("", 0, 0, 0, num_rows, "", size_bytes, "", packed=packed)


def leave_out(split: Split, shards: Collection[str]) -> Split:
    """Removes some shards from a joined split."""
    parts = parts_of(split)
    kept = [part for part in parts if part.shard not in shards]
    if not split.packed or len(kept) == len(parts):
        return split
    named = {name: getattr(split, name) for name in ("shard", "version", "found_version")}
    return dataclasses.replace(_packed(kept), **named)


@dataclasses.dataclass(eq=False)
class Joins:
    """The joined shards, and the splits of the base run.

    Attributes:
      folder: Folder of the records of joined shards.
      base: The splits of the run that this one goes on from; they take precedence over the folder.
      unwritten: New decisions of planning, by path.
    """

    folder: str
    base: Collection[Split] = ()
    unwritten: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _base_cuts(self) -> dict[str, list[Split]]:
        found: dict[str, list[Split]] = {}
        for split in self.base:
            if not split.packed:
                found.setdefault(_name(split), []).append(split)
        return found

    def as_before(self, splits: Sequence[Split]) -> Sequence[Split]:
        """Returns the splits of one shard as the base run cut it, if that run had the whole shard."""
        cut = sorted(self._base_cuts.get(_name(splits[0]), ()))
        place = {name: getattr(splits[0], name) for name in ("path", "found_version")}
        size_bytes = sum(split.size_bytes for split in splits)
        if not cut or sum(split.size_bytes for split in cut) != size_bytes:
            return splits
        return [dataclasses.replace(split, **place) for split in cut]

    def joined(
        self, splits: Sequence[Split], whole: Sequence[bool], most_bytes: int
    ) -> list[Split]:
        """Joins splits.

        Args:
          splits: All splits, sorted.
          whole: Which splits are good shards, each read whole.
          most_bytes: Maximum bytes of a joined split.

        Returns:
          The splits in their order, with each joined split in the place of its first member.
        """
        names = {i: _name(split) for i, split in enumerate(splits) if whole[i]}
        runs, alone = self._known({name: i for i, name in names.items()})
        used = {i for run in runs for i in run}
        new = {i for i in names if i not in used and names[i] not in alone}
        size_bytes = sum(splits[i].size_bytes for i in names)
        if len(splits) > MANY_SPLITS:
            at_most = min(most_bytes, size_bytes // MANY_SPLITS)
            found = [run for run in _runs(splits, used, new, at_most) if len(run) > 1]
        else:
            found = []
        self._keep(names, found, new.difference(*found))
        runs += found
        first = {run[0]: join([splits[i] for i in run]) for run in runs}
        dropped = {i for run in runs for i in run[1:]}
        return [first.get(i, split) for i, split in enumerate(splits) if i not in dropped]

    def _known(self, at: dict[str, int]) -> tuple[list[list[int]], set[str]]:
        """Reads the recorded groups of present shards, by position, and the names of groups with missing shards."""
        joined: list[list[str]] = []
        alone: set[str] = set()
        paths = [info.path for info in files.find(self.folder)]
        for data in files.in_parallel(files.read_bytes, paths):
            found = json.loads(gzip.decompress(data))
            joined += found["joined"]
            alone.update(found["alone"])
        runs: list[list[int]] = []
        used: set[str] = set()
        base = [[_name(part) for part in parts_of(split)] for split in self.base if split.packed]
        alone.update(self._base_cuts)
        # Runs that started at the same time may have joined a shard with different others.
        for names in [*base, *sorted(joined, key=lambda names: (-len(names), names))]:
            if used.isdisjoint(names) and all(name in at for name in names):
                used.update(names)
                runs.append([at[name] for name in names])
        return runs, alone

    def _keep(self, names: dict[int, str], runs: Sequence[Sequence[int]], alone: set[int]) -> None:
        if not runs and not alone:
            return
        found = {
            "joined": [[names[i] for i in run] for run in runs],
            "alone": [names[i] for i in sorted(alone)],
        }
        data = gzip.compress(json.dumps(found).encode(), mtime=0)
        path = files.join(self.folder, f"{seeding.digest(found)[:20]}.json.gz")
        self.unwritten[path] = data


def _name(split: Split) -> str:
    return seeding.digest(split.shard, split.version)[:20]


def _runs(
    splits: Sequence[Split], used: set[int], new: set[int], most_bytes: int
) -> Iterator[list[int]]:
    """Cuts the new shards into runs of limited bytes, each within one folder if that leaves the run long enough."""
    run: list[int] = []
    size_bytes = 0
    for i, split in enumerate(splits):
        if i in used:
            continue
        fits = i in new and size_bytes + split.size_bytes <= most_bytes and len(run) < MOST_PARTS
        # Folders are added and removed as a whole, and removing one shard invalidates its whole run.
        is_long = 2 * size_bytes >= most_bytes
        if run and (not fits or (is_long and _folder(splits[run[0]]) != _folder(split))):
            yield run
            run, size_bytes = [], 0
        if i in new:
            run.append(i)
            size_bytes += split.size_bytes
    if run:
        yield run


def _folder(split: Split) -> str:
    """Returns the top folder of a shard; empty if it is in no folder."""
    return split.shard.rpartition("/")[0].partition("/")[0]
