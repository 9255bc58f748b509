"""The forbidden texts, which no selected document may contain, as found by the launcher."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping

from beam_quad.answers import plain
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.rows import read_rows
from beam_quad.corpus.splits import InputPlan, plan_input
from beam_quad.errors import BadFileError, UsageError
from beam_quad.selection.leaks import FEWEST_WORDS
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.leaks import Item, Leaks, listed
from pipelines.query import flag_of
from pipelines.run_options import RunOptions

_FLAG = "--decontaminate"


@dataclasses.dataclass(frozen=True)
class LeakItems:
    """The forbidden texts of `--decontaminate` and the query set.

    Attributes:
      leaks: The texts, by reference.
      patterns: Patterns of the files of `--decontaminate`.
      counts: Number of texts of each set, by name.
      num_unfindable: Number of texts not searched for; see `LeakIndex.num_unfindable`.
      unwritten: Files to write before the job starts, by path.
    """

    leaks: Leaks
    patterns: list[str]
    counts: dict[str, int]
    num_unfindable: int
    unwritten: dict[str, bytes]

    def line(self) -> str:
        """Describes the texts in one line."""
        sets = ", ".join(f"{number:,} texts of {name}" for name, number in self.counts.items())
        few = f", but for {self.num_unfindable:,} of fewer than {FEWEST_WORDS} words, unusable, or found twice"
        return f"{sets}{few if self.num_unfindable else ''}"


def read_items(
    options: RunOptions, query: Mapping[str, InputPlan], columns: Columns
) -> LeakItems | None:
    """Reads the forbidden texts; None if there are none.

    Args:
      options: The flags.
      query: The plan of each query group's files.
      columns: The columns of query files; files of `--decontaminate` have the same.

    Raises:
      UsageError: If nothing matches `--decontaminate`, or a file cannot be read or has no text.
    """
    items: list[Item] = []
    patterns: list[str] = []
    if options.decontaminate:
        plan = plan_input(
            options.decontaminate,
            text_column=columns.text,
            prompt_column=columns.prompt,
            messages_column=columns.messages,
            is_query=True,
            flag=_FLAG,
        )
        own = list(_items(_FLAG, plan, columns))
        if not any(item.text for item in own):
            raise UsageError(f"{_FLAG}: no usable text in {', '.join(options.decontaminate)}")
        items, patterns = own, plan.patterns
    if not options.keep_query_copies:
        for name, plan in query.items():
            items += _items(flag_of(name), plan, columns)
    if not items:
        return None
    leaks, index, unwritten = listed(
        options.artifacts_root,
        items,
        options.decontaminate_words,
        options.decontaminate_threshold,
    )
    counts = dict(collections.Counter(item.set for item in items))
    return LeakItems(leaks, patterns, counts, index.num_unfindable, unwritten)


def _items(flag: str, plan: InputPlan, columns: Columns) -> Iterator[Item]:
    try:
        for split in plan.splits:
            # Every file of `--decontaminate` is a set of its own.
            own_set = f"{flag} {split.shard}" if flag == _FLAG else flag
            for batch in read_rows(split, columns, BATCH_ROWS):
                for row, text in enumerate(batch.texts, batch.first_row):
                    # An unusable text counts as not searched for.
                    yield Item(own_set, f"{split.shard}#{row}", plain(text or ""))
    except BadFileError as error:
        raise UsageError(
            f"{flag}: {error.path}: {error.detail}; repair the file, or leave it out"
        ) from error
