"""Shares of a budget: bounds on how much of a selection meets a condition on columns of the input.

A document's *pattern* is the set of conditions it meets. Documents of one pattern are equal to every bound, so sums by
pattern are enough to check bounds. `programme` fills a budget within bounds.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, cast

import numpy as np

from beam_quad import identity
from beam_quad.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]
Relation = Literal[">=", "<=", "="]

_BOUND = re.compile(r"(.+?)\s*(?<![<>=!])(>=|<=|==?)\s*([^<>=\s]+)")
_IN = re.compile(r"(.+?)\s+in\s*\((.*)\)")
_COMPARISON = re.compile(r"([^<>=!]+?)\s*(>=|<=|==?|>|<)\s*(.+)")
_ITEM = re.compile(r"\s*(?:\"([^\"]*)\"|'([^']*)'|([^,]*?))\s*(?:,|$)")
# More bounds on one column would make more groups and larger programmes than is of use.
_MOST_BOUNDS = 2000
_HOW = "write COLUMN=VALUE, COLUMN in (A, B) or COLUMN > NUMBER, then >=, <= or = and a share from 0 to 1, as 'language=de >= 0.1'"


@dataclasses.dataclass(frozen=True)
class Condition:
    """A test on one column of a document.

    Attributes:
      column: The column or, with dots in it, a field of a struct.
      operator: "in", or a comparison with a number.
      values: For "in", the accepted values: strings, and numbers and truth values as text.
      number: For a comparison, the number compared with.
    """

    column: str
    operator: Literal["in", ">", ">=", "<", "<="]
    values: tuple[str, ...] = ()
    number: float = 0.0

    def met_by(self, values: Sequence[Any]) -> Array:
        """Tells which values of the column meet the condition, bool [n]; missing or mistyped values do not."""
        if self.operator == "in":
            wanted = frozenset(self.values)
            numbers = frozenset(filter(math.isfinite, map(_as_number, self.values)))
            return np.array([_is_one_of(value, wanted, numbers) for value in values], bool)
        found = np.array([_number_of(value) for value in values], np.float64)
        return np.asarray(_COMPARE[self.operator](found, self.number))


_COMPARE: dict[str, Any] = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
}


@dataclasses.dataclass(frozen=True)
class Bound:
    """A limit on the share of the budget taken by documents that meet a condition.

    Attributes:
      condition: The condition.
      relation: At least, at most, or exactly.
      share: Of the budget, in [0, 1].
      text: The bound as the user wrote it, for messages.
    """

    condition: Condition
    relation: Relation
    share: float
    text: Annotated[str, identity.NotCounted("the other fields say what it says")]


def parse_bounds(texts: Sequence[str], flag: str = "share") -> tuple[Bound, ...]:
    """Reads bounds such as `language=de >= 0.1`, and refuses contradictory ones.

    Args:
      texts: Each a condition, a relation and a share.
      flag: The option that gave them, for messages.

    Raises:
      UsageError: If one cannot be read, some contradict each other, or a column has too many: one line that names them.
    """
    bounds = tuple(_parse(text, flag) for text in texts)
    for _, own in itertools.groupby(
        sorted(bounds, key=lambda bound: bound.condition.column), lambda b: b.condition.column
    ):
        _refuse_contradictions(tuple(own), flag)
    return bounds


def bounds_of_table(
    column: str, table: Mapping[str, float], where: str, relation: Relation = "="
) -> list[str]:
    """Writes a table of shares by value of a column as bounds, for `parse_bounds`.

    Args:
      column: The column.
      table: Share of each value.
      where: Source of the table, for messages.
      relation: Relation of every bound.

    Raises:
      UsageError: If the table is empty, or a share is not a number.
    """
    if not table:
        raise UsageError(
            f"{where} has no shares; write a value and its share from 0 to 1 on a line"
        )
    bad = next((name for name, share in table.items() if type(share) not in (int, float)), None)
    if bad is not None:
        raise UsageError(f"{where}: the share of {bad!r} must be a number, got {table[bad]!r}")
    return [f"{column} in ({_quoted(value)}) {relation} {share}" for value, share in table.items()]


def asking(bounds: Sequence[Bound]) -> tuple[Bound, ...]:
    """Lists the bounds that ask for documents."""
    return tuple(bound for bound in bounds if bound.relation != "<=" and bound.share > 0)


def conditions_of(bounds: Sequence[Bound]) -> tuple[Condition, ...]:
    """Lists the conditions of bounds, each once, in an order that does not depend on theirs."""
    return tuple(sorted({bound.condition for bound in bounds}, key=repr))


def patterns_of(conditions: Sequence[Condition], columns: Mapping[str, Sequence[Any]]) -> Array:
    """Packs the conditions each row meets into bits.

    Args:
      conditions: The conditions, m of them.
      columns: The values of their columns, n each.

    Returns:
      uint8 [n, ceil(m / 8)], the first condition in the highest bit.
    """
    # Rows repeat few values and a table of shares has many conditions, so each distinct value is tested once.
    distinct = {name: _distinct(columns[name]) for name in {c.column for c in conditions}}
    met = []
    for condition in conditions:
        values, at = distinct[condition.column]
        met.append(condition.met_by(values)[at])
    return np.packbits(np.stack(met, axis=1), axis=1)


def _distinct(values: Sequence[Any]) -> tuple[list[Any], Array]:
    """Lists the distinct values, by type, and the place of each value among them, int64 [n]; lists and structs are one."""
    found: dict[Any, int] = {}
    kept: list[Any] = []
    places = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        is_plain = value is None or isinstance(value, str | bytes | bool | int | float | Decimal)
        # With the type, as 1, 1.0 and True are equal to Python but not to a condition.
        key = (type(value), value) if is_plain else None
        place = found.setdefault(key, len(kept))
        if place == len(kept):
            kept.append(value if is_plain else None)
        places[i] = place
    return kept, places


def pattern_codes(patterns: Array) -> Array:
    """Makes each pattern one value that can be sorted, compared and named: bytes [n]."""
    packed = np.ascontiguousarray(patterns, np.uint8)
    # NumPy drops zero bytes at the end of such a value. All values have one width, so equality and order stay right.
    return packed.view(f"S{packed.shape[1]}")[:, 0]


def members_of(bounds: Sequence[Bound], conditions: Sequence[Condition], patterns: Array) -> Array:
    """Tells which patterns meet the condition of each bound.

    Args:
      bounds: The bounds.
      conditions: `conditions_of` them.
      patterns: uint8 [num_patterns, ceil(num_conditions / 8)].

    Returns:
      bool [num_bounds, num_patterns].
    """
    met = np.unpackbits(patterns, axis=1)[:, : len(conditions)].astype(bool)
    return met[:, [conditions.index(bound.condition) for bound in bounds]].T


def _parse(text: str, flag: str) -> Bound:
    found = _BOUND.fullmatch(text.strip())
    condition = _condition(found[1]) if found else None
    if found is None or condition is None:
        raise UsageError(f"{flag} {text!r} cannot be read: {_HOW}")
    share = _as_number(found[3])
    if not 0 <= share <= 1:
        raise UsageError(
            f"{flag} {text!r}: a share must lie between 0 and 1, got {found[3]}; it is a part of the budget"
        )
    relation = cast(Relation, "=" if found[2] == "==" else found[2])
    return Bound(condition, relation, share, text.strip())


def _condition(text: str) -> Condition | None:
    if found := _IN.fullmatch(text):
        return _membership(found[1], found[2])
    if not (found := _COMPARISON.fullmatch(text)):
        return None
    column, operator, value = found.groups()
    if operator in ("=", "=="):
        return _membership(column, value)
    number = _as_number(value)
    if not math.isfinite(number):
        return None
    return Condition(column, cast(Any, operator), number=number)


def _membership(column: str, text: str) -> Condition | None:
    items: list[str] = []
    at = 0
    while at < len(text):
        found = _ITEM.match(text, at)
        if found is None:
            return None
        items.append(next(part for part in found.groups() if part is not None))
        at = found.end()
    if not items or not column.strip():
        return None
    return Condition(column.strip(), "in", tuple(sorted(set(items))))


def _quoted(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _number_of(value: Any) -> float:
    # A number in a column of text is text, and True is no 1: both would meet comparisons that nobody wrote for them.
    if isinstance(value, bool | str | bytes) or value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _is_one_of(value: Any, wanted: frozenset[str], numbers: frozenset[float]) -> bool:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value in wanted
    if isinstance(value, bool):
        return ("true" if value else "false") in wanted
    return _number_of(value) in numbers


def _refuse_contradictions(bounds: tuple[Bound, ...], flag: str) -> None:
    """Refuses bounds on one column that no corpus can meet."""
    # Imported here because SciPy is slow to import, and runs without shares do not need it.
    from beam_quad.selection.programme import System, smallest_contradiction

    if len(bounds) > _MOST_BOUNDS:
        raise UsageError(
            f"{flag}: column {bounds[0].condition.column!r} has {len(bounds):,} bounds, and {_MOST_BOUNDS:,} are the most; "
            "leave out values of small shares, or bound a coarser column"
        )
    conditions = conditions_of(bounds)
    # One value of each kind the conditions distinguish, and None, which meets no condition.
    values: list[Any] = [None]
    for condition in conditions:
        numbers = (condition.number, *map(_as_number, condition.values))
        values += condition.values
        for number in filter(math.isfinite, numbers):
            values += [np.nextafter(number, -np.inf), number, np.nextafter(number, np.inf)]
    values += [text == "true" for text in ("true", "false")]
    patterns = np.unique(patterns_of(conditions, {bounds[0].condition.column: values}), axis=0)
    system = System.of(bounds, members_of(bounds, conditions, patterns))
    found = smallest_contradiction(system, np.ones(len(patterns)), 1.0)
    if found:
        named = "; ".join(bounds[i].text for i in found)
        raise UsageError(
            f"{flag}: {named}: no selection meets these together; change or leave out one of them"
        )
