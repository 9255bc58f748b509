"""The texts of the query groups."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, Protocol

from beam_quad import identity
from beam_quad.additive import Tally, add_fields
from beam_quad.artifacts.cache import cached
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.plan import read_plan
from beam_quad.corpus.rows import read_rows
from beam_quad.corpus.splits import InputPlan
from beam_quad.proof.held_out import divide
from beam_quad.records import Split
from beam_quad.stages.read.embed import BATCH_ROWS


@dataclasses.dataclass(frozen=True)
class Query:
    """A group of the query set, by reference.

    Args:
      root: The folder of all artifacts.
      name: The group's name.
      weight: Relative weight of its (standardised) influence, or share of the budget, > 0.
      plan_path: The plan of its files.
      snapshot: Names and versions of its files.
      columns: Roles of the columns in the files.
      sets_aside: Whether the texts named by `proof.held_out` are set aside to measure the selection.
    """

    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    name: str
    weight: Annotated[float, identity.NotCounted("what weighs scores or shares has it")]
    plan_path: Annotated[str, identity.NotCounted("the snapshot tells what the plan holds")]
    snapshot: str
    columns: Columns
    sets_aside: bool = False

    def plan(self) -> InputPlan:
        """The plan, read once per process."""
        return cached(("plan", self.plan_path), lambda: read_plan(self.plan_path))

    def read(self, part: int = 0, num_parts: int = 1) -> "QueryTexts":
        """Reads the texts of every `num_parts`-th split from `part` on, without texts set aside."""
        plan = self.plan()
        texts: list[str] = []
        unused = Tally()
        # Interleaved, so parts are about equally large whatever the order of the files.
        for split in plan.splits[part::num_parts]:
            for batch in read_query(split, self.columns):
                texts += divide(batch.texts)[0] if self.sets_aside else batch.texts
                unused += batch.unused
        return QueryTexts(texts, unused)

    def read_aside(self) -> list[str]:
        """Reads the texts set aside."""
        return [
            text
            for split in self.plan().splits
            for batch in read_query(split, self.columns)
            for text in divide(batch.texts)[1]
        ]


def parts_of(groups: Sequence[Query], num_parts: int) -> list[tuple[int, int]]:
    """Lists (group number, part) for query groups read in `num_parts` parts (`Query.read`), omitting empty parts."""
    return [
        (number, part)
        for number, group in enumerate(groups)
        for part in range(min(num_parts, len(group.plan().splits)))
    ]


class QueryTexts(NamedTuple):
    """Texts of a query group.

    Attributes:
      texts: The usable texts, in order.
      unused: Number of unusable texts, by reason.
    """

    texts: list[str]
    unused: Tally


@dataclasses.dataclass(frozen=True)
class UsedTexts:
    """Number of used texts of a query group. An additive statistic.

    Attributes:
      documents: Number of used texts.
      unused: Number of unusable texts, by reason.
    """

    documents: int
    unused: Tally

    def __add__(self, other: "UsedTexts") -> "UsedTexts":
        return add_fields(self, other)

    def as_json(self) -> dict[str, Any]:
        """The value of `CountsQuery.groups` for a group."""
        unused = sorted((reason, n) for reason, n in self.unused.counts.items() if n)
        return {"documents": self.documents, "unused": dict(unused)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "UsedTexts":
        """Reads the output of `as_json`."""
        return cls(found["documents"], Tally(found["unused"]))


class CountsQuery(Protocol):
    """A stage that has read the query set, and counts its used texts."""

    def groups(self) -> dict[str, dict[str, Any]]:
        """Reads the counts of each query group, in order: `documents`, and `unused` texts by reason."""


def read_query(split: Split, columns: Columns) -> Iterator[QueryTexts]:
    """Reads the texts of one split of a query group, batch by batch."""
    for batch in read_rows(split, columns, batch_rows=BATCH_ROWS):
        texts = [text for text in batch.texts if text is not None]
        reasons = collections.Counter(reason.value for reason in batch.reasons if reason)
        yield QueryTexts(texts, Tally(dict(reasons)))
