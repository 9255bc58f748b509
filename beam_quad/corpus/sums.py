"""What was read of a corpus, as a sum over its splits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from beam_quad.additive import Tally, add_fields
from beam_quad.corpus.json_types import Shapes


@dataclasses.dataclass(frozen=True)
class ReadSums:
    """What was read. An additive statistic.

    Duplicates by id and texts without an embedding are counted as usable: they are known only after the splits were read, or
    depend on what embeds them.

    Attributes:
      read: Rows.
      usable: Rows that can be used.
      tokens: Their tokens.
      reserve: How many of them have their text set aside.
      reserve_tokens: Tokens of those.
      rejected: Rows that cannot be used, by reason.
      lengths: Examples of 2**b to 2**(b + 1) - 1 tokens, by b.
      length_tokens: Their tokens, by b.
      unusable: Rows of splits of which no row can be used, by shard.
      bad_files: Splits that could not be read, by shard.
      without_embedding: Usable texts to which the embedder gave no vector, by the name of the split's artifacts.
      shapes: What the rows of JSON Lines look like.
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
        """Turns it into what `json.dumps` takes, the same for equal sums in any order."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: _as_json(value) for name, value in own.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ReadSums":
        """Reads what `as_json` gave."""
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
