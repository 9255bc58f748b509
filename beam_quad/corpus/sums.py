"""Counts of the rows of a corpus, as a sum over its splits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from beam_quad.additive import Tally, add_fields
from beam_quad.corpus.json_types import Shapes


@dataclasses.dataclass(frozen=True)
class ReadSums:
    """Counts of the rows read. An additive statistic.

    Rows with duplicate ids and texts without an embedding count as usable, because the former are known only after all splits
    are read, and the latter depend on the embedder.

    Attributes:
      read: Rows read.
      usable: Usable rows.
      tokens: Tokens of the usable rows.
      reserve: Usable rows whose text is set aside.
      reserve_tokens: Tokens of the texts set aside.
      rejected: Unusable rows, by reason.
      lengths: Number of examples with 2**b to 2**(b + 1) - 1 tokens, by b.
      length_tokens: Tokens of those examples, by b.
      unusable: Rows of splits without a usable row, by shard.
      bad_files: Unreadable splits, by shard.
      without_embedding: Usable texts without a vector from the embedder, by the name of the split's artifacts.
      shapes: Shapes of the JSON Lines rows.
    """

    read: int = 0
    usable: int = 0
    tokens: int = 0
    reserve: int = 0
    reserve_tokens: int = 0
    rejected: Tally = dataclasses.field(default_factory=Tally)
    lengths: Tally = dataclasses.field(default_factory=Tally)
    length_tokens: Tally = dataclasses.field(default_factory=Tally)
    unusable: Tally = dataclasses.field(default_factory=Tally)
    bad_files: Tally = dataclasses.field(default_factory=Tally)
    without_embedding: Tally = dataclasses.field(default_factory=Tally)
    shapes: Shapes = dataclasses.field(default_factory=Shapes)

    def __add__(self, other: "ReadSums") -> "ReadSums":
        return add_fields(self, other)

    def as_json(self) -> dict[str, Any]:
        """Converts the counts for `json.dumps`; equal sums in any order give equal output."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: _as_json(value) for name, value in own.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ReadSums":
        """Reads the output of `as_json`."""
        fields: dict[str, Any] = {
            name: Tally(value) if isinstance(value, dict) else value
            for name, value in stored.items()
            if name != "shapes"
        }
        return cls(**fields, shapes=Shapes.from_json(stored["shapes"]))


def _as_json(value: int | Tally | Shapes) -> Any:
    if isinstance(value, Tally):
        return dict(sorted(value.counts.items()))
    return value.as_json() if isinstance(value, Shapes) else value
