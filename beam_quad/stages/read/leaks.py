"""Protected texts, which a selection must not contain: test texts, and the texts of the query set."""

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
# Beyond the input length of the encoders.
_COMPARED_CHARACTERS = 4000


@dataclasses.dataclass(frozen=True)
class Item:
    """A protected text: no selected document may contain it.

    Attributes:
      set: Its source, as the user names it: a flag or a file.
      name: Its file and row.
      text: The text.
    """

    set: str
    name: str
    text: str


class FoundLeak(NamedTuple):
    """A leak of a document, for messages and reports.

    Attributes:
      set: The set of the item.
      item: Name of the item.
      item_text: Beginning of the item's text.
      share: Share of the item's words found in the document, in (0, 1].
      matched: The longest passage in both, as words.
    """

    set: str
    item: str
    item_text: str
    share: float
    matched: str

    def detail(self) -> str:
        """Describes the leak in one line."""
        return f"{self.share:.0%} of {self.item}: {self.matched!r}"


@dataclasses.dataclass(frozen=True)
class Leaks:
    """The protected texts, by reference, in files named by content.

    Args:
      root: The folder of all artifacts.
      digest: Hash of the items and of the parameters of the search.
    """

    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    digest: str

    @property
    def folder(self) -> str:
        """Folder of the items."""
        return files.join(self.root, "leaks", self.digest)

    @property
    def index_path(self) -> str:
        """File of the n-grams of the items."""
        return files.join(self.folder, "index.npz")

    @property
    def items_path(self) -> str:
        """File of the names and beginnings of the items."""
        return files.join(self.folder, "items.json")

    @property
    def compared_path(self) -> str:
        """File of the items whose embeddings are compared with documents."""
        return files.join(self.folder, "compared.json")

    @once_per_process
    def compared(self) -> dict[int, str]:
        """Loads the texts of the compared items, by number, once per process."""
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
      The items by reference, their index, and the files to write before use, by path.
    """
    index = LeakIndex.of([item.text for item in items], length, threshold)
    raw = index.to_bytes()
    shown = [[item.set, item.name, item.text[:_SHOWN_CHARACTERS]] for item in items]
    named = json.dumps({"items": shown}).encode()
    compared = json.dumps({"items": _compared(items, index)}).encode()
    # Of all three files, so a folder of this name always holds the same bytes.
    digest = hashlib.blake2b(raw + named + compared, digest_size=10).hexdigest()
    leaks = Leaks(root, digest)
    written = {leaks.index_path: raw, leaks.items_path: named, leaks.compared_path: compared}
    return leaks, index, written


def _compared(items: Sequence[Item], index: LeakIndex) -> list[tuple[int, str]]:
    """Numbers and texts of the items that can be found, at most `MOST_ITEMS`, drawn by hash."""
    numbers = np.flatnonzero(index.num_words)
    # By hash of the text, so the draw does not depend on the order in which the sets are named.
    keys = seeding.keys([items[number].text for number in numbers.tolist()])
    drawn = np.sort(numbers[np.argsort(keys, kind="stable")[:MOST_ITEMS]])
    return [(number, items[number].text[:_COMPARED_CHARACTERS]) for number in drawn.tolist()]
