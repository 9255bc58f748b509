"""Fills a budget within shares from a ranking of the corpus: a programme over sums, cut to the document."""

import dataclasses
from typing import Annotated, Any, Protocol

import numpy as np

from beam_quad import archives, identity
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.columns import find_sorted, look_up
from beam_quad.records import Budget, Split
from beam_quad.selection.bands import Bands, GroupSample
from beam_quad.selection.group_cuts import BandDocuments, GroupCuts, about_shares, cut_groups
from beam_quad.selection.programme import Programme, System, solve
from beam_quad.selection.ranking import NOTHING
from beam_quad.selection.shares import Bound
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.read.patterns import CountPatterns
from beam_quad.stages.read.splits import SplitStage


class HeavyClusters(Protocol):
    """The clusters larger than the share of a cluster."""

    @property
    def clusters(self) -> AssignClusters:
        """All clusters."""

    def load(self) -> np.ndarray:
        """Loads the ids of the heavy clusters, ascending, int64 [m]."""


class Foremost(Protocol):
    """Rows that come before all others."""

    def of(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Tells which rows of a split these are, bool [n]."""

    def first(self, packed: np.ndarray, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns the priorities of a split with these rows first, uint64 [n]."""


class ValuedRanking(Protocol):
    """One ranking of the examples of a split, with its values."""

    def priorities(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns uint64 [n, 1], higher first; 0 for rows that are no candidates."""

    def values(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns float64 [n], infinite for held rows; arbitrary if the priority is 0."""

    def influence(self, split: Split) -> np.ndarray | None:
        """Returns the influence of each row, float64 [n], or None if it was not computed."""

    @property
    def unit(self) -> str:
        """One word that names what a value measures."""

    @property
    def held(self) -> Foremost | None:
        """Rows that come first; None if there are none."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups of documents meeting the same bounds, by reference.

    Args:
      counted: The patterns of the shares; None without shares.
      heavy: The clusters that are capped; None if no cluster is.
      cap: The largest share of the budget from one such cluster.
    """

    counted: CountPatterns | None
    heavy: HeavyClusters | None = None
    cap: float = 1.0

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The bounds, without the caps of clusters."""
        return () if self.counted is None else self.counted.bounds

    def system(self) -> System:
        """The bounds over the groups: the patterns outside heavy clusters, then those in each heavy cluster."""
        patterns = System.free(1) if self.counted is None else self.counted.system()
        if self.heavy is None:
            return patterns
        return patterns.by_cluster(len(self.heavy.load()), self.cap)

    def of(self, split: Split) -> np.ndarray:
        """Numbers the group of each row of a split, int64 [n]; arbitrary for rows that cannot be selected."""
        patterns, num_patterns = np.zeros(1, np.int64), 1
        if self.counted is not None:
            patterns, num_patterns = self.counted.of(split), self.counted.num_patterns()
        if self.heavy is None:
            return patterns
        clusters, _ = self.heavy.clusters.read(split)
        # Other clusters are found at -1, so their patterns come first, as in `System.by_cluster`.
        return np.asarray((find_sorted(self.heavy.load(), clusters) + 1) * num_patterns + patterns)

    def may_give(self, split: Split) -> np.ndarray:
        """Tells which rows of a split may be selected, bool [n], or [1] for all: False for a share of 0."""
        is_open: np.ndarray = ~self.system().shut
        return is_open[self.of(split)]


@dataclasses.dataclass(frozen=True)
class SampleGroups(SplitStage):
    """Samples the documents of each group, and divides the groups into bands.

    Takes splits and gives `GroupSample`s.

    Args:
      corpus: The corpus, within the budget.
      ranking: The ranking.
      groups: The groups.
      budget: The budget.
      what: What is cut, in CapWords: prefix of the stage's name.
    """

    kind = "bands"
    artifact_name = "bands.npz"
    num_adders = 16

    ranking: ValuedRanking
    groups: Groups
    budget: Budget
    what: Annotated[str, identity.NotCounted("a name for people")]

    @property
    def name(self) -> str:
        return f"{self.what}Sample"

    def do(self, piece: Split, model: Any) -> GroupSample:
        rows = self.corpus.rows(piece)
        groups, packed, amounts = self.of(piece, rows)
        values, influence = self.ranking.values(piece, rows), self.ranking.influence(piece)
        num_groups, seed = self.groups.system().num_groups, self.corpus.seed
        return GroupSample.of(
            num_groups, groups, rows.keys, packed, amounts, values, influence, seed
        )

    def finish(self, total: GroupSample | None) -> None:
        system = self.groups.system()
        bands = Bands.none(system.num_groups) if total is None else total.bands()
        files.write_once(self.artifact, archives.dump(**dataclasses.asdict(bands)))

    @once_per_process
    def load(self) -> Bands:
        """Loads the bands, once per process."""
        return Bands(**archives.parse(files.read_bytes(self.artifact)))

    def of(self, split: Split, rows: aligned.Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads group, int64 [n], priority, uint64 [n], and amount, int64 [n], of each row of a split."""
        packed = self.ranking.priorities(split, rows)[:, 0]
        groups = np.broadcast_to(self.groups.of(split), packed.shape)
        return groups, packed, self.budget.amounts(rows.tokens)


@dataclasses.dataclass(frozen=True)
class SolveProgramme(SplitStage):
    """Sums the amounts of the bands, and finds how much each group gives.

    Takes splits and gives int64 [num_bands].

    Args:
      corpus: The corpus, within the budget.
      sample: The bands.
    """

    kind = "programmes"
    version = 2
    artifact_name = "programme.npz"
    num_adders = 16

    sample: SampleGroups

    @property
    def name(self) -> str:
        return f"{self.sample.what}Programme"

    def do(self, piece: Split, model: Any) -> np.ndarray:
        return self.sample.load().count(*self.sample.of(piece, self.corpus.rows(piece)))

    def finish(self, total: np.ndarray | None) -> None:
        bands = self.sample.load()
        held = np.zeros(len(bands.group), np.int64) if total is None else total
        groups, budget = self.sample.groups, self.sample.budget.exact()
        system = groups.system()
        if budget:
            found = solve(system, bands, held, budget, len(groups.bounds))
        else:
            # The base may leave nothing free; without a band nothing is taken.
            nothing = solve(system, Bands.none(system.num_groups), np.zeros(0), 1)
            found = dataclasses.replace(nothing, budget=0)
        files.write_once(self.artifact, archives.dump(held=held, **dataclasses.asdict(found)))

    @once_per_process
    def load(self) -> tuple[Programme, np.ndarray]:
        """Loads the programme, and the amount of each band, int64 [num_bands], once per process."""
        found = archives.parse(files.read_bytes(self.artifact))
        held = found.pop("held")
        return Programme.of(found), held


@dataclasses.dataclass(frozen=True)
class CutGroups(SplitStage):
    """Cuts each group to the document.

    Takes splits and gives the `BandDocuments` of a few bands.

    Args:
      corpus: The corpus, within the budget.
      programme: The programme.
    """

    kind = "group_cuts"
    artifact_name = "groups.npz"
    num_adders = 16

    programme: SolveProgramme

    @property
    def name(self) -> str:
        return f"{self.programme.sample.what}Groups"

    @property
    def budget(self) -> Budget:
        """The budget."""
        return self.programme.sample.budget

    @property
    def _groups(self) -> Groups:
        return self.programme.sample.groups

    def do(self, piece: Split, model: Any) -> BandDocuments:
        sample, (found, _) = self.programme.sample, self.programme.load()
        of_rows = sample.of(piece, self.corpus.rows(piece))
        return BandDocuments.of(found, sample.load(), *of_rows)

    def finish(self, total: BandDocuments | None) -> None:
        sample, (found, held) = self.programme.sample, self.programme.load()
        documents = total or BandDocuments.none()
        cuts = cut_groups(self._groups.system(), found, sample.load(), held, documents)
        files.write_once(self.artifact, archives.dump(**dataclasses.asdict(cuts)))

    @once_per_process
    def load(self) -> GroupCuts:
        """Loads the ends of the groups, once per process."""
        return GroupCuts(**archives.parse(files.read_bytes(self.artifact)))

    def floor(self, split: Split) -> np.ndarray:
        """Reads the lowest selected priority in the group of each row of a split, uint64 [n]."""
        floors: np.ndarray = self.load().floors[self._groups.of(split)]
        return floors

    def lowest(self) -> np.uint64:
        """Reads the lowest selected priority of any group; `NOTHING` if nothing is selected."""
        floor: np.uint64 = self.load().floors.min()
        return floor

    def is_tight(self) -> bool:
        """Tells whether any selectable document is left out."""
        # Priorities of selectable documents are at least 1, so a floor of 1 takes them all.
        return bool((self.load().floors > 1).any())

    def missing(self) -> int:
        """The part of the budget the documents could not fill, ignoring less than a document."""
        return self.programme.load()[0].num_missing

    def remedies(self) -> list[str]:
        """Lists the options that allow more to be selected."""
        by_words = {
            "change --share": self._groups.counted,
            "raise --max_share_per_cluster": self._groups.heavy,
        }
        return [words for words, bound in by_words.items() if bound is not None]

    def facts(self) -> dict[str, Any]:
        """Makes its part of the manifest."""
        groups, (found, _) = self._groups, self.programme.load()
        ranking = self.programme.sample.ranking
        about = about_shares(groups.bounds, groups.system(), found, self.load(), ranking.unit)
        if ranking.held is not None:
            # Held rows have infinite values, so the mean is meaningless.
            about["mean"] |= {"selected": None, "without_bounds": None}
        return {"unit": self.budget.unit, **about}


class Keyed(Protocol):
    """A source of example keys."""

    def known_keys(self) -> np.ndarray:
        """Returns their keys, uint64, in any order."""


@dataclasses.dataclass(frozen=True, eq=False)
class KeyedGroups:
    """The groups of some examples. An additive statistic.

    Attributes:
      keys: uint64 [n].
      groups: int64 [n].
    """

    keys: np.ndarray
    groups: np.ndarray

    def __add__(self, other: "KeyedGroups") -> "KeyedGroups":
        keys = np.concatenate([self.keys, other.keys])
        return KeyedGroups(keys, np.concatenate([self.groups, other.groups]))


@dataclasses.dataclass(frozen=True)
class GroupKeys(SplitStage):
    """Finds the groups of examples known by key, so that their lowest selected priority can be read.

    Takes splits and gives `KeyedGroups`.

    Args:
      corpus: The corpus, within the budget.
      cut: The ends of the groups.
      known: The examples.
    """

    kind = "keyed_groups"
    artifact_name = "groups.npz"

    cut: CutGroups
    known: Keyed

    def do(self, piece: Split, model: Any) -> KeyedGroups:
        rows = self.corpus.rows(piece)
        groups = np.broadcast_to(self.cut.programme.sample.groups.of(piece), rows.keys.shape)
        # A row rejected for a repeated id shares its key with the row that stays.
        at = np.flatnonzero(rows.usable & np.isin(rows.keys, self.known.known_keys()))
        return KeyedGroups(rows.keys[at], groups[at])

    def finish(self, total: KeyedGroups | None) -> None:
        found = total or KeyedGroups(np.zeros(0, np.uint64), np.zeros(0, np.int64))
        order = np.argsort(found.keys)
        data = archives.dump(keys=found.keys[order], groups=found.groups[order])
        files.write_once(self.artifact, data)

    def floors(self, keys: np.ndarray) -> np.ndarray:
        """The lowest selected priority in each example's group, uint64 [n]; `NOTHING` for unknown keys."""
        # Unknown keys have group -1, which reads the appended `NOTHING`.
        return np.append(self.cut.load().floors, NOTHING)[self._groups(keys)]

    def patterns(self, keys: np.ndarray) -> np.ndarray:
        """Numbers of the patterns of examples, int64 [n]; 0 without shares, arbitrary for unknown keys."""
        counted = self.cut.programme.sample.groups.counted
        # The patterns repeat in every heavy cluster; see `Groups.of`.
        return self._groups(keys) % (1 if counted is None else counted.num_patterns())

    def _groups(self, keys: np.ndarray) -> np.ndarray:
        keyed = self._load()
        return look_up(keyed["keys"], keyed["groups"], keys, -1)

    @once_per_process
    def _load(self) -> dict[str, np.ndarray]:
        return archives.parse(files.read_bytes(self.artifact))
