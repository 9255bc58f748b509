"""Selects the rows of a bandit: its accepted blocks, or examples of them, cut to the budget."""

import abc
import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.bandit.scored import (
    Scored,
    accepted_blocks,
    arm_code,
    is_in_blocks,
)
from beam_quad.columns import find_sorted, look_up
from beam_quad.records import Split
from beam_quad.selection import (
    CutExamples,
    Kept,
    Standing,
    Taken,
    Unselected,
    accepted_columns,
    cut_blocks,
    cut_draws,
    keep_accepted,
    known_influence,
    or_estimate,
    reason_number,
    why_of,
)
from beam_quad.stages.quad.pulled import Pulled
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.write.ranked import Weighable

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
    """The selection of a finished bandit, and the scored examples that represent it."""

    @property
    def is_census(self) -> bool:
        """Whether every selected example was itself scored."""
        return False

    @property
    @abc.abstractmethod
    def pulled(self) -> Pulled:
        """The blocks the bandit pulled."""

    def known_scores(self) -> Scored:
        """Reads the scored examples: ascending `key`, and `influence`."""
        return self.pulled.scored()

    @abc.abstractmethod
    def is_selected(self, scored: Scored) -> np.ndarray:
        """Tells which scored examples are selected, bool [n]."""

    def would_be_selected(self, scored: Scored) -> np.ndarray | None:
        """Tells which scored examples would be selected if they had not been scored themselves, bool [n].

        None if examples are not selected by prediction; the selected scored examples then represent the rest.
        """
        return None

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        """As `Selection`; an unselected row of a pulled block is left out because the block was not accepted."""
        clusters, blocks, places = self.pulled.places(split, rows)
        influence, _ = known_influence(self.known_scores(), rows.keys, clusters >= 0)
        is_pulled = places >= 0
        rounds = np.full(len(places), -1, np.int64)
        rounds[is_pulled] = self.pulled.blocks()["round"][places[is_pulled]]
        why = why_of(
            (is_pulled, Unselected.BLOCK_NOT_ACCEPTED), otherwise=Unselected.BLOCK_NOT_PULLED
        )
        nothing = np.full(len(places), np.nan)
        return Standing(influence, why, clusters, blocks, rounds, nothing, nothing, nothing)

    def filled_tokens(self) -> int | None:
        """Counts the tokens of the budget that a ranking fills; None if the selection is what the bandit accepted."""
        return None


@dataclasses.dataclass(frozen=True)
class CutBlocks(SplitStage):
    """Cuts the accepted blocks in which the budget (or a cluster's share of it) ends.

    Takes splits, gives the draws and tokens of the examples in those few blocks, and writes the accepted blocks with
    the highest draw taken from each.

    Args:
      corpus: The corpus, within the budget.
      pulled: The bandit's pulls.
    """

    kind = "accepted"
    artifact_name = "selection.parquet"

    pulled: Pulled

    def pieces(self) -> tuple[Split, ...]:
        # Accepted blocks that are not cut are taken whole, for which no split is read.
        return self.corpus.splits() if self._cuts() else ()

    def do(self, piece: Split, model: Any) -> CutExamples:
        cuts, counted = sorted(self._cuts()), self.pulled.counted
        clusters = counted.clusters.of_rows(piece)
        at = np.flatnonzero(np.isin(clusters, [cluster for cluster, _ in cuts]))
        # Usually one block is cut, and most splits have no row of it, so their rows are not read.
        if not len(at):
            return CutExamples.none()
        codes = np.array([arm_code(c, b) for c, b in cuts], np.int64)
        rows = self.corpus.rows(piece)
        blocks = counted.of_rows(rows, clusters)
        found = find_sorted(codes, arm_code(clusters[at], blocks[at]))
        scored = self.pulled.scored()
        # An unscorable example is rejected, so it takes nothing from the budget.
        unscorable = np.isin(rows.keys[at], scored["key"][np.isnan(scored["influence"])])
        kept = (found >= 0) & ~unscorable & self.corpus.is_candidate(rows)[at]
        at, found = at[kept], found[kept]
        draws = cut_draws(self.corpus.seed, rows.keys[at])
        return CutExamples(found, draws, rows.tokens[at])

    def finish(self, total: CutExamples | None) -> None:
        accepted = accepted_blocks(self.pulled.state(), self.pulled.scored())
        columns = accepted_columns(accepted, cut_blocks(self._cuts(), total))
        aligned.write_table(self.artifact, _SELECTION, columns)

    @once_per_process
    def load(self) -> dict[str, np.ndarray]:
        """Loads the accepted blocks by column, once per process."""
        return aligned.read_columns(self.artifact)

    def _cuts(self) -> dict[tuple[int, int], int]:
        accepted = self.pulled.state().accepted
        return {(b.cluster_id, b.block): b.take_tokens for b in accepted if b.is_cut}


@dataclasses.dataclass(frozen=True)
class BlockSelection(BanditSelection):
    """The blocks accepted by the bandit.

    Args:
      cut: The blocks, cut at the end of the budget.
    """

    cut: CutBlocks

    @property
    def pulled(self) -> Pulled:
        return self.cut.pulled

    @property
    def corpus(self) -> Corpus:
        """The corpus, within the budget."""
        return self.cut.corpus

    @property
    def folder(self) -> str:
        """Folder of the accepted blocks."""
        return self.cut.folder

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        clusters, blocks = self.pulled.arms(split, rows)
        kept = keep_accepted(
            self.cut.load(),
            self.pulled.scored(),
            clusters,
            blocks,
            rows.keys,
            cut_draws(self.corpus.seed, rows.keys),
            self.corpus.is_candidate(rows),
            self._only(),
        )
        return dataclasses.replace(kept, worth=self._worth(kept))

    def taken(self, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`: an example has the mean influence of its block's scored examples, by which it was accepted.

        In a block that was not pulled, it has the mean influence of its cluster.
        """
        kept = self.keep(split, rows)
        clusters, blocks = self.pulled.arms(split, rows)
        codes, means, of_cluster = self.pulled.means()
        influence = look_up(codes, means, arm_code(clusters, blocks), np.nan)
        influence = self._own(or_estimate(influence, of_cluster[clusters]), kept)
        return Taken.by_one_target(influence, kept, self.corpus.is_candidate(rows))

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        """As `BanditSelection`; examples of an accepted block may be below the cut."""
        found, accepted = super().standing(split, rows), self.cut.load()
        codes = arm_code(accepted["cluster"], accepted["block"])
        is_accepted = find_sorted(codes, arm_code(found.cluster, found.block)) >= 0
        # Of an accepted block only the examples below the cut are left out.
        why = np.where(is_accepted, reason_number(Unselected.BELOW_CUT), found.why)
        return dataclasses.replace(found, why=why)

    def is_selected(self, scored: Scored) -> np.ndarray:
        accepted = self.pulled.state().accepted
        return is_in_blocks(scored, {(block.cluster_id, block.block) for block in accepted})

    def _only(self) -> np.ndarray | None:
        """Keys of the examples selected one by one, uint64, ascending; None if whole blocks are selected."""
        return None

    def _worth(self, kept: Kept) -> np.ndarray:
        """The influence by which each row was accepted, float64 [m]."""
        return kept.block_influence

    def _own(self, influence: np.ndarray, kept: Kept) -> np.ndarray:
        """Sets the influence of rows accepted one by one, float64 [n]."""
        return influence


@dataclasses.dataclass(frozen=True)
class ExampleSelection(BlockSelection):
    """The examples the bandit accepted one by one, each by its own influence."""

    @property
    def is_census(self) -> bool:
        return True

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        """As `BlockSelection`; in a pulled block only scored examples can be selected."""
        found = super().standing(split, rows)
        is_left = (found.round >= 0) & np.isnan(found.influence)
        why = np.where(is_left, reason_number(Unselected.NOT_SCORED), found.why)
        return dataclasses.replace(found, why=why)

    def is_selected(self, scored: Scored) -> np.ndarray:
        return np.isin(scored["key"], self._only())

    @once_per_process
    def _only(self) -> np.ndarray:
        return np.sort(self.pulled.state().accepted_examples.keys)

    def _worth(self, kept: Kept) -> np.ndarray:
        return kept.influence

    def _own(self, influence: np.ndarray, kept: Kept) -> np.ndarray:
        influence[kept.rows] = kept.influence
        return influence
