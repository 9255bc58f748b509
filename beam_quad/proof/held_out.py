"""Which query texts measure a selection, and so must not steer it."""

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from beam_quad import answers, seeding

# One text in five measures.
HELD_OUT_SHARE = 0.2
# Not the run's seed: every selection by one query set leaves the same texts aside, so that they can be compared.
_SEED = 0


def fingerprints(texts: Iterable[str]) -> np.ndarray:
    """Hashes texts by their words: letter case, white space, compatible forms of characters and marks do not count.

    Returns:
      uint64 [n].
    """
    return seeding.keys(_normalised(text) for text in texts)


def held_out(texts: Sequence[str]) -> np.ndarray:
    """Decides which texts of a query set are held out: about a fifth, by hash of the text.

    Copies of a text are on one side, and a text on the same side in every file and every run.

    Returns:
      bool [n].
    """
    return seeding.is_drawn(_SEED, "held out", fingerprints(texts), HELD_OUT_SHARE)


def divide(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divides query texts into those that steer and those that are held out, each in order."""
    steering: list[str] = []
    measuring: list[str] = []
    for text, is_held_out in zip(texts, held_out(texts), strict=True):
        (measuring if is_held_out else steering).append(text)
    return steering, measuring


def _normalised(text: str) -> str:
    # Lone surrogates have no UTF-8, which the hash reads.
    folded = unicodedata.normalize("NFKC", answers.plain(text)).casefold()
    return " ".join(folded.encode("utf-8", "replace").decode("utf-8").split())
