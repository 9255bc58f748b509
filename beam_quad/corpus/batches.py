"""Checked rows as the rest of the system sees them, and the reasons why rows are unusable."""

import dataclasses
import decimal
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from beam_quad import answers, identity
from beam_quad.answers import ChatTemplate
from beam_quad.corpus.json_types import OutOfRange
from beam_quad.records import Reason

Fault = tuple[Reason, str]

_DETAIL_LENGTH = 200


@dataclasses.dataclass(frozen=True)
class Columns:
    """The roles of the input's columns.

    Attributes:
      text: Column of the text. A name with dots is a field of a struct unless a column has that name, here and below.
      id: The example id; None: `<shard>#<row>`.
      tokens: The number of tokens charged to the budget; None: counted by the proxy's tokenizer.
      text_flag: The flag that names the text, for errors.
      score: A score given by the input, any number; None: no score is read.
      prompt: The prompt that the text answers; None: no prompt, so the loss covers the whole text.
      messages: A conversation in place of text and prompt; None: no conversation.
      template: The proxy's chat template; None: the default of `answers.conversation`.
    """

    text: str = "text"
    id: str | None = None
    tokens: str | None = None
    text_flag: str = "--text_column"
    score: Annotated[
        str | None,
        identity.NotCounted("the stage that reads it names it, and rejects no row for it"),
    ] = None
    prompt: str | None = None
    messages: str | None = None
    template: ChatTemplate | None = None

    @property
    def has_answers(self) -> bool:
        """Whether the loss covers only a part of a text (`beam_quad.answers`)."""
        return bool(self.prompt or self.messages)

    @property
    def content(self) -> str:
        """The column of the text or, in its place, of the conversation."""
        return self.messages or self.text

    @property
    def names(self) -> list[str]:
        """The columns to read, text first, each once."""
        named = (self.content, self.prompt, self.id, self.tokens, self.score)
        return list(dict.fromkeys(name for name in named if name))

    def flag(self, role: str) -> str:
        """The flag that names the column of a role: text, prompt or messages."""
        return self.text_flag.replace("text", role)


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """Reads a column of a parsed row or, if the name has dots, a field of a struct; None if there is neither."""
    if name in row or "." not in name:
        return row.get(name)
    at = name.find(".")
    while at >= 0:
        inside = row.get(name[:at])
        if type(inside) is dict:
            return value_of(inside, name[at + 1 :])
        at = name.find(".", at + 1)
    return None


def values_of(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """Reads a column of parsed rows, as `value_of` does."""
    if "." in name:
        return [value_of(row, name) for row in rows]
    return [row.get(name) for row in rows]


def numbers_of(values: Sequence[Any]) -> np.ndarray:
    """Converts a column's values to numbers, float64 [n]; nan for a value that is not a finite number."""
    return np.array([_number(value) for value in values], np.float64)


def _number(value: Any) -> float:
    # Exact types, as in `_id_fault`.
    if type(value) not in (int, float, decimal.Decimal):
        return math.nan
    number = float(value)
    return number if math.isfinite(number) else math.nan


@dataclasses.dataclass(frozen=True)
class RowBatch:
    """n consecutive rows of a shard, usable or not.

    Attributes:
      first_row: Number of the first row in the shard.
      texts: Texts; None for a rejected row.
      ids: Example ids; `<shard>#<row>` if the id itself is invalid.
      tokens: Token counts, int64 [n], -1 for a rejected row; None without a tokens column.
      reasons: Why each row is rejected; None if it is usable.
      details: The fault of each row, for people; empty if it has none.
      group_row: Number of the first row in its row group, or in the shard if the format has no row groups.
    """

    first_row: int
    texts: list[str | None]
    ids: list[str]
    tokens: np.ndarray | None
    reasons: list[Reason | None]
    details: list[str]
    group_row: int

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_characters(self) -> int:
        """Total characters of all texts."""
        return sum(len(text) for text in self.texts if text is not None)

    @classmethod
    def joined(cls, batches: Sequence["RowBatch"]) -> "RowBatch":
        """Joins consecutive batches of one row group, at least one."""
        first = batches[0]
        counts = [batch.tokens for batch in batches if batch.tokens is not None]
        return cls(
            first.first_row,
            [text for batch in batches for text in batch.texts],
            [name for batch in batches for name in batch.ids],
            np.concatenate(counts) if counts else None,
            [reason for batch in batches for reason in batch.reasons],
            [detail for batch in batches for detail in batch.details],
            first.group_row,
        )


def default_id(shard: str, row: int) -> str:
    """Names an example by its place."""
    return f"{shard}#{row}"


def describe(detail: object) -> str:
    """Formats a detail as one printable line of at most 200 characters."""
    text = str(detail).encode("utf-8", "backslashreplace").decode("utf-8")
    text = " ".join(text.split())
    return text if len(text) <= _DETAIL_LENGTH else text[: _DETAIL_LENGTH - 1] + "…"


def make_batch(
    shard: str,
    first_row: int,
    values: Mapping[str, Sequence[Any]],
    columns: Columns,
    broken: Mapping[int, Fault],
    group_row: int | None = None,
) -> RowBatch:
    """Checks each row for every reason to reject it; the first reason found is recorded.

    Args:
      shard: Shard of the rows.
      first_row: Number of the first row in the shard.
      values: Python values of each column, n each.
      columns: The roles of the columns.
      broken: Faults, by position, of unreadable rows; they take precedence over other faults.
      group_row: As in `RowBatch`; by default `first_row`.
    """
    contents = values[columns.content]
    prompts = values[columns.prompt] if columns.prompt else None
    texts: list[str | None] = [None] * len(contents)
    ids = values[columns.id] if columns.id else None
    tokens = values[columns.tokens] if columns.tokens else None
    reasons: list[Reason | None] = [None] * len(texts)
    details = [""] * len(texts)
    names = []
    counts = np.full(len(texts), -1, dtype=np.int64)
    for i, content in enumerate(contents):
        fault = broken.get(i)
        if not fault:
            prompt = None if prompts is None else prompts[i]
            texts[i], fault = _text(content, prompt, columns)
        if not fault and ids is not None:
            fault = _id_fault(ids[i])
        if not fault and tokens is not None:
            fault = _tokens_fault(tokens[i])
        if fault:
            reasons[i], details[i], texts[i] = fault[0], describe(fault[1]), None
        elif tokens is not None:
            counts[i] = tokens[i]
        # A row that is rejected for another reason keeps its own id.
        has_id = ids is not None and not (fault and _id_fault(ids[i]))
        names.append(
            str(ids[i]) if ids is not None and has_id else default_id(shard, first_row + i)
        )
    return RowBatch(
        first_row,
        texts,
        names,
        None if tokens is None else counts,
        reasons,
        details,
        first_row if group_row is None else group_row,
    )


def _text(content: Any, prompt: Any, columns: Columns) -> tuple[str | None, Fault | None]:
    """Makes the text of a row, with marks around its answers if it has prompts, or returns its fault."""
    if columns.messages:
        return _conversation(content, columns.template)
    fault = _text_fault(content)
    if fault:
        return None, fault
    if not columns.prompt:
        return answers.without_marks(content), None
    if type(prompt) is not str and prompt is not None:
        return None, (Reason.NOT_A_STRING, f"the prompt is {json_type(prompt)}")
    return answers.answer(prompt or "", content), None


def _conversation(messages: Any, template: ChatTemplate | None) -> tuple[str | None, Fault | None]:
    if messages is None:
        return None, (Reason.NULL_TEXT, "no messages")
    try:
        return answers.conversation(messages, template), None
    except TypeError as error:
        return None, (Reason.SCHEMA_MISMATCH, str(error))
    except answers.NoAnswerError as error:
        return None, (Reason.NO_ANSWER, str(error))


def _text_fault(text: Any) -> Fault | None:
    if type(text) is str:
        if text and not text.isspace():
            return None
        return Reason.EMPTY_TEXT, "only white space" if text else "empty"
    if text is None:
        return Reason.NULL_TEXT, "no text"
    return Reason.NOT_A_STRING, f"the text is {json_type(text)}"


def _id_fault(value: Any) -> Fault | None:
    if value is None or value == "":
        return Reason.NULL_ID, "no id" if value is None else "the id is empty"
    # Exact types: True is an instance of int, and `OutOfRange` of float.
    if type(value) is not str and type(value) is not int:
        kind = "a number beyond 64 bits" if type(value) is OutOfRange else json_type(value)
        return Reason.SCHEMA_MISMATCH, f"the id is {kind}, neither string nor integer"
    return None


def _tokens_fault(value: Any) -> Fault | None:
    # pandas writes a column of integers with gaps as floats.
    is_number = type(value) is int or (type(value) is float and value.is_integer())
    if is_number and 0 <= value < 2**63:
        return None
    return Reason.BAD_TOKENS, "no token count" if value is None else f"tokens: {value!r:.80}"


def json_type(value: Any) -> str:
    """Names the type of a parsed JSON value as a schema would."""
    names = {
        bool: "bool",
        int: "int64",
        float: "double",
        str: "string",
        list: "list",
        dict: "struct",
    }
    return names.get(type(value), "null" if value is None else type(value).__name__)
