"""Near-duplicates: of documents sharing most word pairs, the highest-ranked one stays.

A document is the set of its shingles, runs of `SHINGLE_WORDS` words without case, punctuation and white space. Two
documents are near-duplicates if the Jaccard similarity of their sets reaches a threshold. The similarity is estimated
from `NUM_HASHES` minima of hashes (MinHash), and only for pairs with an equal band of minima (locality-sensitive
hashing). Copies with other case, punctuation or white space have equal minima, and are always found.

With word pairs, a document with one word in ten replaced keeps a similarity of about .68, with one in seven .6; two
unrelated documents rarely reach .3.

Near-duplicates of near-duplicates form one family, and one document of a family stays: two copies of a text, edited in
different places, are each similar to the text but less so to each other.

References:
  Broder, On the Resemblance and Containment of Documents, 1997 (shingles, minima).
  Indyk & Motwani, Approximate Nearest Neighbors, 1998 (bands).
  Dahlgaard, Knudsen & Thorup, Fast Similarity Sketching, 2017 (the minima, as `rensa` makes them).
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rensa

from beam_quad import seeding
from beam_quad.columns import places_in_runs, run_lengths, run_starts
from beam_quad.selection.ranking import amounts_of, is_reached, search_budget

Array = np.ndarray[Any, np.dtype[Any]]

SHINGLE_WORDS = 2
NUM_HASHES = 128
SIGNATURE_DTYPE = np.dtype("<u2")
THRESHOLD = 0.6
# Only documents within reach of this many budgets are compared, found by a search of this many levels. If the remaining
# ones do not fill a budget, all documents are compared.
COMPARED_BUDGETS = 4
COMPARED_LEVELS = 2
# Version of the signatures; signatures of different versions cannot be compared.
SIGNATURE_VERSION = (1, int(rensa.RMinHash.ALGORITHM_VERSION))

_SEED = 1
# Scripts without spaces: each sign counts as a word.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")
# The lowest probability of comparing a pair exactly at the threshold.
_LEAST_RECALL = 0.95
# A document is compared with this many documents just above it in its bucket, and with the first one. In larger
# buckets, all are near-duplicates of near-duplicates, or are found in other buckets.
_COMPARED = 16
_PAIRS_PER_STEP = 1 << 16
# Sums of more links are reduced: a text with a million copies has a link per copy in every bucket.
_MOST_LINKS = 1 << 22


def sign(texts: Sequence[str]) -> Array:
    """Makes the signatures of texts: 16 bits of each minimum of the hashes of their shingles.

    If a text has fewer words than a shingle, its words are its only shingle; if it has no words, the whole text is.

    Returns:
      uint16 [num_texts, NUM_HASHES].
    """
    words = [_WORD.findall(folded) or [folded] for folded in (text.casefold() for text in texts)]
    if not words:
        return np.zeros((0, NUM_HASHES), SIGNATURE_DTYPE)
    counts = np.array([len(own) for own in words])
    hashed = rensa.RMinHash.hash_token_sets(words)
    hashes = np.fromiter(itertools.chain.from_iterable(hashed), np.uint64, int(counts.sum()))
    shingles, offsets = _shingles(hashes, counts)
    minima = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        shingles, offsets, NUM_HASHES, _SEED
    )
    # Minima are not uniform, so they are hashed before 16 of their bits are kept.
    mixed = seeding.mix(_SEED, "signature", np.array(minima.to_rows(), np.uint64))
    return (mixed >> np.uint64(48)).astype(SIGNATURE_DTYPE)


def _shingles(hashes: Array, counts: Array) -> tuple[Array, Array]:
    """Hashes runs of words within each text: uint64 [m], and the bounds of the texts, uint64 [n + 1]."""
    mixed = seeding.mix(_SEED, "word", hashes)
    ends = np.cumsum(counts)
    starts = ends - counts
    width = np.minimum(counts, SHINGLE_WORDS)
    texts = np.repeat(np.arange(len(counts)), counts - width + 1)
    offsets = np.concatenate([[0], np.cumsum(counts - width + 1)])
    first = np.arange(len(texts)) - offsets[texts] + starts[texts]
    shingles = np.zeros(len(texts), np.uint64)
    for place in range(SHINGLE_WORDS):
        has = place < width[texts]
        words = mixed[np.where(has, first + place, 0)]
        # Mixed before each word, so the order of the words counts.
        shingles = np.where(has, seeding.mix(_SEED, "shingle", shingles) ^ words, shingles)
    return shingles, offsets.astype(np.uint64)


def similarities(left: Array, right: Array) -> Array:
    """Estimates the Jaccard similarity of pairs from their signatures, [n, NUM_HASHES] each: float64 [n]."""
    return np.asarray((left == right).mean(axis=1))


def band_rows(threshold: float) -> int:
    """Decides how many minima make a band: the most that give a pair at the threshold a chance of .95 to share one.

    Raises:
      ValueError: If the threshold does not lie in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold must lie in (0, 1], got {threshold}")
    recalls = (
        (rows, 1 - (1 - threshold**rows) ** (NUM_HASHES // rows)) for rows in range(16, 1, -1)
    )
    return next((rows for rows, recall in recalls if recall >= _LEAST_RECALL), 1)


def bands(signatures: Array, threshold: float) -> Array:
    """Hashes the bands of signatures; documents that share a hash are candidates.

    Args:
      signatures: uint16 [n, NUM_HASHES].
      threshold: In (0, 1].

    Returns:
      uint64 [n, num_bands].
    """
    rows = band_rows(threshold)
    num_bands = NUM_HASHES // rows
    wide = signatures[:, : num_bands * rows].astype(np.uint64).reshape(-1, num_bands, rows)
    hashes = np.broadcast_to(np.arange(num_bands, dtype=np.uint64), wide.shape[:2])
    for row in range(rows):
        hashes = seeding.mix(_SEED, "band", hashes) ^ wide[:, :, row]
    return seeding.mix(_SEED, "bucket", hashes)


def link_equal(hashes: Array, rows: Array) -> tuple[Array, Array]:
    """Links each row to the first one in its bucket, in the order given.

    Args:
      hashes: Buckets, uint64 [m].
      rows: Numbers of rows, integer [m].

    Returns:
      The first rows and the rows linked to them, both [k]; no row is linked to itself.
    """
    order = np.argsort(hashes, kind="stable")
    hashes, rows = hashes[order], rows[order]
    if not len(rows):
        return rows, rows
    starts = run_starts(hashes)
    first = np.repeat(rows[starts], run_lengths(starts, len(rows)))
    is_link = first != rows
    return first[is_link], rows[is_link]


def components(left: Array, right: Array) -> tuple[Array, Array]:
    """Finds the connected components of links.

    Args:
      left: Numbers of rows, integer [m].
      right: The row each is linked to, integer [m].

    Returns:
      The rows that have links, ascending, [k], and the number of the component of each, int64 [k].
    """
    # Imported here because SciPy is slow to import, and a launcher never calls this.
    from scipy.sparse import coo_array, csgraph

    rows, at = np.unique(np.concatenate([left, right]), return_inverse=True)
    ends = at[: len(left)], at[len(left) :]
    graph = coo_array((np.ones(len(left), bool), ends), shape=(len(rows), len(rows)))
    _, labels = csgraph.connected_components(graph, directed=False)
    return rows, labels.astype(np.int64)


def find_twins(
    signatures: Array, priorities: Array, is_held: Array, threshold: float = THRESHOLD
) -> Array:
    """Finds, for each document, the member of its family that stays.

    Args:
      signatures: uint16 [n, NUM_HASHES].
      priorities: The highest of a family stays, of equal ones the first; uint64 [n].
      is_held: Documents that always stay, before all others, bool [n].
      threshold: Similarity of near-duplicates, in (0, 1].

    Returns:
      Position of the family member that stays, for each document, int64 [n]; its own position if the document itself
      stays.
    """
    # The last key is the first: held documents, then higher priorities. The sort is stable, so equals stay in order.
    order = np.lexsort([~priorities, ~is_held])
    ranked = np.ascontiguousarray(signatures[order], SIGNATURE_DTYPE)
    # Exact copies are common and need no comparison.
    raw = ranked.view(np.dtype((np.void, ranked.itemsize * NUM_HASHES)))[:, 0]
    _, first, same = np.unique(raw, return_index=True, return_inverse=True)
    original, first = first[same], np.sort(first)
    distinct = ranked[first]
    pairs = [
        first[own[similarities(distinct[own[:, 0]], distinct[own[:, 1]]) >= threshold]]
        for own in _candidates(bands(distinct, threshold))
    ]
    copies = np.flatnonzero(original != np.arange(len(order)))
    pairs.append(np.stack([original[copies], copies], axis=1))
    left, right = np.concatenate(pairs).T
    twins = np.arange(len(order))
    if len(left):
        members, labels = components(left, right)
        # Members ascend by rank, so the first member of a component is its best.
        best = np.full(labels.max() + 1, len(order))
        np.minimum.at(best, labels, members)
        twins[members] = best[labels]
    # Held rows always stay, even if two of them are in one family.
    twins[is_held[order]] = np.flatnonzero(is_held[order])
    result = np.empty(len(order), np.int64)
    result[order] = order[twins]
    return result


def without_near_duplicates(
    packed: Array,
    texts: Sequence[str],
    amounts: Array,
    budget: int,
    threshold: float = THRESHOLD,
    compares_all: bool = False,
    num_targets: int = 1,
) -> Array:
    """Sets the near-duplicates in a ranking of an in-memory corpus to priority 0.

    Args:
      packed: Priorities, uint64 [n].
      texts: The texts, n of them.
      amounts: Cost of each: its tokens, or 1; int64 [n].
      budget: In the same unit, at least 1.
      threshold: Similarity of near-duplicates, in (0, 1].
      compares_all: Whether all documents are compared, not only those within reach of a few budgets.
      num_targets: How many targets share the budget; documents within `COMPARED_BUDGETS` budgets per target are
        compared.

    Returns:
      uint64 [n].
    """
    column = packed[:, None]
    reached = COMPARED_BUDGETS * num_targets * budget
    compared = search_budget(column, amounts_of(column, amounts), reached, COMPARED_LEVELS)
    # All documents only if those within reach do not fill a budget without their near-duplicates.
    for floor in (compared.floors[0], np.uint64(0))[int(compares_all) :]:
        at = np.flatnonzero(is_reached(packed, floor))
        signatures = sign([texts[i] for i in at.tolist()])
        twins = find_twins(signatures, packed[at], np.zeros(len(at), bool), threshold)
        dropped = at[twins != np.arange(len(at))]
        if fills_budget(floor, int(amounts[dropped].sum()), budget):
            break
    result = packed.copy()
    result[dropped] = 0
    return result


def fills_budget(floor: np.uint64, dropped: int, budget: int) -> bool:
    """Tells whether the compared documents fill a budget without the near-duplicates.

    Args:
      floor: The lowest compared priority, from a search for `COMPARED_BUDGETS` per target; 0 if all documents were
        compared.
      dropped: Amount of near-duplicates, in the unit of the budget.
      budget: The budget.
    """
    # Of the four budgets compared, at least one is then left.
    return bool(floor == 0) or dropped <= (COMPARED_BUDGETS - 1) * budget


def _candidates(hashes: Array) -> Iterator[Array]:
    """Yields pairs of documents in a common bucket, each once, int64 [k, 2]: (higher-ranked, lower-ranked)."""
    num_documents, num_bands = hashes.shape
    found = []
    for band in range(num_bands):
        own = np.argsort(hashes[:, band], kind="stable")
        places = places_in_runs(hashes[own, band]) if len(own) else own
        at = np.flatnonzero(places)
        for lag in range(1, _COMPARED + 1):
            at = at[places[at] >= lag]
            found.append(own[at - lag] * num_documents + own[at])
        # The first of the bucket links members that are far apart into one family.
        far = np.flatnonzero(places > _COMPARED)
        found.append(own[far - places[far]] * num_documents + own[far])
    codes = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    for first in range(0, len(codes), _PAIRS_PER_STEP):
        yield np.stack(np.divmod(codes[first : first + _PAIRS_PER_STEP], num_documents), axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Links:
    """Links between rows that may be near-duplicates. An additive statistic.

    Attributes:
      left: Numbers of rows, uint64 [m].
      right: The row each is linked to, uint64 [m].
    """

    left: Array
    right: Array

    @classmethod
    def none(cls) -> "Links":
        """No links."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint64))

    def __add__(self, other: "Links") -> "Links":
        both = Links(
            np.concatenate([self.left, other.left]), np.concatenate([self.right, other.right])
        )
        return both if len(both.left) < _MOST_LINKS else both.spanning()

    def spanning(self) -> "Links":
        """The fewest links that connect the same rows: each row to the lowest of its component."""
        rows, labels = components(self.left, self.right)
        order = np.argsort(labels, kind="stable")
        return Links(*link_equal(labels[order].astype(np.uint64), rows[order]))
