"""Which rows of a split are selected: of the bandit's blocks, or by a baseline's ranking; the budget is cut here."""

import abc
import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import cached
from beam_quad.bandit import BanditState, example_blocks
from beam_quad.bandit.scored import (
    Scored,
    accepted_blocks,
    arm_code,
    is_in_blocks,
    mean_by_block,
    with_least,
)
from beam_quad.columns import find_sorted, look_up
from beam_quad.records import Budget, Split
from beam_quad.selection import (
    MAX_DRAW,
    NUM_LEVELS,
    CutExamples,
    Kept,
    Taken,
    cut_blocks,
    cut_draws,
    even_ranks,
    keep_accepted,
    keep_ranked,
    or_estimate,
    rank_usable,
)
from beam_quad.stages.base import Task
from beam_quad.stages.clusters.assign import load_cluster_sums, read_assignment
from beam_quad.stages.influence.score import Preference
from beam_quad.stages.quad.blocks import load_blocks, load_passed_over
from beam_quad.stages.quad.rounds import Bandit
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.write.budget import load_search


class Selection(Protocol):
    """Says which rows of a split are selected; everything that it needs is read by path."""

    def keep(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Kept:
        """Selects rows of one split."""


@runtime_checkable
class Weighable(Selection, Protocol):
    """A selection that knows, or estimates, the influence of every example."""

    def taken(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Taken:
        """Finds what is taken of a split, and what everything in it is worth."""


_SELECTION = pa.schema(
    [
        pa.field("cluster", pa.int64()),
        pa.field("block", pa.int64()),
        pa.field("round", pa.int64()),
        pa.field("block_influence", pa.float64()),
        pa.field("highest_draw", pa.uint64()),
    ]
)


class BanditSelection(Weighable, abc.ABC):
    """What a bandit that has played selects, and which of the scored examples stand for it.

    Attributes:
      is_census: Whether every selected example was itself scored.
    """

    is_census: ClassVar[bool] = False

    @abc.abstractmethod
    def is_selected(self, scored: Scored) -> np.ndarray:
        """Says which scored examples are selected, bool [n]."""

    def would_be_selected(self, scored: Scored) -> np.ndarray | None:
        """Says which scored examples would be selected had they not been scored themselves, bool [n].

        None if examples are not selected by prediction: then those that are selected stand for the others.
        """
        return None

    def accepted_tokens(self, state: BanditState) -> int:
        """Counts the tokens of the budget that the selection fills, by what the bandit decided."""
        return state.accepted_tokens


@dataclasses.dataclass(frozen=True)
class BlockSelection(BanditSelection):
    """The blocks that the bandit accepted.

    Args:
      bandit: The bandit.
      num_rounds: Rounds that were run, the pilot included.
      assignments_dir: Folder of `AssignClusters`.
      path: Artifact of `CutBlocks`.
    """

    bandit: Bandit
    num_rounds: int
    assignments_dir: str
    path: str

    def keep(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Kept:
        table = cached(("selection", self.path), lambda: aligned.read_columns(self.path))
        scored = cached(("scored", self.bandit.folder), lambda: self.bandit.scored(self.num_rounds))
        clusters, blocks = self._arms(corpus, split, rows)
        draws = cut_draws(corpus.seed, rows.keys)
        is_candidate, only = corpus.is_candidate(rows), self._only()
        return keep_accepted(table, scored, clusters, blocks, rows.keys, draws, is_candidate, only)

    def taken(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`: an example is worth what its block's scored examples are on average, for which it was accepted.

        In a block that was not pulled that is the average of its cluster.
        """
        kept = self.keep(corpus, split, rows)
        clusters, blocks = self._arms(corpus, split, rows)
        codes, means, of_cluster = cached(("block means", self.bandit.folder), self._means)
        influence = look_up(codes, means, arm_code(clusters, blocks), np.nan)
        influence = self._own(or_estimate(influence, of_cluster[clusters]), kept)
        return Taken.by_one_target(influence, kept, corpus.is_candidate(rows))

    def is_selected(self, scored: Scored) -> np.ndarray:
        accepted = self.bandit.state(self.num_rounds).accepted
        return is_in_blocks(scored, {(block.cluster_id, block.block) for block in accepted})

    def _only(self) -> np.ndarray | None:
        """Keys of the examples that are selected of their blocks, uint64, ascending; None for whole blocks."""
        return None

    def _own(self, influence: np.ndarray, kept: Kept) -> np.ndarray:
        """Puts in the influence for which rows were accepted one by one, float64 [n]."""
        return influence

    def _arms(
        self, corpus: Corpus, split: Split, rows: aligned.Rows
    ) -> tuple[np.ndarray, np.ndarray]:
        blocks_dir = self.bandit.blocks_dir
        return read_arms(blocks_dir, self.assignments_dir, corpus.seed, split, rows)

    def _means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean influence of every pulled block, by ascending arm code, and of every cluster (the least where none was scored)."""
        codes, of_block = mean_by_block(self.bandit.scored(self.num_rounds))
        of_cluster = self.bandit.state(self.num_rounds).arms.mean_influence
        return codes, of_block, with_least(of_cluster)


@dataclasses.dataclass(frozen=True)
class ExampleSelection(BlockSelection):
    """The examples that the bandit accepted one by one, each for its own influence."""

    is_census: ClassVar[bool] = True

    def is_selected(self, scored: Scored) -> np.ndarray:
        return np.isin(scored["key"], self._only())

    def _only(self) -> np.ndarray:
        def read() -> np.ndarray:
            return np.sort(self.bandit.state(self.num_rounds).accepted_examples.keys)

        return cached(("accepted", self.bandit.folder), read)

    def _own(self, influence: np.ndarray, kept: Kept) -> np.ndarray:
        influence[kept.rows] = kept.influence
        return influence


@dataclasses.dataclass
class CutBlocks(Task):
    """Cuts the accepted blocks in which the budget (or a cluster's share of it) ends.

    Takes splits, gives the draws and tokens of the examples in those few blocks, and writes the accepted blocks with
    the highest draw that is taken from each.

    Args:
      corpus: The corpus.
      bandit: The bandit.
      num_rounds: Rounds that were run, the pilot included.
      assignments_dir: Folder of `AssignClusters`.
      path: Where the selection goes.
    """

    corpus: Corpus
    bandit: Bandit
    num_rounds: int
    assignments_dir: str
    path: str

    @property
    def name(self) -> str:
        return "CutBlocks"

    @property
    def artifact(self) -> str:
        return self.path

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits() if self._cuts() else ()

    def do(self, piece: Split, model: Any) -> CutExamples:
        codes = np.array([arm_code(c, b) for c, b in sorted(self._cuts())], np.int64)
        rows = self.corpus.rows(piece)
        clusters, _ = read_assignment(self.assignments_dir, piece)
        num = load_blocks(self.bandit.blocks_dir).num_blocks
        at = np.flatnonzero(clusters >= 0)
        blocks = example_blocks(self.corpus.seed, rows.keys[at], clusters[at], num)
        found = find_sorted(codes, arm_code(clusters[at], blocks))
        scored = self.bandit.scored(self.num_rounds)
        unscorable = np.isin(rows.keys[at], scored["key"][np.isnan(scored["influence"])])
        kept = (found >= 0) & ~unscorable & self.corpus.is_candidate(rows)[at]
        at, found = at[kept], found[kept]
        draws = cut_draws(self.corpus.seed, rows.keys[at])
        return CutExamples(found, draws, rows.tokens[at])

    def finish(self, total: CutExamples | None) -> None:
        draws = cut_blocks(self._cuts(), total)
        columns: dict[str, list[Any]] = {name: [] for name in _SELECTION.names}
        state = self.bandit.state(self.num_rounds)
        for cluster, block, number, influence in accepted_blocks(
            state, self.bandit.scored(self.num_rounds)
        ):
            draw = draws.get((cluster, block), MAX_DRAW)
            if draw is None:
                continue
            for name, value in zip(
                _SELECTION.names, (cluster, block, number, influence, draw), strict=True
            ):
                columns[name].append(value)
        aligned.write_table(self.path, _SELECTION, columns)

    def _cuts(self) -> dict[tuple[int, int], int]:
        state = self.bandit.state(self.num_rounds)
        return {(b.cluster_id, b.block): b.take_tokens for b in state.accepted if b.is_cut}


@dataclasses.dataclass(frozen=True)
class RankedSelection:
    """The examples that a baseline ranks highest.

    Args:
      preference: The ranking.
      budget: How much is taken.
      cut_dir: Folder of the `CutBudget` stages.
      assignments_dir: Folder of `AssignClusters`, or None where nothing was clustered.
    """

    preference: Preference
    budget: Budget
    cut_dir: str
    assignments_dir: str | None

    def keep(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Kept:
        lowest = load_search(self.cut_dir, NUM_LEVELS - 1, self.budget).floors[0]
        packed, unscorable = ranking(self.preference, corpus, split, rows)
        clusters = None
        if self.assignments_dir is not None:
            clusters, _ = read_assignment(self.assignments_dir, split)
        return keep_ranked(packed, lowest, unscorable, clusters, self.preference.influence(split))

    def taken(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`, where the ranking is one by influence."""
        influence = self.preference.influence(split)
        if influence is None:
            raise ValueError(f"{self.preference} knows no influence to weigh by")
        kept = self.keep(corpus, split, rows)
        return Taken.by_one_target(influence, kept, corpus.is_candidate(rows))


@dataclasses.dataclass(frozen=True)
class Preferred:
    """The corpus ranked by a preference, for `CutBudget`.

    Args:
      preference: The ranking.
    """

    preference: Preference

    @property
    def num_rankings(self) -> int:
        return 1

    def priorities(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        return ranking(self.preference, corpus, split, rows)[0][:, None]


def ranking(
    preference: Preference, corpus: Corpus, split: Split, rows: aligned.Rows
) -> tuple[np.ndarray, np.ndarray]:
    """Packs a baseline's ranking of a split.

    Returns:
      Priorities, uint64 [n], 0 for rows that cannot be selected; and which usable rows have no finite rank, bool [n].
    """
    ranks = preference.rank(corpus, split, rows)
    return rank_usable(ranks, rows.usable, corpus.is_candidate(rows), rows.keys, corpus.seed)


@dataclasses.dataclass(frozen=True)
class EqualClusters:
    """The same tokens from every cluster, as far as it has them: diversity alone.

    Args:
      assignments_dir: Folder of `AssignClusters`.
      passed_over_dir: Folder of `CountPassedOver`, by cluster.
    """

    assignments_dir: str
    passed_over_dir: str

    def rank(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        clusters, _ = read_assignment(self.assignments_dir, split)
        tokens = load_cluster_sums(self.assignments_dir).tokens
        _, passed_over = load_passed_over(self.passed_over_dir)
        if passed_over is not None:
            tokens = tokens - passed_over.tokens
        return even_ranks(corpus.seed, rows.keys, clusters, tokens)

    def influence(self, split: Split) -> np.ndarray | None:
        return None


def read_arms(
    blocks_dir: str, assignments_dir: str, seed: int, split: Split, rows: aligned.Rows
) -> tuple[np.ndarray, np.ndarray]:
    """Finds cluster and block of each row of a split, -1 for those that have none, int [n]."""
    clusters, _ = read_assignment(assignments_dir, split)
    blocks = np.full(len(clusters), -1, np.int64)
    usable = np.flatnonzero(clusters >= 0)
    num = load_blocks(blocks_dir).num_blocks
    blocks[usable] = example_blocks(seed, rows.keys[usable], clusters[usable], num)
    return clusters, blocks
