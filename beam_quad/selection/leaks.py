"""Leaks: documents that contain a test text, found by the long word n-grams that both share.

    covered(d, i) = words of item i in an n-gram shared with document d / words of item i

A document leaks an item if it covers more than a threshold share of it. The share counts words, not n-grams: a changed
word costs one word instead of the n n-grams around it. Case, punctuation and white space are ignored.

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
from beam_quad.columns import places_in_runs, run_lengths, run_starts

Array = np.ndarray[Any, np.dtype[Any]]
# A shorter item is a common phrase, which unrelated documents contain too.
FEWEST_WORDS = 8
# Defaults: words per n-gram, and the largest share of an item a document may contain.
NUM_WORDS, THRESHOLD = 13, 0.5
_SHORT_NGRAM = 5
# An n-gram shared by more items is a template, such as a prompt.
_MOST_ITEMS = 32
# In UTF-8: non-ASCII punctuation; and characters of scripts without spaces, each counted as a word.
_PUNCTUATION = re.compile(
    rb"\xc2[\xa0-\xbf]|\xe2[\x80\x81].|\xe3\x80[\x80-\x83\x88-\xbf]", re.DOTALL
)
_CHARACTER = re.compile(rb"[\xe3-\xed]..", re.DOTALL)
_BYTES = bytes(
    byte if byte >= 128 or chr(byte).isalnum() else ord(" ") for byte in bytes(range(256)).lower()
)
# The base is odd, so its powers have inverses modulo 2**64.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_BETWEEN = b"\x00"
_SHOWN_WORDS = 60
# Texts are searched in batches of at most this many characters, large enough to hide the overhead of NumPy calls.
_MOST_CHARACTERS = 1 << 20


class Leak(NamedTuple):
    """An item that a document leaks.

    Attributes:
      item: Number of the item.
      share: Share of the item's words covered by the document, in (0, 1].
      matched: The longest passage in both, as words.
    """

    item: int
    share: float
    matched: str


class Words:
    """The words of texts in one row, and hashes of their n-grams.

    Args:
      texts: The texts. A word found in no text separates them, so no n-gram of an item spans two texts.

    Attributes:
      words: The words.
      ends: End of each text, its separator included, int64 [num_texts].
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
        """Hashes the n-grams of `length` words, uint64 [num_words - length + 1]; empty if there are fewer words."""
        if len(self.words) < length:
            return np.zeros(0, np.uint64)
        # An n-gram's hash is the difference of two prefix hashes, divided by the power of its first byte's position.
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
        """Hashes all prefixes of the words joined by spaces; also returns the start and end of each word, in bytes."""
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
        # NFKC makes full-width letters and ligatures plain. A lone surrogate has no UTF-8 and becomes a question mark.
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
      num_words: Words of each item in one of these n-grams, int64 [num_items]; 0 if the item cannot be found.
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
          texts: Their texts. Of equal texts only the first is indexed; a text of fewer than `FEWEST_WORDS` words is
            not.
          length: Words of the n-grams of a long item, at least `FEWEST_WORDS`; `ngram_words` gives the length for
            shorter items.
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
            own = ngram_words(num_words, length)
            # Without the last n-gram, which contains the separator.
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
        # Counted after templates are dropped, so that a document can cover all of an item.
        by_item = np.lexsort([positions, items])
        found, covered = _covered(items[by_item], positions[by_item], lengths[by_item])
        totals = np.zeros(len(texts), np.int64)
        totals[found] = covered
        return cls(hashes, items, positions, lengths, totals, threshold)

    @property
    def num_unfindable(self) -> int:
        """Number of items no search can find: too short, equal to an earlier item, or only a shared template."""
        return int((self.num_words == 0).sum())

    def find(self, texts: Sequence[str]) -> list[Leak | None]:
        """Finds the item each text covers most, the first of equals; None if no share exceeds the threshold."""
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
        hashes = {length: words.hashes(length) for length in self._lengths}
        if not hashes:
            return found
        shared = [self._shared(words, own) for own in hashes.values()]
        numbers, rows = (np.concatenate(columns) for columns in zip(*shared, strict=True))
        # One pair for each text and each item sharing an n-gram with it. Text, item and position form a single integer
        # key, which sorts faster than three columns.
        num_items = len(self.num_words)
        pairs = numbers * num_items + self.items[rows]
        order = np.argsort(pairs * self._longest + self.positions[rows])
        pairs, rows = pairs[order], rows[order]
        codes, covered = _covered(pairs, self.positions[rows], self.lengths[rows])
        numbers, items = np.divmod(codes, num_items)
        shares = covered / self.num_words[items]
        leaking = np.flatnonzero(shares > self.threshold)
        # Within a text, the largest share comes first; of equal shares, the first item.
        leaking = leaking[np.lexsort([items[leaking], -shares[leaking], numbers[leaking]])]
        for at in leaking[run_starts(numbers[leaking])].tolist():
            # Every n-gram of an item has the same length, so any row of the pair gives it.
            length = int(self.lengths[rows[np.searchsorted(pairs, codes[at])]])
            passage = self._passage(words, hashes[length], length, int(numbers[at]), items[at])
            found[int(numbers[at])] = Leak(int(items[at]), float(shares[at]), passage)
        return found

    def _shared(self, words: Words, hashes: Array) -> tuple[Array, Array]:
        """Finds the items' n-grams in texts: text numbers and rows of this index, each pair once, both int64 [k]."""
        # A look into a table is far cheaper than a binary search, and drops nearly all n-grams.
        at = np.flatnonzero(self._might_hold(hashes))
        first, last = (np.searchsorted(self.hashes, hashes[at], side) for side in ("left", "right"))
        numbers = np.searchsorted(words.ends, at, "right")
        # Tables and dumps repeat the same n-grams, so pairs are made unique before they are expanded.
        codes = np.unique(numbers[last > first] * len(self.hashes) + first[last > first])
        numbers, first = np.divmod(codes, len(self.hashes))
        number = self._ends[first] - first
        within = places_in_runs(np.repeat(np.arange(len(first)), number))
        return np.repeat(numbers, number), np.repeat(first, number) + within

    def _passage(self, words: Words, hashes: Array, length: int, number: int, item: int) -> str:
        """Finds the longest passage common to a text and an item."""
        start = int(words.ends[number - 1]) if number else 0
        own = hashes[start : int(words.ends[number])]
        places = start + np.flatnonzero(np.isin(own, self.hashes[self.items == item]))
        start, end = _longest_passage(places, length)
        return b" ".join(words.words[start : min(end, start + _SHOWN_WORDS)]).decode()

    @functools.cached_property
    def _ends(self) -> Array:
        """End of the run of equal n-grams for each row, int64 [m]."""
        starts = run_starts(self.hashes)
        lengths = run_lengths(starts, len(self.hashes))
        return np.repeat(starts + lengths, lengths)

    @functools.cached_property
    def _longest(self) -> int:
        """A number greater than any position."""
        return int(self.positions.max(initial=0)) + 1

    @functools.cached_property
    def _lengths(self) -> list[int]:
        return [int(length) for length in np.unique(self.lengths)]

    @functools.cached_property
    def _filter(self) -> tuple[Array, np.uint64]:
        """A table of the leading bits of all n-gram hashes, bool [2**bits], and the shift that extracts them."""
        # At least 32 times as many cells as n-grams, so few foreign n-grams pass; at most 256 MB.
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
        """Reads the output of `to_bytes`."""
        found = archives.parse(raw)
        return cls(**found | {"threshold": float(found["threshold"])})


def ngram_words(num_words: int, most: int) -> int:
    """Decides the n-gram length used to search for an item.

    In a short item, a few changed words leave no long n-gram intact, so it gets short n-grams. In a very short item, a
    common phrase may be half of the text, so its n-grams are longer again.

    Args:
      num_words: Words of the item, at least `FEWEST_WORDS`.
      most: Words of the n-grams of a long item.
    """
    if num_words >= 8 * most:
        return most
    return _SHORT_NGRAM if 2 * FEWEST_WORDS <= num_words < 5 * FEWEST_WORDS else FEWEST_WORDS


def _is_form(hashes: Array, items: Array) -> Array:
    """Tells which n-grams, sorted by hash and item, occur in too many items, bool [m]."""
    starts = run_starts(hashes)
    is_new = np.zeros(len(hashes), np.int64)
    is_new[run_starts(hashes, items)] = 1
    if not len(starts):
        return np.zeros(0, bool)
    counts = np.add.reduceat(is_new, starts)
    return np.repeat(counts > _MOST_ITEMS, run_lengths(starts, len(hashes)))


def _covered(items: Array, positions: Array, lengths: Array) -> tuple[Array, Array]:
    """Counts the words of each item covered by its n-grams.

    Args:
      items: Item of each n-gram, ascending, int64 [m].
      positions: Its first word, ascending within an item, int64 [m].
      lengths: Its words, int64 [m].

    Returns:
      The items, ascending, int64 [k], and the number of covered words of each, int64 [k].
    """
    ends, starts = positions + lengths, run_starts(items)
    # All n-grams of an item have the same length, so ends ascend with starts and each n-gram adds the words past the
    # end of the one before it.
    before = np.zeros(len(items), np.int64)
    before[1:] = ends[:-1]
    before[starts] = 0
    new = ends - np.maximum(positions, before)
    covered = np.add.reduceat(new, starts) if len(starts) else new
    return items[starts], covered


def _longest_passage(places: Array, length: int) -> tuple[int, int]:
    """Finds the longest run of consecutive n-grams of a document: its first word, and the word after its last."""
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


# Two threads may compute the same powers; either result serves both.
_known: dict[int, Array] = {}
