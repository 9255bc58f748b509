"""A randomised Hadamard transform: compresses long vectors and approximately preserves their inner products."""

import functools

import numpy as np
import torch

from beam_quad import seeding

# Entries transformed at a time. A CPU gets one vector of some millions, so most of it stays in the cache; a GPU gets many.
_PIECE_ENTRIES = {"cuda": 1 << 27, "cpu": 1 << 18}


class HadamardTransform:
    """Compresses vectors x to sqrt(1 / dim) P H D x.

    D flips signs. H is the Walsh-Hadamard matrix (entries +1 and -1) of the next power of two, to which x is padded with
    zeros. P selects `dim` rows of H. Signs and rows are hashes of the seed. Inner products are preserved in expectation,
    and for unit vectors up to a few times 1 / sqrt(dim). With all rows they are preserved exactly.

    The transform consists of sums and differences of pairs in a fixed order, so a row's result has the same bits in any
    batch, on a CPU and on a GPU.

    Args:
      num_entries: Length of the vectors.
      dim: Length of the results, at most the padded length.
      seed: Seed of the signs and rows.

    Attributes:
      num_entries: Length of the vectors.
      dim: Length of the results.
      padded: Length of the vectors with their padding, a power of two.

    Raises:
      ValueError: If `num_entries` or `dim` is not positive, or `dim` is above the padded length.

    References:
      Ailon & Chazelle, The Fast Johnson-Lindenstrauss Transform, 2009; Tropp, Improved Analysis of the Subsampled
      Randomized Hadamard Transform, 2011.
    """

    def __init__(self, num_entries: int, dim: int, seed: int) -> None:
        if num_entries < 1 or dim < 1:
            raise ValueError(f"num_entries and dim must be positive, got {num_entries} and {dim}")
        self.num_entries, self.dim = num_entries, dim
        self.padded = 1 << (num_entries - 1).bit_length()
        if dim > self.padded:
            raise ValueError(f"{num_entries} entries cannot be compressed to {dim}")
        self._signs = random_signs(seed, "hadamard signs", num_entries)
        rows = _lowest_hashes(seed, "hadamard rows", self.padded, dim)
        # `_walsh_hadamard_transposed` returns its result transposed; the row numbers account for this.
        first, second = _factors(self.padded)
        self._rows = torch.from_numpy(rows % second * first + rows // second)

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Compresses vectors.

        Args:
          vectors: float32 or float64 [n, num_entries].

        Returns:
          Same dtype and device, [n, dim].

        Raises:
          ValueError: If the vectors have another length.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.num_entries:
            raise ValueError(f"expected [n, {self.num_entries}], got {tuple(vectors.shape)}")
        # Signs and rows stay on the device for the next call.
        self._signs, self._rows = self._signs.to(vectors.device), self._rows.to(vectors.device)
        compressed = vectors.new_empty(len(vectors), self.dim)
        step = max(1, _PIECE_ENTRIES[vectors.device.type] // self.padded)
        for start in range(0, len(vectors), step):
            piece = vectors[start : start + step]
            padded = piece.new_zeros(len(piece), self.padded)
            torch.mul(piece, self._signs, out=padded[:, : self.num_entries])
            mixed = _walsh_hadamard_transposed(padded)
            compressed[start : start + step] = mixed[:, self._rows]
        return compressed.mul_(self.dim**-0.5)


def walsh_hadamard(vectors: torch.Tensor) -> torch.Tensor:
    """Multiplies each row by the Walsh-Hadamard matrix H, H[i, j] = (-1)^(number of common 1 bits of i and j).

    Args:
      vectors: [n, a power of two].

    Returns:
      Same shape, dtype and device.

    Raises:
      ValueError: If the length is not a power of two.
    """
    length = vectors.shape[1]
    if length < 1 or length & (length - 1):
        raise ValueError(f"the length must be a power of two, got {length}")
    first, second = _factors(length)
    mixed = _walsh_hadamard_transposed(vectors.clone())
    return mixed.view(-1, second, first).mT.reshape(len(vectors), length)


def random_signs(seed: int, purpose: str, num_signs: int) -> torch.Tensor:
    """Draws random signs, 64 per hashed counter: +1 or -1, int8 [num_signs]."""
    counters = np.arange(-(-num_signs // 64), dtype=np.uint64)
    hashes = seeding.mix(seed, purpose, counters).astype("<u8")
    bits = np.unpackbits(hashes.view(np.uint8), count=num_signs)
    return torch.from_numpy(bits.astype(np.int8) * np.int8(2) - np.int8(1))


def _walsh_hadamard_transposed(vectors: torch.Tensor) -> torch.Tensor:
    """Transforms [n, first * second] to [n, second * first]; overwrites its argument.

    H of a product of two lengths is a Kronecker product. Each factor is applied along the outer dimension of a matrix, so
    pairs are far apart and are added in long runs. Between the two factors the matrix is transposed.
    """
    first, second = _factors(vectors.shape[1])
    once = _butterflies(vectors.view(-1, first, second))
    return _butterflies(once.mT.contiguous()).flatten(1)


def _butterflies(matrices: torch.Tensor) -> torch.Tensor:
    """Multiplies each matrix from the left by H, [n, power of two, any]; overwrites its argument."""
    other = torch.empty_like(matrices)
    half = matrices.shape[1] // 2
    while half:
        pairs, out = (m.view(len(m), -1, 2, half, m.shape[2]) for m in (matrices, other))
        torch.add(pairs[:, :, 0], pairs[:, :, 1], out=out[:, :, 0])
        torch.sub(pairs[:, :, 0], pairs[:, :, 1], out=out[:, :, 1])
        matrices, other = other, matrices
        half //= 2
    return matrices


@functools.cache
def _factors(length: int) -> tuple[int, int]:
    """Splits a power of two into two factors as equal as possible."""
    bits = length.bit_length() - 1
    return 1 << (bits - bits // 2), 1 << (bits // 2)


def _lowest_hashes(seed: int, purpose: str, num: int, num_taken: int) -> np.ndarray:
    hashes = seeding.mix(seed, purpose, np.arange(num, dtype=np.uint64))
    if num_taken == num:
        return np.arange(num)
    taken: np.ndarray = np.sort(np.argpartition(hashes, num_taken)[:num_taken])
    return taken
