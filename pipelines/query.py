"""The query set as found by the launcher: its plan, and its number of usable texts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from beam_quad.additive import Tally
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.seen import small_version
from beam_quad.corpus.splits import InputPlan, plan_input
from beam_quad.errors import BadFileError, UsageError
from beam_quad.proof.held_out import divide
from beam_quad.records import PLAIN_QUERY
from beam_quad.report.judgements import is_poor, texts_used
from beam_quad.stages.read.query import read_query
from pipelines.columns import query_columns
from pipelines.run_options import RunOptions

# This many texts are read and tokenised in a second or two; the stage that reads the query set counts all.
_MOST_COUNTED = 2048
WithoutLoss = Callable[[Sequence[str]], dict[str, int]]


@dataclasses.dataclass(frozen=True)
class QueryCounts:
    """Counts of usable texts among the checked texts of a query group.

    Attributes:
      used: Usable texts.
      unused: Number of unusable texts, by reason.
      is_whole: Whether all texts were checked.
    """

    used: int
    unused: Mapping[str, int]
    is_whole: bool

    def line(self, name: str) -> str:
        """Formats the counts of a group in a line, as a warning if over a tenth is unusable."""
        words = texts_used(name, self.used, self.unused)
        words += "" if self.is_whole else " (of the first that were looked at)"
        if is_poor(self.used, self.unused):
            return f"warning: {words}; check {flag_of(name)}"
        return words


def flag_of(name: str) -> str:
    """Names the flag of a query group."""
    return "--query" if name == PLAIN_QUERY else f"--query_group={name}"


def plan_query(options: RunOptions) -> dict[str, InputPlan]:
    """Plans the files of each query group, sorted by name: the order of flags has no effect."""
    return plan_groups(options.query, query_columns(options), flag_of)


def plan_groups(
    groups: Mapping[str, Sequence[str]], columns: Columns, flag: Callable[[str], str]
) -> dict[str, InputPlan]:
    """Plans the files of groups of texts, sorted by name.

    Args:
      groups: The globs of each group.
      columns: Roles of the columns.
      flag: Names the flag of a group, for errors.
    """
    return {
        name: plan_input(
            globs,
            text_column=columns.text,
            prompt_column=columns.prompt,
            messages_column=columns.messages,
            is_query=True,
            flag=flag(name),
            version_of=small_version,
        )
        for name, globs in sorted(groups.items())
    }


def count_texts(
    name: str,
    plan: InputPlan,
    options: RunOptions,
    columns: Columns,
    without_loss: WithoutLoss | None,
) -> QueryCounts:
    """Counts the usable texts of a group, and refuses a group without any.

    Args:
      name: The group's name.
      plan: Its files.
      options: The flags.
      columns: Roles of their columns.
      without_loss: Counts the texts without a loss, by reason; None if no loss is computed.

    Raises:
      UsageError: With the fault of its texts, or of an unreadable file.
    """
    try:
        return _count_texts(name, plan, options, columns, without_loss)
    except BadFileError as error:
        raise UsageError(
            f"{flag_of(name)}: {error.path}: {error.detail}; repair the file, or leave it out"
        ) from error


def _count_texts(
    name: str,
    plan: InputPlan,
    options: RunOptions,
    columns: Columns,
    without_loss: WithoutLoss | None,
) -> QueryCounts:
    used, unused, num_aside = 0, Tally(), 0
    for split in plan.splits:
        for batch in read_query(split, columns):
            # If none is usable so far, continue, because any later text may be the first.
            if used and used + sum(unused.counts.values()) >= _MOST_COUNTED:
                return QueryCounts(used, unused.counts, is_whole=False)
            texts, aside = divide(batch.texts) if options.prove else (batch.texts, [])
            num_aside += len(aside)
            without = Tally(without_loss(texts) if without_loss is not None else {})
            used += len(texts) - sum(without.counts.values())
            unused = unused + batch.unused + without
    reasons = {reason: count for reason, count in unused.counts.items() if count}
    if not used:
        raise UsageError(
            f"{flag_of(name)}: no usable text in {', '.join(options.query[name])} "
            f"({texts_used(name, used, reasons)}); check its rows"
        )
    if options.prove and not num_aside:
        raise UsageError(
            f"--prove sets a fifth of the texts aside, by hash, but none of the {used} of {flag_of(name)}; "
            "add texts, or leave --prove out"
        )
    return QueryCounts(used, reasons, is_whole=True)
