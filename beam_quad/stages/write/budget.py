"""Where a budget ends in rankings of the whole corpus: 16 bits a stage, each a sum over the splits."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.records import Budget, Split
from beam_quad.selection import NUM_LEVELS, BucketAmounts, BudgetSearch, amounts_of
from beam_quad.stages.base import Task
from beam_quad.stages.read.corpus import Corpus, read_json, write_json


class Ranking(Protocol):
    """Ranks the examples of a split, for one target or several."""

    @property
    def num_rankings(self) -> int:
        """How many rankings there are."""

    def priorities(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns uint64 [n, num_rankings], higher first; 0 for rows that are no candidates (`Corpus.is_candidate`)."""


@dataclasses.dataclass
class CutBudget(Task):
    """Finds, 16 bits at a time, the lowest priority that a budget reaches in each ranking: a radix selection by sums.

    Takes splits and gives `BucketAmounts`. Four levels decide all; of what is at or above the priority, only examples of
    that very priority end the budget.

    Args:
      corpus: The corpus.
      ranking: The rankings.
      budget: How much each may take.
      folder: Where the levels' decisions go.
      level: 0 to 3.
      what: What is cut, in CapWords: the beginning of the stage's name.
    """

    corpus: Corpus
    ranking: Ranking
    budget: Budget
    folder: str
    level: int
    what: str

    @property
    def name(self) -> str:
        return f"{self.what}{self.level}"

    @property
    def artifact(self) -> str:
        return _level_path(self.folder, self.level)

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def do(self, piece: Split, model: Any) -> BucketAmounts:
        rows = self.corpus.rows(piece)
        packed = self.ranking.priorities(self.corpus, piece, rows)
        return self._before().count(packed, amounts_of(packed, self.budget.amounts(rows.tokens)))

    def finish(self, total: BucketAmounts | None) -> None:
        search = self._before().narrowed(total or BucketAmounts.zero())
        write_json(
            self.artifact, {"prefixes": search.prefixes.tolist(), "above": search.above.tolist()}
        )

    def _before(self) -> BudgetSearch:
        if self.level == 0:
            return BudgetSearch.start(self.ranking.num_rankings, self.budget.amount)
        return load_search(self.folder, self.level - 1, self.budget)


def load_search(folder: str, level: int, budget: Budget) -> BudgetSearch:
    """Loads what a level of `CutBudget` decided, once per process."""
    path = _level_path(folder, level)
    found = cached(("cut", path), lambda: read_json(path))
    prefixes, above = np.array(found["prefixes"], np.uint64), np.array(found["above"], np.int64)
    return BudgetSearch(budget.amount, prefixes, above, level + 1)


def cut_levels(
    corpus: Corpus,
    ranking: Ranking,
    budget: Budget,
    folder: str,
    what: str,
    levels: int = NUM_LEVELS,
) -> list[CutBudget]:
    """Lists the stages that cut a budget; with fewer than all levels they bound it from below."""
    return [CutBudget(corpus, ranking, budget, folder, level, what) for level in range(levels)]


def _level_path(folder: str, level: int) -> str:
    return files.join(folder, f"cut-{level}.json")
