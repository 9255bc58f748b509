"""The nouns that all rooms share."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

# What a selection can be written as, and how the names of its parts end.
OUTPUT_FORMATS = {
    "parquet": "parquet",
    "jsonl": "jsonl",
    "jsonl.zst": "jsonl.zst",
    "ids": "ids.parquet",
    "mds": "mds",
    "megatron": "bin",
}
# Those of them that carry the rows of the input, as libraries of data sets read them.
ROW_FORMATS = ("parquet", "jsonl", "jsonl.zst")


class Reason(enum.StrEnum):
    """Why an input row was rejected or, of `NEAR_DUPLICATE`, not selected.

    The values are written to `rejected/`; their order ranks them nowhere.
    """

    NULL_TEXT = "null_text"
    EMPTY_TEXT = "empty_text"
    NOT_A_STRING = "not_a_string"
    MALFORMED_JSON = "malformed_json"
    INVALID_UTF8 = "invalid_utf8"
    SCHEMA_MISMATCH = "schema_mismatch"
    TOO_SHORT = "too_short"
    NULL_ID = "null_id"
    DUPLICATE_ID = "duplicate_id"
    BAD_TOKENS = "bad_tokens"
    NOT_FINITE = "not_finite"
    BAD_FILE = "bad_file"
    NO_EMBEDDING = "no_embedding"
    EXCLUDED = "excluded"
    CONTAMINATED = "contaminated"
    NO_ANSWER = "no_answer"
    LONG_ANSWER = "long_answer"
    NEAR_DUPLICATE = "near_duplicate"


@dataclasses.dataclass(frozen=True, order=True)
class Split:
    """The unit of work: a whole shard, a part of a large one, or several small ones joined (`corpus.joining`).

    Attributes:
      shard: Path of the shard relative to the input root; part of every example id. Of joined shards a name that is no
        shard's.
      first_group: First row group (Parquet), or first row (JSONL).
      num_groups: Number of row groups (Parquet), or the most rows (JSONL); 0 for a JSONL shard to its end.
      first_row: Row of the shard at which the split starts.
      num_rows: Rows of the split; -1 where unknown until it is read (JSONL).
      path: Where the shard is stored; empty for joined shards.
      size_bytes: Size of the shard's part in bytes, compressed.
      version: What artifacts are named by: changes when the shard's content does.
      found_version: What a listing said when the run was planned; another than `version` where the same content was
        first read elsewhere, or at another modification time.
      packed: The splits that were joined, as `corpus.joining.parts_of` reads them; empty for a split of one shard.
    """

    shard: str
    first_group: int
    num_groups: int
    first_row: int
    num_rows: int
    path: str
    size_bytes: int
    version: str
    found_version: str = ""
    packed: str = ""


# Name of the query set of a run without query groups.
PLAIN_QUERY = "query"

# How a row counts whose licence or language is not given.
NOT_STATED = "not stated"

BudgetUnit = Literal["tokens", "examples"]


def amounts_in(unit: BudgetUnit, tokens: np.ndarray) -> np.ndarray:
    """What each of the examples with these tokens takes from a budget of a unit, int64 [n]."""
    return tokens if unit == "tokens" else np.ones(len(tokens), np.int64)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is selected.

    Attributes:
      amount: Tokens or examples, at least 1.
      unit: Which of them.
    """

    amount: int
    unit: BudgetUnit = "tokens"

    def exact(self) -> int:
        """The amount that a run selects, which a refresh may have to count first."""
        return self.amount

    def amounts(self, tokens: np.ndarray) -> np.ndarray:
        """What each of the examples with these tokens takes from the budget, int64 [n]."""
        return amounts_in(self.unit, tokens)

    def longest(self, lengths: Mapping[int, int], tokens: Mapping[int, int]) -> int:
        """Decides how long an example may be to be selected; a longer one is passed over for the next.

        A tenth of a token budget, which bounds by how much the last example overshoots it. But never less than a typical
        example, four times the power of two below the median (twice to four times the median): of a tiny budget every
        example is more than a tenth. And never so little that the shorter examples do not fill the budget.

        Args:
          lengths: How many examples of the corpus have 2**b to 2**(b + 1) - 1 tokens, by b.
          tokens: How many tokens they have, by b.

        Returns:
          Tokens; as good as endless where examples are counted, of which a long one is but one, and where the budget
          takes the whole corpus.
        """
        endless = int(np.iinfo(np.int64).max)
        if self.unit == "examples":
            return endless
        longest = max(self.amount // 10, 4 << _median_exponent(lengths))
        filled = 0
        for exponent, number in sorted(tokens.items()):
            filled += number
            if filled >= self.amount:
                return max(longest, (2 << exponent) - 1)
        return endless

    def share(self, examples: int, tokens: int) -> float:
        """The share of a corpus that the budget holds, in [0, 1]."""
        return min(1.0, self.amount / max(1, tokens if self.unit == "tokens" else examples))


def count_lengths(tokens: np.ndarray) -> tuple[dict[int, int], dict[int, int]]:
    """Counts the examples of 2**b to 2**(b + 1) - 1 tokens, and their tokens, both by b, for `Budget.longest`.

    Args:
      tokens: Tokens of each example, int64 [n]; those without a token are not counted.
    """
    tokens = tokens[tokens > 0]
    # frexp gives the exponent above.
    exponents = np.frexp(tokens.astype(np.float64))[1] - 1
    found, counts = np.unique(exponents, return_counts=True)
    sums = [int(tokens[exponents == exponent].sum()) for exponent in found]
    return (
        dict(zip(found.tolist(), counts.tolist(), strict=True)),
        dict(zip(found.tolist(), sums, strict=True)),
    )


def finite_or_none(value: float | None) -> float | None:
    """Returns a number, or None for one that JSON cannot hold."""
    return float(value) if value is not None and math.isfinite(value) else None


def as_json(record: Any) -> Any:
    """Turns dataclasses, tuples and NumPy scalars into what `json.dumps` takes, recursively."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: as_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, dict):
        return {str(key): as_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [as_json(value) for value in record]
    if hasattr(record, "item") and getattr(record, "ndim", 0) == 0:
        return record.item()
    if hasattr(record, "tolist"):
        return record.tolist()
    return record


def _median_exponent(lengths: Mapping[int, int]) -> int:
    number, below = sum(lengths.values()), 0
    for exponent, count in sorted(lengths.items()):
        below += count
        if 2 * below >= number:
            return exponent
    return 0
