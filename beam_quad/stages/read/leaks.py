"""What a selection must not hold: the texts that a model is to be tested on, and those of the query set."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np

from beam_quad import identity, seeding
from beam_quad.artifacts import files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json
from beam_quad.selection.leaks import LeakIndex
from beam_quad.selection.paraphrases import MOST_ITEMS

_SHOWN_CHARACTERS = 400
# Beyond what encoders read.
_COMPARED_CHARACTERS = 4000


@dataclasses.dataclass(frozen=True)
class Item:
    """A text that no selected document may hold.

    Attributes:
      set: Where it is from, as a person names it: a flag or a file.
      name: Its file and row.
      text: The text.
    """

    set: str
    name: str
    text: str


class FoundLeak(NamedTuple):
    """What a document gives away, for people.

    Attributes:
      set: The set of the item.
      item: Its name.
      item_text: Its beginning.
      share: Share of its words that the document has, in (0, 1].
      matched: The longest passage that both have, as words.
    """

    set: str
    item: str
    item_text: str
    share: float
    matched: str

    def detail(self) -> str:
        """Says it in a line."""
        return f"{self.share:.0%} of {self.item}: {self.matched!r}"


@dataclasses.dataclass(frozen=True)
class Leaks:
    """Items that no selected document may hold, by reference: in files that are named by their content.

    Args:
      root: The folder of all artifacts.
      digest: Hash of the items and of how they are looked for.
    """

    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    digest: str

    @property
    def folder(self) -> str:
        """Where they are stored."""
        return files.join(self.root, "leaks", self.digest)

    @property
    def index_path(self) -> str:
        """The file of their n-grams."""
        return files.join(self.folder, "index.npz")

    @property
    def items_path(self) -> str:
        """The file of their names and beginnings."""
        return files.join(self.folder, "items.json")

    @property
    def compared_path(self) -> str:
        """The file of those that documents are compared with."""
        return files.join(self.folder, "compared.json")

    @once_per_process
    def compared(self) -> dict[int, str]:
        """Loads the items that embeddings are compared with: their texts by number, once per process."""
        found: list[tuple[int, str]] = read_json(self.compared_path)["items"]
        return dict(found)

    @once_per_process
    def index(self) -> LeakIndex:
        """Loads their n-grams, once per process."""
        return LeakIndex.from_bytes(files.read_bytes(self.index_path))

    @once_per_process
    def items(self) -> list[tuple[str, str, str]]:
        """Loads set, name and beginning of each, once per process."""
        found: list[list[str]] = read_json(self.items_path)["items"]
        return [(own[0], own[1], own[2]) for own in found]


def listed(
    root: str, items: Sequence[Item], length: int, threshold: float
) -> tuple[Leaks, LeakIndex, dict[str, bytes]]:
    """Names items by their content.

    Args:
      root: The folder of all artifacts.
      items: The items.
      length: Words of an n-gram.
      threshold: A document leaks an item if it covers more than this share of it.

    Returns:
      The items by reference, their index, and what is to be written before they are used, by path.
    """
    index = LeakIndex.of([item.text for item in items], length, threshold)
    raw = index.to_bytes()
    shown = [[item.set, item.name, item.text[:_SHOWN_CHARACTERS]] for item in items]
    named = json.dumps({"items": shown}).encode()
    compared = json.dumps({"items": _compared(items, index)}).encode()
    digest = hashlib.blake2b(raw + named + compared, digest_size=10).hexdigest()
    leaks = Leaks(root, digest)
    written = {leaks.index_path: raw, leaks.items_path: named, leaks.compared_path: compared}
    return leaks, index, written


def _compared(items: Sequence[Item], index: LeakIndex) -> list[tuple[int, str]]:
    """Numbers and texts of the items that are found, or of as many as are compared, drawn by hash."""
    numbers = np.flatnonzero(index.num_words)
    keys = seeding.keys([items[number].text for number in numbers.tolist()])
    drawn = np.sort(numbers[np.argsort(keys, kind="stable")[:MOST_ITEMS]])
    return [(number, items[number].text[:_COMPARED_CHARACTERS]) for number in drawn.tolist()]
