"""Held-out query texts, which measure a selection and so must not steer it."""

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from beam_quad import answers, seeding

HELD_OUT_SHARE = 0.2
# Not the run's seed: all selections for one query set hold out the same texts, so that they can be compared.
_SEED = 0


def fingerprints(texts: Iterable[str]) -> np.ndarray:
    """Hashes texts by their words, ignoring letter case, white space, compatible forms of characters, and answer marks.

    Returns:
      uint64 [n].
    """
    return seeding.keys(_normalised(text) for text in texts)


def held_out(texts: Sequence[str]) -> np.ndarray:
    """Decides which texts of a query set are held out: about a fifth, by a hash of the text.

    All copies of a text are on the same side, in every file and every run.

    Returns:
      bool [n].
    """
    return seeding.is_drawn(_SEED, "held out", fingerprints(texts), HELD_OUT_SHARE)


def divide(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divides query texts into steering and held-out texts, each in order."""
    steering: list[str] = []
    measuring: list[str] = []
    for text, is_held_out in zip(texts, held_out(texts), strict=True):
        (measuring if is_held_out else steering).append(text)
    return steering, measuring


def _normalised(text: str) -> str:
    # The hash reads UTF-8, in which lone surrogates cannot be encoded.
    folded = unicodedata.normalize("NFKC", answers.plain(text)).casefold()
    return " ".join(folded.encode("utf-8", "replace").decode("utf-8").split())
