"""The part of a budget that the base's examples leave free for new ones."""

import dataclasses
from typing import Any

from beam_quad.additive import Tally
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.records import Budget, Split
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.refresh.base import Held


@dataclasses.dataclass(frozen=True)
class CountFree(SplitStage):
    """Counts what the base's examples leave free of a budget.

    Takes the base's splits and gives `Tally`s. The launcher knows which files are gone and which ids are excluded, but
    only the run finds which examples leak now, or have become duplicates.

    Args:
      corpus: The corpus, within the budget.
      held: The base's examples.
      budget: The budget.
      slack: Amount by which the base missed its budget, less than one example. If no more is free, nothing is.
    """

    kind = "free"
    artifact_name = "free.json"

    held: Held
    budget: Budget
    slack: int

    def pieces(self) -> list[Split]:
        return [split for split in self.corpus.splits() if self.held.base.has(split)]

    def do(self, piece: Split, model: Any) -> Tally:
        rows = self.corpus.rows(piece)
        amounts = self.budget.amounts(rows.tokens)
        return Tally({"held": int(amounts[self.held.of(piece, rows)].sum())})

    def finish(self, total: Tally | None) -> None:
        # The base stopped so short of its budget; a refresh that loses no row must not start a bandit for that.
        free = self.budget.amount - (total or Tally())["held"]
        write_json(self.artifact, {"free": free if free > self.slack else 0})

    @once_per_process
    def load(self) -> int:
        """Loads the amount, once per process."""
        return int(read_json(self.artifact)["free"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeBudget(Budget):
    """The free part of a budget; its `amount` is what the launcher expects, for plans.

    Attributes:
      counted: Counts the part.
    """

    counted: CountFree

    def exact(self) -> int:
        """As `Budget.exact`."""
        return self.counted.load()
