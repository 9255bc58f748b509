"""Reads shares, the conditions on parts of the budget, from flags."""

import csv
import json
from collections.abc import Sequence

from beam_quad.artifacts import files
from beam_quad.corpus.splits import InputPlan
from beam_quad.errors import UsageError
from beam_quad.selection.shares import Bound, bounds_of_table, parse_bounds
from pipelines.run_options import RunOptions


def read_shares(options: RunOptions) -> tuple[Bound, ...]:
    """Reads the bounds of `--share`, and of the tables of `--share_by`.

    Raises:
      UsageError: If one cannot be read, or some contradict each other, with their names in one line.
    """
    texts = list(options.share)
    for given in options.share_by:
        column, separator, path = given.partition("=")
        if not separator or not column or not path:
            raise UsageError(f"--share_by={given} must be COLUMN=FILE, a table of shares by value")
        if files.stat(path) is None:
            raise UsageError(f"--share_by={given}: {path} is not there; check the path")
        try:
            table = _read_table(path)
        except OSError as error:
            raise UsageError(
                f"--share_by={given}: {path} cannot be read as a file: {error}"
            ) from error
        texts += bounds_of_table(column, table, f"--share_by={given}")
    return parse_bounds(texts, "--share")


def absolute_tables(options: RunOptions) -> list[str]:
    """Makes the paths of `--share_by` absolute, because a later command may run in another folder."""
    tables = [given.partition("=") for given in options.share_by]
    return [f"{column}={files.absolute(path)}" for column, _, path in tables]


def check_columns(bounds: Sequence[Bound], plan: InputPlan) -> None:
    """Refuses a column missing from all files of a corpus, if the files declare their columns.

    Raises:
      UsageError: With the existing columns.
    """
    known = {*plan.stored.names, *plan.schema.names}
    for bound in bounds:
        name = bound.condition.column
        if not any(name == own or name.startswith(f"{own}.") for own in known):
            raise UsageError(
                f"--share {bound.text!r}: no file has a column {name!r}; there are: {', '.join(sorted(known))}"
            )


def _read_table(path: str) -> dict[str, float]:
    """Reads a table of shares by value; a share stays unchanged if it is no number."""
    text = files.read_bytes(path).decode("utf-8", "replace")
    if path.lower().endswith(".json"):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{path} is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise UsageError(f"{path} must hold an object of numbers by value")
        return found
    lines = [line for line in text.splitlines() if line.strip()]
    rows = list(csv.reader(lines, delimiter="\t" if "\t" in text else ","))
    table: dict[str, float] = {}
    for number, row in enumerate(rows, start=1):
        try:
            value, share = row
            table[value.strip()] = float(share)
        except ValueError:
            # A first line without a number is a header.
            if number == 1 and len(row) == 2:
                continue
            raise UsageError(f"{path}: line {number} must be VALUE,SHARE, got {row!r}") from None
    return table
