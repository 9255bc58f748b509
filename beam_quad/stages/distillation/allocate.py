"""Several targets share one budget: round-robin over what propagation says of the corpus, and optimal weights."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.records import Budget, Split
from beam_quad.selection import (
    NUM_LEVELS,
    Contenders,
    Kept,
    RoundRobin,
    Taken,
    keep_for_targets,
    num_contenders,
    priorities,
    tie_draws,
)
from beam_quad.stages.base import Task
from beam_quad.stages.distillation.fit_propagation import load_ridge
from beam_quad.stages.distillation.propagate import load_unscorable, read_influence
from beam_quad.stages.read.corpus import Corpus, read_json, write_json
from beam_quad.stages.write.budget import load_search


@dataclasses.dataclass(frozen=True)
class Propagated:
    """The corpus ranked by propagated influence: a ranking for each target.

    Args:
      folder: Folder of `Propagate`.
      propagation_dir: Folder of `FitPropagation`.
      targets: Names of the targets.
    """

    folder: str
    propagation_dir: str
    targets: tuple[str, ...]

    @property
    def num_rankings(self) -> int:
        return len(self.targets)

    def priorities(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        packed = self.of(read_influence(self.folder, split), rows.keys, corpus.seed)
        return np.where(self.is_example(corpus, rows)[:, None], packed, np.uint64(0))

    def is_example(self, corpus: Corpus, rows: aligned.Rows) -> np.ndarray:
        """Which rows can be taken: all candidates but the landmarks that could not be scored, bool [n]."""
        return np.asarray(corpus.is_candidate(rows) & ~self.is_unscorable(rows))

    def is_unscorable(self, rows: aligned.Rows) -> np.ndarray:
        """Which usable rows are landmarks that could not be scored, bool [n]."""
        return np.asarray(rows.usable & np.isin(rows.keys, load_unscorable(self.propagation_dir)))

    def of(self, influence: np.ndarray, keys: np.ndarray, seed: int) -> np.ndarray:
        """Ranks examples by influence, float [n, num_targets], in whatever way it was found: uint64 [n, num_targets]."""
        return priorities(influence, tie_draws(keys, seed))


@dataclasses.dataclass
class PlayRounds(Task):
    """Plays the rounds in which targets take turns, on the examples that any of them may take.

    Takes splits, gives `Contenders`, and writes the `RoundRobin`.

    Args:
      corpus: The corpus.
      ranking: The corpus ranked for each target.
      budget: What all targets share.
      bounds_dir: Folder of the `CutBudget` stages that bound each target's cut.
      num_levels: How many of these there were.
      folder: Where `rounds.npz` goes.
    """

    corpus: Corpus
    ranking: Propagated
    budget: Budget
    bounds_dir: str
    num_levels: int
    folder: str

    @property
    def name(self) -> str:
        return "PlayRounds"

    @property
    def artifact(self) -> str:
        return _rounds_path(self.folder)

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def do(self, piece: Split, model: Any) -> Contenders:
        rows = self.corpus.rows(piece)
        is_example = self.ranking.is_example(self.corpus, rows)
        packed = self.ranking.priorities(self.corpus, piece, rows)[is_example]
        floors = load_search(self.bounds_dir, self.num_levels - 1, self.budget).floors
        limit = num_contenders(self.ranking.num_rankings)
        return Contenders.of(rows.keys[is_example], packed, floors, self.corpus.seed, limit)

    def finish(self, total: Contenders) -> None:
        rounds = RoundRobin.play(total, self.ranking.targets)
        facts = {"contenders": total.num_seen, "is_exact": total.is_exact}
        write_json(files.join(self.folder, "rounds.json"), facts)
        files.write_once(self.artifact, rounds.to_bytes())


@dataclasses.dataclass(frozen=True)
class Allocated:
    """The corpus ranked once for all targets: by the step at which one of them comes to an example.

    Args:
      ranking: The corpus ranked for each target.
      rounds_dir: Folder of `PlayRounds`, or None with a single target, whose own ranking it is.
    """

    ranking: Propagated
    rounds_dir: str | None

    @property
    def num_rankings(self) -> int:
        return 1

    def priorities(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        packed = self.of(self.ranking.priorities(corpus, split, rows), rows.keys)
        return np.where(self.ranking.is_example(corpus, rows)[:, None], packed, np.uint64(0))

    def is_exact(self) -> bool:
        """Whether the targets took turns on all contenders, and not on a sample of them."""
        if self.rounds_dir is None:
            return True
        return bool(read_json(files.join(self.rounds_dir, "rounds.json"))["is_exact"])

    def of(self, packed: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Ranks examples for all targets by their rankings for each: uint64 [n, num_targets] to [n, 1]."""
        if self.rounds_dir is None:
            return packed
        return load_rounds(self.rounds_dir).ranking(packed, keys)

    def takers(self, packed: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Finds the target that takes each example if the budget lasts: int64 [n]. Arguments as for `of`."""
        if self.rounds_dir is None:
            return np.zeros(len(keys), np.int64)
        return load_rounds(self.rounds_dir).takers(packed, keys)


def load_rounds(folder: str) -> RoundRobin:
    """Loads what `PlayRounds` played, once per process."""
    path = _rounds_path(folder)
    return cached(("round robin", path), lambda: RoundRobin.from_bytes(files.read_bytes(path)))


@dataclasses.dataclass(frozen=True)
class DistilledSelection:
    """What the targets take until the budget is met.

    Args:
      allocated: The corpus ranked once for all targets.
      budget: The budget.
      cut_dir: Folder of the last `CutBudget`.
    """

    allocated: Allocated
    budget: Budget
    cut_dir: str

    @property
    def propagation_dir(self) -> str:
        """Folder of `FitPropagation`."""
        return self.allocated.ranking.propagation_dir

    def keep(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Kept:
        taken = self.taken(corpus, split, rows)
        return self.kept(rows, taken.influence, taken.takers)

    def kept(self, rows: aligned.Rows, influence: np.ndarray, takers: np.ndarray) -> Kept:
        """Tells of the rows that targets take why: by influence that is known of landmarks, predicted of the others.

        Args:
          rows: The rows, n of them.
          influence: Influence on each target, float32 [n, num_targets].
          takers: The target that takes each row, -1 for none, int64 [n].
        """
        landmarks = load_ridge(self.propagation_dir).keys
        ranking = self.allocated.ranking
        return keep_for_targets(
            influence, takers, rows.keys, landmarks, ranking.is_unscorable(rows), ranking.targets
        )

    def taken(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Taken:
        influence = read_influence(self.allocated.ranking.folder, split)
        takers = self.would_take(influence, rows.keys, corpus.seed)
        is_example = self.allocated.ranking.is_example(corpus, rows)
        return Taken(influence, np.where(is_example, takers, -1), is_example)

    def floor(self) -> np.uint64:
        """The lowest priority that is taken."""
        lowest: np.uint64 = load_search(self.cut_dir, NUM_LEVELS - 1, self.budget).floors[0]
        return lowest

    def would_take(self, influence: np.ndarray, keys: np.ndarray, seed: int) -> np.ndarray:
        """Finds the target that takes usable examples with some influence, float [n, num_targets]; -1 for none, int64 [n]."""
        packed = self.allocated.ranking.of(influence, keys, seed)
        is_taken = self.allocated.of(packed, keys)[:, 0] >= self.floor()
        return np.where(is_taken, self.allocated.takers(packed, keys), -1)


def _rounds_path(folder: str) -> str:
    return files.join(folder, "rounds.npz")
