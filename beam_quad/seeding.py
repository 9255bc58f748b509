"""Draws that are hashes: the same on retry, in any order, on any number of workers.

Every example has a 64-bit `key`, the BLAKE2b hash of its id, computed once. A draw for a purpose is the key mixed
with (seed, purpose) by the finaliser of SplitMix64, which is vectorised over whole columns.

References:
  Steele, Lea & Flood, Fast Splittable Pseudorandom Number Generators, 2014 (the finaliser).
"""

import hashlib
from collections.abc import Iterable

import numpy as np

_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


def digest(*parts: object) -> str:
    """Hashes the texts of parts to 32 hexadecimal digits; a separator distinguishes ("ab", "c") from ("a", "bc")."""
    text = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def keys(example_ids: Iterable[str]) -> np.ndarray:
    """Hashes example ids to keys, uint64 [n]."""
    blake2b = hashlib.blake2b
    raw = b"".join(blake2b(i.encode("utf-8"), digest_size=8).digest() for i in example_ids)
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64)


def wide_keys(example_ids: Iterable[str]) -> bytes:
    """Hashes example ids to 128 bits, 16 bytes each, concatenated; used to compare ids, not to draw."""
    blake2b = hashlib.blake2b
    return b"".join(blake2b(i.encode("utf-8"), digest_size=16).digest() for i in example_ids)


def mix(seed: int, purpose: str, example_keys: np.ndarray) -> np.ndarray:
    """Draws one 64-bit hash for each key.

    Args:
      seed: The run's seed.
      purpose: Purpose of the draw; draws for different purposes are independent.
      example_keys: uint64 [n].

    Returns:
      Hashes, uint64 [n].
    """
    offset = np.uint64(int(digest(seed, purpose)[:16], 16))
    z = np.asarray(example_keys, dtype=np.uint64) ^ offset
    z = (z ^ (z >> np.uint64(30))) * _MULTIPLIER_1
    z = (z ^ (z >> np.uint64(27))) * _MULTIPLIER_2
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, purpose: str, example_keys: np.ndarray) -> np.ndarray:
    """Draws one number in [0, 1) for each key, float64 [n], from the upper 53 bits of `mix`."""
    return (mix(seed, purpose, example_keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def is_drawn(seed: int, purpose: str, example_keys: np.ndarray, rate: float) -> np.ndarray:
    """Draws a share of the examples, bool [n]. Lower rates draw subsets of higher rates; a rate of 1 draws all."""
    return np.asarray(uniform(seed, purpose, example_keys) < rate)


def lowest(
    seed: int, purpose: str, example_keys: np.ndarray, number: int | None = None
) -> np.ndarray:
    """Returns the positions of the examples with the lowest draws, lowest first, int64 [at most number]."""
    return np.argsort(mix(seed, purpose, example_keys), kind="stable")[:number]


def integer(seed: int, *parts: object) -> int:
    """Draws one integer in [0, 2**32), for libraries that take their own seed."""
    return int(digest(seed, *parts)[:8], 16)


def generator(seed: int, *parts: object) -> np.random.Generator:
    """Makes a NumPy generator from a hash, for pure code that needs many numbers."""
    return np.random.default_rng(int(digest(seed, *parts), 16))


def ordered_bits(ranks: np.ndarray) -> np.ndarray:
    """Maps float32 numbers to uint32 integers in the same order; -0.0 and 0.0 map to the same integer."""
    # IEEE 754 orders nonnegative numbers by their bits and negative ones in reverse. Flipping all bits of the negative
    # ones and the sign bit of the others sorts both.
    raw = (np.asarray(ranks, np.float32) + np.float32(0)).view(np.uint32)
    sign = np.uint32(1 << 31)
    ordered: np.ndarray = np.where(raw & sign, ~raw, raw | sign)
    return ordered


def ranks_of_bits(ordered: np.ndarray) -> np.ndarray:
    """Undoes `ordered_bits`: uint32 integers to float32 numbers; nan for those that no number has."""
    sign = np.uint32(1 << 31)
    ranks: np.ndarray = np.where(ordered & sign, ordered & ~sign, ~ordered).view(np.float32)
    return ranks


def pack(ranks: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Packs uint32 ranks and uint64 draws into uint64 priorities: higher ranks first, then lower draws.

    The rank takes the upper 32 bits, and the upper half of the inverted draw the lower 32 bits.
    """
    packed: np.ndarray = (ranks.astype(np.uint64) << np.uint64(32)) | (~draws >> np.uint64(32))
    return packed
