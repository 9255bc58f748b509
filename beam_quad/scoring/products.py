"""Products of token-level inputs a and output gradients g of a linear layer y = W a."""

from collections.abc import Iterator

import torch
from torch.nn import functional

# Entries of the per-sequence gradients formed at a time: 256 MB of float32.
GRADIENT_ENTRIES = 1 << 26
# Cost of passing over a formed gradient, in tokens' products. On one core it is 0 to 200, with shapes from 128 x 128 to
# 49,152 x 576 and sequences of 32 to 512 tokens. With 32, the faster way is chosen whenever one is faster by a tenth.
_FORMED_TOKENS = 32


def with_bias(a: torch.Tensor, has_bias: bool) -> torch.Tensor:
    """Appends a 1 for a bias: [batch, length, in] to [batch, length, in (+ 1)]."""
    return functional.pad(a, (0, 1), value=1.0) if has_bias else a


def summed_gradient(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Sums g aᵀ over all tokens of all sequences, [out, in], in the dtype of `a`; g may have another dtype."""
    first, *others = (
        own.flatten(0, 1).T @ a[some].flatten(0, 1) for some, own in _in_dtype(g, a.dtype)
    )
    return sum(others, first)


def inner_products(a: torch.Tensor, g: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Computes sum over tokens of gᵀ V a for each sequence and vector V, without forming the gradient.

    The narrower of V a and Vᵀ g is computed. The rest is an elementwise product and its sum; as a matrix product it would
    multiply a row by a column, for which libraries have no fast kernel.

    Args:
      a: Inputs without the 1 for a bias, [batch, length, in].
      g: Output gradients, [batch, length, out].
      vectors: The vectors V, [num_vectors, out, in] or, with a bias, [num_vectors, out, in + 1], in the dtype of `a`.

    Returns:
      float32 (float64 for float64 inputs), [batch, num_vectors].
    """
    num_vectors, out_features, width = vectors.shape
    in_features = a.shape[-1]
    has_bias = width > in_features
    dtype = torch.promote_types(a.dtype, torch.float32)
    if out_features > in_features:
        other = with_bias(a, has_bias)
        mapped = g @ vectors.transpose(0, 1).flatten(1)
    else:
        other = g
        rows = vectors.flatten(0, 1)
        bias = rows[:, in_features] if has_bias else None
        mapped = functional.linear(a, rows[:, :in_features], bias)
    products = (
        mapped.to(dtype).view(*g.shape[:2], num_vectors, -1).mul_(other.to(dtype)[:, :, None])
    )
    return _sum_by_sequence(products)


def formed_products(gradients: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Computes inner products of formed gradients with vectors.

    Args:
      gradients: [num_sequences, out, in].
      vectors: Same dtype, [num_vectors, out, in].

    Returns:
      [num_sequences, num_vectors].
    """
    columns = vectors.flatten(1).T.expand(len(gradients), -1, -1)
    # One product per sequence: the rounding of a joint product would depend on the number of sequences.
    return torch.bmm(gradients.flatten(1)[:, None], columns).squeeze(1)


def is_formed(
    shape: tuple[int, int], length: int, num_vectors: int = 1, has_norm: bool = True
) -> bool:
    """Decides whether to form a sequence's gradient for its products with vectors and, if needed, its norm.

    Forming it costs as much per token as one product with a matrix of its shape, and then a few passes over its entries.
    Otherwise each inner product costs as much per token, and the norm costs the Gram matrices.

    Args:
      shape: Shape of the gradient, out and in.
      length: Tokens of the sequence.
      num_vectors: Number of vectors to multiply with.
      has_norm: Whether the norm is needed.
    """
    out_features, in_features = shape
    entries = in_features * out_features
    grams = length * length * (in_features + out_features) if has_norm else 0
    more = max(num_vectors - 1, 0) * length * entries
    return grams + more > _FORMED_TOKENS * entries


def squared_norms(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Computes ||sum over tokens of g aᵀ||² for each sequence, without forming its gradient.

    The result is the sum over t, t' of (a_t . a_t') (g_t . g_t').

    Args:
      a: Inputs with the 1 for a bias, float32 or float64 [batch, length, in].
      g: Output gradients, any dtype, [batch, length, out].

    Returns:
      The inputs' dtype, [batch].
    """
    squares = [
        _sum_by_sequence(torch.bmm(a[some], a[some].mT).mul_(torch.bmm(own, own.mT))[:, :, None])
        for some, own in _in_dtype(g, a.dtype)
    ]
    # The terms have both signs, so rounding may leave a small sum below 0.
    return torch.cat(squares).squeeze(1).clamp_min(0)


def sequence_gradients(a: torch.Tensor, g: torch.Tensor) -> Iterator[torch.Tensor]:
    """Forms sum over tokens of g aᵀ of each sequence, a few sequences at a time.

    Args:
      a: Inputs, [batch, length, in].
      g: Output gradients, any dtype, [batch, length, out].

    Yields:
      The inputs' dtype, [some sequences, out, in], in the order of the batch.
    """
    step = max(1, GRADIENT_ENTRIES // (a.shape[2] * g.shape[2]))
    for start in range(0, len(a), step):
        some = slice(start, start + step)
        yield torch.bmm(g[some].to(a.dtype).mT, a[some])


def token_squares(g: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Sums squared output gradients over all tokens, [batch, length, out] to [out]: the diagonal of sum g gᵀ."""
    pieces = [own.square().sum((0, 1)) for _, own in _in_dtype(g, dtype)]
    return torch.stack(pieces).sum(0)


def gradient_rows(a: torch.Tensor, g: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Computes rows of each sequence's gradient D = sum over tokens of g aᵀ, without forming it.

    Args:
      a: Inputs, float32 or float64 [batch, length, in].
      g: Output gradients, any dtype, [batch, length, out].
      rows: Indices of the rows of D, int64 [batch, num_rows].

    Returns:
      The inputs' dtype, [batch, num_rows, in].
    """
    chosen = g.gather(2, rows[:, None, :].expand(-1, g.shape[1], -1))
    return torch.bmm(chosen.mT.to(a.dtype), a)


def sums_by_row(rows: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    """Sums, for each token of a sequence, the deltas of all tokens with the same row.

    Args:
      rows: Row of each token, int64 [batch, length].
      deltas: Delta of each token, [batch, length, in].

    Returns:
      Same shape and dtype as `deltas`; equal for tokens with the same row.
    """
    is_same = rows[:, :, None] == rows[:, None, :]
    return torch.bmm(is_same.to(deltas.dtype), deltas)


def first_of_rows(rows: torch.Tensor) -> torch.Tensor:
    """Tests whether each token of a sequence is the first with its row, bool [batch, length]."""
    is_same = rows[:, :, None] == rows[:, None, :]
    return ~is_same.tril(-1).any(2)


def add_rows(total: torch.Tensor, rows: torch.Tensor, deltas: torch.Tensor) -> None:
    """Adds deltas to the rows of a matrix in place, except to the column of a bias.

    Args:
      total: The matrix, [out, in (+ 1)].
      rows: Row of each token, int64 [batch, length].
      deltas: Delta of each token, [batch, length, in].
    """
    width = deltas.shape[-1]
    total[:, :width].index_add_(0, rows.flatten(), deltas.flatten(0, 1).to(total.dtype))


def row_products(rows: torch.Tensor, deltas: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Computes sum over tokens of delta . V[row] for each sequence and vector V.

    Args:
      rows: int64 [batch, length].
      deltas: [batch, length, in].
      vectors: The vectors V, [num_vectors, out, in (+ 1)].

    Returns:
      float32 (float64 for float64 deltas), [batch, num_vectors].
    """
    dtype = torch.promote_types(deltas.dtype, torch.float32)
    chosen = vectors[:, rows, : deltas.shape[2]].to(dtype)
    return _sum_by_sequence((chosen * deltas.to(dtype)).permute(1, 2, 0, 3))


def entry_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Sums the elementwise product of two tensors by sequence, [batch, length, features] to [batch]."""
    return _sum_by_sequence((left * right)[:, :, None]).squeeze(1)


def _sum_by_sequence(products: torch.Tensor) -> torch.Tensor:
    """Sums over features and then over tokens, [batch, length, n, features] to [batch, n].

    In a single sum over both, the order of summation would depend on the other sequences.
    """
    return products.sum(3).mT.contiguous().sum(2)


def _in_dtype(g: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    """Converts output gradients a few sequences at a time, because a copy of all at vocabulary width may not fit in memory."""
    step = max(1, GRADIENT_ENTRIES // (g.shape[1] * g.shape[2]))
    for start in range(0, len(g), step):
        some = slice(start, start + step)
        yield some, g[some].to(dtype)
