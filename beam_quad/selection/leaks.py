"""Leaks: documents that hold a text which a model is to be tested on, found by the long n-grams of words that they share.

    covered(d, i) = words of item i that are in an n-gram which document d has too, over all its words

A document leaks an item if it covers more than a threshold of it. Counting words and not n-grams, a changed word costs the
item that word, and not the n n-grams that hold it. Case, punctuation and white space do not count.

References:
  Brown et al., Language Models are Few-Shot Learners, 2020, appendix C (n-grams of 13 words).
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from beam_quad import archives
from beam_quad.answers import plain
from beam_quad.columns import places_in_runs, run_bounds, run_lengths, run_starts

Array = np.ndarray[Any, np.dtype[Any]]
# A shorter item is a phrase that anybody writes.
FEWEST_WORDS = 8
# By default: words of an n-gram, and the share of an item that a document may hold.
NUM_WORDS, THRESHOLD = 13, 0.5
# An n-gram of more items is a form that they are put in, such as a prompt.
_MOST_ITEMS = 32
# In UTF-8: punctuation beyond ASCII; and characters of scripts that put no space between words, each a word of its own.
_PUNCTUATION = re.compile(
    rb"\xc2[\xa0-\xbf]|\xe2[\x80\x81].|\xe3\x80[\x80-\x83\x88-\xbf]", re.DOTALL
)
_CHARACTER = re.compile(rb"[\xe3-\xed]..", re.DOTALL)
_BYTES = bytes(
    byte if byte >= 128 or chr(byte).isalnum() else ord(" ") for byte in bytes(range(256)).lower()
)
# An odd number: powers of it have inverses modulo 2**64.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_BETWEEN = b"\x00"
_SHOWN_WORDS = 60
# Texts are looked at together while they have no more characters than this: so many that NumPy's calls cost nothing.
_MOST_CHARACTERS = 1 << 20


class Leak(NamedTuple):
    """What a document gives away.

    Attributes:
      item: Number of the item.
      share: Share of its words that the document covers, in (0, 1].
      matched: The longest passage that both have, as words.
    """

    item: int
    share: float
    matched: str


class Words:
    """The words of texts in one row, and hashes of their n-grams.

    Args:
      texts: The texts. Between two of them is a word that no text has, so that no n-gram of an item spans them.

    Attributes:
      words: The words.
      ends: Where each text ends, the word between included, int64 [num_texts].
    """

    def __init__(self, *texts: str) -> None:
        self.words: list[bytes] = []
        ends = []
        for text in texts:
            self.words += _words(plain(text))
            self.words.append(_BETWEEN)
            ends.append(len(self.words))
        self.ends = np.array(ends, np.int64)

    def hashes(self, length: int) -> Array:
        """Hashes the n-grams of so many words, uint64 [num_words - length + 1]; none of a shorter text."""
        if len(self.words) < length:
            return np.zeros(0, np.uint64)
        prefixes, starts, ends = self._prefixes
        num = len(self.words) - length + 1
        found = (prefixes[ends[length - 1 :]] - prefixes[starts[:num]]) * _powers(
            _INVERSE, len(prefixes)
        )[starts[:num]]
        # The low bits of a polynomial depend on the low bits of its characters alone.
        found ^= found >> np.uint64(29)
        found *= np.uint64(0xBF58476D1CE4E5B9)
        found ^= found >> np.uint64(32)
        return found + np.uint64(length)

    @functools.cached_property
    def _prefixes(self) -> tuple[Array, Array, Array]:
        """Hashes of all prefixes of the words, joined by spaces; and where each word begins and ends in it, in bytes."""
        joined = np.frombuffer(b" ".join(self.words), np.uint8)
        spaces = np.flatnonzero(joined == ord(" "))
        prefixes = np.zeros(len(joined) + 1, np.uint64)
        terms = joined.astype(np.uint64) * _powers(_BASE, len(joined))[: len(joined)]
        np.cumsum(terms, out=prefixes[1:])
        return prefixes, np.append(0, spaces + 1), np.append(spaces, len(joined))


def _words(text: str) -> list[bytes]:
    if text.isascii():
        raw = text.encode()
    else:
        raw = unicodedata.normalize("NFKC", text).lower().encode(errors="replace")
        raw = _CHARACTER.sub(rb" \g<0> ", _PUNCTUATION.sub(b" ", raw))
    return raw.translate(_BYTES).split()


@dataclasses.dataclass(frozen=True, eq=False)
class LeakIndex:
    """The n-grams of a set of items.

    Attributes:
      hashes: Hash of each n-gram of each item, ascending, uint64 [m].
      items: Its item, int64 [m].
      positions: Its first word in the item, int64 [m].
      lengths: Its words, int64 [m]: as many as asked for, or fewer of a short item.
      num_words: Words of each item that are in one of these n-grams, int64 [num_items]; 0 if it cannot be found.
      threshold: A document leaks an item if it covers more than this share of it, in [0, 1).
    """

    hashes: Array
    items: Array
    positions: Array
    lengths: Array
    num_words: Array
    threshold: float

    @classmethod
    def of(cls, texts: Sequence[str], length: int, threshold: float) -> "LeakIndex":
        """Indexes items.

        Args:
          texts: Their texts. Of equal ones the first is found; what has fewer than `FEWEST_WORDS` words is not.
          length: Words of an n-gram, at least `FEWEST_WORDS`, which are those of an item of fewer words than four of them.
          threshold: As the attribute.
        """
        columns: list[tuple[Array, Array, Array, Array]] = []
        known: set[bytes] = set()
        for number, text in enumerate(texts):
            words = Words(text)
            joined, num_words = b" ".join(words.words), len(words.words) - 1
            if num_words < FEWEST_WORDS or joined in known:
                continue
            known.add(joined)
            # Of a short item one changed word may leave no long n-gram on either side of it.
            own = length if num_words >= 4 * length else FEWEST_WORDS
            hashes = words.hashes(own)[: num_words - own + 1]
            columns.append(
                (
                    hashes,
                    np.full(len(hashes), number),
                    np.arange(len(hashes)),
                    np.full(len(hashes), own),
                )
            )
        none = (np.zeros(0, np.uint64), *[np.zeros(0, np.int64)] * 3)
        hashes, items, positions, lengths = map(np.concatenate, zip(none, *columns, strict=True))
        order = np.lexsort([positions, items, hashes])
        hashes, items, positions, lengths = (c[order] for c in (hashes, items, positions, lengths))
        kept = ~_is_form(hashes, items)
        hashes, items, positions, lengths = (c[kept] for c in (hashes, items, positions, lengths))
        found, covered = _covered(items, positions, lengths)
        totals = np.zeros(len(texts), np.int64)
        totals[found] = covered
        return cls(hashes, items, positions, lengths, totals, threshold)

    @property
    def num_unfindable(self) -> int:
        """Items that no document can be found to leak: too short, equal to an earlier one, or a form of many."""
        return int((self.num_words == 0).sum())

    def find(self, texts: Sequence[str]) -> list[Leak | None]:
        """Finds of each text the item that it covers most of, the first of equals; None if it covers too little of any."""
        found: list[Leak | None] = []
        run: list[str] = []
        size = 0
        for text in texts:
            if run and size + len(text) > _MOST_CHARACTERS:
                found += self._find(run)
                run, size = [], 0
            run.append(text)
            size += len(text)
        return found + self._find(run)

    def _find(self, texts: Sequence[str]) -> list[Leak | None]:
        words = Words(*texts)
        found: list[Leak | None] = [None] * len(texts)
        # Places in the texts, and the rows of n-grams that stand there.
        shared = [self._shared(words.hashes(length)) for length in self._lengths]
        if not shared:
            return found
        places, rows = (np.concatenate(columns) for columns in zip(*shared, strict=True))
        numbers = np.searchsorted(words.ends, places, "right")
        order = np.argsort(numbers, kind="stable")
        for start, end in run_bounds(numbers[order]):
            own = order[start:end]
            found[numbers[own[0]]] = self._best(words, places[own], rows[own])
        return found

    def _shared(self, hashes: Array) -> tuple[Array, Array]:
        """Finds n-grams of the items: places among the hashes, and rows here, both int64 [k]."""
        at = np.flatnonzero(self._might_hold(hashes))
        first, last = (np.searchsorted(self.hashes, hashes[at], side) for side in ("left", "right"))
        number = last - first
        within = places_in_runs(np.repeat(np.arange(len(at)), number))
        return np.repeat(at, number), np.repeat(first, number) + within

    def _best(self, words: Words, places: Array, rows: Array) -> Leak | None:
        """Finds what a text covers most of, by the n-grams that it shares with items."""
        items, lengths = self.items[rows], self.lengths[rows]
        found, covered = _covered(items, self.positions[rows], lengths)
        shares = covered / self.num_words[found]
        best = int(np.argmax(shares))
        if shares[best] <= self.threshold:
            return None
        own = items == found[best]
        start, end = _longest_passage(places[own], int(lengths[own][0]))
        shown = words.words[start : min(end, start + _SHOWN_WORDS)]
        return Leak(int(found[best]), float(shares[best]), b" ".join(shown).decode())

    @functools.cached_property
    def _lengths(self) -> list[int]:
        return [int(length) for length in np.unique(self.lengths)]

    @functools.cached_property
    def _filter(self) -> tuple[Array, np.uint64]:
        """Whether any n-gram's hash begins with these bits, bool [2**bits], and how far to shift for them."""
        bits = min(28, max(10, len(self.hashes).bit_length() + 5))
        shift = np.uint64(64 - bits)
        is_there = np.zeros(1 << bits, bool)
        is_there[self.hashes >> shift] = True
        return is_there, shift

    def _might_hold(self, hashes: Array) -> Array:
        is_there, shift = self._filter
        return np.asarray(is_there[hashes >> shift])

    def to_bytes(self) -> bytes:
        """Writes the index, the same bytes for equal ones."""
        return archives.dump(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    @classmethod
    def from_bytes(cls, raw: bytes) -> "LeakIndex":
        """Reads what `to_bytes` wrote."""
        found = archives.parse(raw)
        return cls(**found | {"threshold": float(found["threshold"])})


def _is_form(hashes: Array, items: Array) -> Array:
    """Which n-grams, sorted by hash and item, are in too many items, bool [m]."""
    starts = run_starts(hashes)
    is_new = np.zeros(len(hashes), np.int64)
    is_new[run_starts(hashes, items)] = 1
    if not len(starts):
        return np.zeros(0, bool)
    counts = np.add.reduceat(is_new, starts)
    return np.repeat(counts > _MOST_ITEMS, run_lengths(starts, len(hashes)))


def _covered(items: Array, positions: Array, lengths: Array) -> tuple[Array, Array]:
    """Counts the words of each item that are in one of some n-grams.

    Args:
      items: Item of each n-gram, int64 [m].
      positions: Its first word, int64 [m].
      lengths: Its words, int64 [m].

    Returns:
      The items, ascending, int64 [k], and how many of their words are covered, int64 [k].
    """
    order = np.lexsort([positions, items])
    items, positions, ends = items[order], positions[order], (positions + lengths)[order]
    starts = run_starts(items)
    # N-grams of an item are of one length, so that ends ascend with beginnings: each covers what is beyond the one before.
    before = np.zeros(len(items), np.int64)
    before[1:] = ends[:-1]
    before[starts] = 0
    new = ends - np.maximum(positions, before)
    covered = np.add.reduceat(new, starts) if len(starts) else new
    return items[starts], covered


def _longest_passage(places: Array, length: int) -> tuple[int, int]:
    """Finds the longest run of consecutive n-grams of a document: its first word, and the one behind its last."""
    places = np.unique(places)
    groups = np.flatnonzero(np.diff(places) > 1)
    firsts = places[np.append(0, groups + 1)]
    lasts = places[np.append(groups, len(places) - 1)]
    best = int(np.argmax(lasts - firsts))
    return int(firsts[best]), int(lasts[best]) + length


def _powers(base: int, number: int) -> Array:
    """The first powers of a number modulo 2**64, uint64 [at least `number`]."""
    found = _known.get(base)
    if found is None or len(found) < number:
        with np.errstate(over="ignore"):
            factors = np.full(
                max(number, 1 << 16, 2 * len(found) if found is not None else 0), base, np.uint64
            )
            factors[0] = 1
            found = _known[base] = np.cumprod(factors)
    return found


_known: dict[int, Array] = {}
