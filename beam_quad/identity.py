"""The identity of a value: a stable form for the names of artifacts, independent of places of storage.

An artifact is named by the stage that makes it. Every field of the stage counts, unless a mark excludes it and gives
the reason. A forgotten field therefore changes the name needlessly; it never finds the files of another value.
"""

import dataclasses
import enum
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from beam_quad import seeding


@dataclasses.dataclass(frozen=True)
class NotCounted:
    """Excludes a dataclass field from the identity: `Annotated[str, NotCounted("where artifacts are stored")]`.

    Attributes:
      why: The reason: the field is a place, affects only speed, or follows from other fields.
    """

    why: str


@dataclasses.dataclass(frozen=True)
class CountedAs:
    """Marks a dataclass field that counts only in part.

    Attributes:
      form: Returns the part that counts.
      why: The reason why the rest does not count.
    """

    form: Callable[[Any], object]
    why: str


@runtime_checkable
class Identified(Protocol):
    """A value with its own identity."""

    def identity(self) -> object:
        """Returns the form of the value: strings, numbers, None, and lists of these."""


def mark_of(field: "dataclasses.Field[Any]") -> NotCounted | CountedAs | None:
    """Returns the mark of a field; None if it counts as it is."""
    marks = getattr(field.type, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, NotCounted | CountedAs)), None)


def digest(*values: object) -> str:
    """Hashes the stable forms of values to 32 hexadecimal digits.

    Raises:
      TypeError: If a value has none.
    """
    return seeding.digest(json.dumps(form(values), sort_keys=True))


def form(value: object) -> object:
    """Returns a value as strings, numbers, None and lists; equal values have equal forms in any process.

    The form of a dataclass is its name, its `version` and its fields.

    Raises:
      TypeError: If the value or a part of it has no such form; the message names the field.
    """
    if isinstance(value, enum.Enum):
        return [type(value).__qualname__, value.name]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # Before dataclasses: a stage is a dataclass, and its digest stands for all its fields.
    if isinstance(value, Identified):
        return value.identity()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        version = getattr(value, "version", 1)
        return [type(value).__qualname__, version, fields_form(value)]
    if isinstance(value, tuple | list):
        return [form(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return [[key, form(value[key])] for key in sorted(value)]
    raise TypeError(f"{value!r} of type {type(value).__name__} has no stable form")


def fields_form(value: Any) -> list[list[object]]:
    """Returns the name and the stable form of each field of a dataclass that counts.

    Raises:
      TypeError: If a field has no stable form; the message names it.
    """
    forms: list[list[object]] = []
    for field in dataclasses.fields(value):
        mark = mark_of(field)
        if isinstance(mark, NotCounted):
            continue
        part = getattr(value, field.name)
        if isinstance(mark, CountedAs):
            part = mark.form(part)
        try:
            forms.append([field.name, form(part)])
        except TypeError as error:
            raise TypeError(f"{type(value).__name__}.{field.name}: {error}") from error
    return forms


def device_kind(device: str) -> str:
    """Returns the kind of a torch device, such as "cuda" for "cuda:1"."""
    return device.split(":")[0]
