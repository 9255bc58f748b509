"""Additive statistics: every distributed statistic is a frozen dataclass with `__add__`, finalised once."""

import dataclasses
import functools
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Additive(Protocol):
    """A statistic that can be summed, in any order and from any partition."""

    def __add__(self, other: Self, /) -> Self: ...


A = TypeVar("A", bound=Additive)
D = TypeVar("D", bound="DataclassInstance")


def total(items: Iterable[A], zero: A) -> A:
    """Sums items, starting from `zero`; returns `zero` for no items."""
    return functools.reduce(operator.add, items, zero)


@dataclasses.dataclass
class PairwiseSum(Generic[A]):
    """Sums items pairwise: each addition joins two sums of similar numbers of items.

    A statistic that grows with the items, such as one by shard, is then copied log n times instead of n times.

    Attributes:
      sums: Partial sums, each with its number of items, in descending order of these numbers.
    """

    sums: list[tuple[int, A]] = dataclasses.field(default_factory=list)

    def add(self, item: A | None, number: int = 1) -> None:
        """Adds an item, which is itself a sum of `number` items; None adds nothing."""
        if item is None:
            return
        while self.sums and self.sums[-1][0] <= number:
            before, sum_before = self.sums.pop()
            number, item = before + number, sum_before + item
        self.sums.append((number, item))

    def merge(self, other: "PairwiseSum[A]") -> None:
        """Adds the items of another sum."""
        for number, item in other.sums:
            self.add(item, number)

    def compact(self) -> "PairwiseSum[A]":
        """Returns the same items as a single partial sum."""
        # From the back, so the smallest sums are joined first.
        compacted = PairwiseSum[A]()
        for number, item in reversed(self.sums):
            compacted.sums = [
                (number + before, item + sum_before) for before, sum_before in compacted.sums
            ] or [(number, item)]
        return compacted

    def total(self) -> A | None:
        """Returns the sum of all items; None if there are none."""
        sums = self.compact().sums
        return sums[0][1] if sums else None


@dataclasses.dataclass(frozen=True)
class Tally:
    """Named integer counts. Absent names count 0.

    Attributes:
      counts: Count by name; not shared with callers, who might change it.
    """

    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Tally") -> "Tally":
        merged = dict(self.counts)
        for name, count in other.counts.items():
            merged[name] = merged.get(name, 0) + count
        return Tally(merged)

    def __getitem__(self, name: str) -> int:
        return self.counts.get(name, 0)


@dataclasses.dataclass(frozen=True)
class ByName(Generic[A]):
    """Statistics by name, each with its own sum.

    Attributes:
      named: Statistic by name; not shared with callers, who might change it.
    """

    named: dict[str, A] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "ByName[A]") -> "ByName[A]":
        merged = dict(self.named)
        for name, statistic in other.named.items():
            merged[name] = merged[name] + statistic if name in merged else statistic
        return ByName(merged)


def add_fields(left: D, right: D) -> D:
    """Adds two dataclasses of one type field by field."""
    fields = [field.name for field in dataclasses.fields(left)]
    return type(left)(**{name: getattr(left, name) + getattr(right, name) for name in fields})


def add_by_key(
    keys: tuple[np.ndarray, np.ndarray], *amounts: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Adds two sparse sums, such as histograms by bucket.

    Args:
      keys: Distinct keys of each sum, [m] and [n].
      amounts: Amounts of each sum, row-aligned with its keys, [m, ...] and [n, ...].

    Returns:
      The keys of the sum, ascending, and their amounts, of the type of the first sum's.
    """
    merged, at = np.unique(np.concatenate(keys), return_inverse=True)
    sums = [np.zeros((len(merged), *left.shape[1:]), left.dtype) for left, _ in amounts]
    for own, pair in zip(sums, amounts, strict=True):
        np.add.at(own, at, np.concatenate(pair))
    return merged, *sums
