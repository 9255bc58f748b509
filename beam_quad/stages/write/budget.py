"""The cut of a budget in rankings of the whole corpus: 16 bits per stage, each stage a sum over the splits."""

import dataclasses
from typing import Annotated, Any, Protocol

import numpy as np

from beam_quad import identity
from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.plan.work import Sizes, Work, pass_over
from beam_quad.records import Budget, Split
from beam_quad.selection import NUM_LEVELS, BucketAmounts, BudgetSearch, amounts_of
from beam_quad.stages.base import Stage, Stored
from beam_quad.stages.read.corpus import Corpus


class Ranking(Protocol):
    """Ranks the examples of a split, for one target or several."""

    @property
    def num_rankings(self) -> int:
        """How many rankings there are."""

    def priorities(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns uint64 [n, num_rankings], higher first; 0 for rows that are no candidates (`Corpus.is_candidate`)."""


class SingleCut(Protocol):
    """The cut of a budget in a single ranking of the corpus."""

    @property
    def corpus(self) -> Corpus:
        """The corpus, within the budget."""

    @property
    def budget(self) -> Budget:
        """The budget."""

    def floor(self, split: Split) -> np.ndarray:
        """Reads the lowest selected priority for each row of a split: uint64 [n], or [1] if all rows share it."""

    def lowest(self) -> np.uint64:
        """Reads the lowest selected priority of any document."""

    def is_tight(self) -> bool:
        """Tells whether any selectable document is left out."""

    def missing(self) -> int:
        """Counts the part of the budget that the documents do not fill, ignoring less than a document."""


@dataclasses.dataclass(frozen=True)
class Cut(Stored):
    """The cut of a budget in one or more rankings, by reference.

    Args:
      corpus: The corpus.
      ranking: The rankings.
      budget: How much each may take.
      times: How many such budgets each may take.
    """

    kind = "cuts"

    corpus: Corpus
    ranking: Ranking
    budget: Budget
    times: int = 1

    @property
    def root(self) -> str:
        return self.corpus.root

    def stages(self, what: str, num_levels: int = NUM_LEVELS) -> "list[CutBudget]":
        """Lists the stages that find the cut; with fewer than all levels they give a lower bound.

        Args:
          what: What is cut, in CapWords: prefix of the stages' names.
          num_levels: Number of levels to decide.
        """
        return [CutBudget(self, level, what) for level in range(num_levels)]

    def level_path(self, level: int) -> str:
        """Path of a level's decision."""
        return self.path(f"cut-{level}.json")

    def search(self, num_levels: int = NUM_LEVELS) -> BudgetSearch:
        """Reads the decision of the first levels."""
        if num_levels == 0:
            return BudgetSearch.start(self.ranking.num_rankings, self._amount())
        found = self._decision(num_levels - 1)
        prefixes, above = np.array(found["prefixes"], np.uint64), np.array(found["above"], np.int64)
        return BudgetSearch(self._amount(), prefixes, above, num_levels)

    def floors(self, num_levels: int = NUM_LEVELS) -> np.ndarray:
        """Reads the lowest priority within budget in each ranking, uint64 [num_rankings]."""
        return self.search(num_levels).floors

    def floor(self, split: Split) -> np.ndarray:
        """Reads the lowest priority within budget in the only ranking, for all splits: uint64 [1]."""
        return self.floors()[:1]

    def lowest(self) -> np.uint64:
        """Reads the lowest priority within budget in the only ranking."""
        floor: np.uint64 = self.floors()[0]
        return floor

    def is_tight(self) -> bool:
        """Tells whether any selectable document is left out."""
        # A floor of 0 takes all that can be selected.
        return bool(self.floors()[0] > 0)

    def missing(self) -> int:
        """Counts the part of the budget that the only ranking does not fill."""
        return self.search().missing(self._amount())

    def _amount(self) -> int:
        return self.times * self.budget.exact()

    @once_per_process
    def _decision(self, level: int) -> dict[str, Any]:
        return read_json(self.level_path(level))


@dataclasses.dataclass(frozen=True)
class CutBudget(Stage):
    """Finds the lowest priority within budget in each ranking, 16 bits at a time: a radix selection by sums.

    Takes splits and gives `BucketAmounts`. Four levels decide all 64 bits; the budget then ends among the examples of
    that priority.

    Args:
      cut: The cut to find.
      level: 0 to 3.
      what: What is cut, in CapWords: prefix of the stage's name.
    """

    kind = "cuts"
    num_adders = 64

    cut: Cut
    level: int
    what: Annotated[str, identity.NotCounted("a name for people")]

    @property
    def root(self) -> str:
        return self.cut.root

    @property
    def folder(self) -> str:
        """Folder of the levels: that of the cut, which reads them."""
        return self.cut.folder

    @property
    def name(self) -> str:
        return f"{self.what}{self.level}"

    @property
    def artifact(self) -> str:
        return self.cut.level_path(self.level)

    def work(self, sizes: Sizes) -> Work:
        texts = sizes.corpus if self.cut.corpus.part is None else sizes.new
        return pass_over(texts, num_rankings=self.cut.ranking.num_rankings)

    def pieces(self) -> tuple[Split, ...]:
        return self.cut.corpus.splits()

    def do(self, piece: Split, model: Any) -> BucketAmounts:
        rows = self.cut.corpus.rows(piece)
        packed = self.cut.ranking.priorities(piece, rows)
        amounts = amounts_of(packed, self.cut.budget.amounts(rows.tokens))
        return self.cut.search(self.level).count(packed, amounts)

    def finish(self, total: BucketAmounts | None) -> None:
        search = self.cut.search(self.level).narrowed(total or BucketAmounts.zero())
        write_json(
            self.artifact, {"prefixes": search.prefixes.tolist(), "above": search.above.tolist()}
        )
