"""Products of token-level inputs a and output gradients g of a linear layer y = W a."""

from collections.abc import Iterator

import torch
from torch.nn import functional

# Entries of the per-sequence gradients that are formed at a time: 256 MB of float32.
_GRADIENT_ENTRIES = 1 << 26
# Tokens whose products cost what passing over a formed gradient does, on one core: 0 to 200, with shapes from 128 x 128 to
# 49,152 x 576 and sequences of 32 to 512 tokens. With 32 the faster way is taken wherever one is by a tenth.
_FORMED_TOKENS = 32


def with_bias(a: torch.Tensor, has_bias: bool) -> torch.Tensor:
    """Appends the 1 that stands for a bias: [batch, length, in] to [batch, length, in (+ 1)]."""
    return functional.pad(a, (0, 1), value=1.0) if has_bias else a


def summed_gradient(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Sums g aᵀ over all tokens of all sequences, [out, in], in the inputs' dtype; g may have another."""
    first, *others = (
        own.flatten(0, 1).T @ a[some].flatten(0, 1) for some, own in _in_dtype(g, a.dtype)
    )
    return sum(others, first)


def inner_products(a: torch.Tensor, g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Computes sum over tokens of gᵀ V a for each sequence, without forming its gradient.

    Either V a or Vᵀ g is formed, whichever is narrower.

    Args:
      a: Inputs with the bias's 1 still left out, [batch, length, in].
      g: Output gradients, [batch, length, out].
      v: The vector V, [out, in] or, with a bias, [out, in + 1], in the dtype of `a`.

    Returns:
      float32 (float64 for float64 inputs), [batch].
    """
    in_features = a.shape[-1]
    has_bias = v.shape[1] > in_features
    dtype = torch.promote_types(a.dtype, torch.float32)
    if g.shape[-1] > in_features:
        mapped = (g @ v).to(dtype)
        products = torch.einsum("bti,bti->b", mapped[..., :in_features], a.to(dtype))
        return products + mapped[..., in_features].sum(1) if has_bias else products
    mapped = functional.linear(a, v[:, :in_features], v[:, in_features] if has_bias else None)
    return torch.einsum("bto,bto->b", mapped.to(dtype), g.to(dtype))


def is_formed(shape: tuple[int, int], length: int) -> bool:
    """Whether a sequence's gradient is formed where both its norm and its products are asked for.

    Formed, it costs one product of a token with the matrix, and a few passes over its entries; else each of its products
    costs as much, and its norm the Gram matrices.

    Args:
      shape: Shape of the gradient, out and in.
      length: Tokens of the sequence.
    """
    out_features, in_features = shape
    grams = length * length * (in_features + out_features)
    return grams > _FORMED_TOKENS * in_features * out_features


def squared_norms(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Computes ||sum over tokens of g aᵀ||² for each sequence, without forming its gradient.

    That is the sum over t, t' of (a_t . a_t') (g_t . g_t').

    Args:
      a: Inputs with the bias's 1, float32 or float64 [batch, length, in].
      g: Output gradients, any dtype, [batch, length, out].

    Returns:
      The inputs' dtype, [batch].
    """
    squares = [
        torch.einsum("bst,bst->b", torch.bmm(a[some], a[some].mT), torch.bmm(own, own.mT))
        for some, own in _in_dtype(g, a.dtype)
    ]
    return torch.cat(squares).clamp_min(0)


def sequence_gradients(a: torch.Tensor, g: torch.Tensor) -> Iterator[torch.Tensor]:
    """Forms sum over tokens of g aᵀ of each sequence, a few sequences at a time.

    Args:
      a: Inputs, [batch, length, in].
      g: Output gradients, any dtype, [batch, length, out].

    Yields:
      The inputs' dtype, [some sequences, out, in], in the order of the batch.
    """
    step = max(1, _GRADIENT_ENTRIES // (a.shape[2] * g.shape[2]))
    for start in range(0, len(a), step):
        some = slice(start, start + step)
        yield torch.bmm(g[some].to(a.dtype).mT, a[some])


def token_squares(g: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Sums the squares of output gradients over all tokens, [batch, length, out] to [out]: the diagonal of sum g gᵀ."""
    pieces = [own.square().sum((0, 1)) for _, own in _in_dtype(g, dtype)]
    return torch.stack(pieces).sum(0)


def gradient_rows(a: torch.Tensor, g: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Takes rows of each sequence's gradient D = sum over tokens of g aᵀ, without forming it.

    Args:
      a: Inputs, float32 or float64 [batch, length, in].
      g: Output gradients, any dtype, [batch, length, out].
      rows: Which rows of D, int64 [batch, num_rows].

    Returns:
      The inputs' dtype, [batch, num_rows, in].
    """
    chosen = g.gather(2, rows[:, None, :].expand(-1, g.shape[1], -1))
    return torch.bmm(chosen.mT.to(a.dtype), a)


def sums_by_row(rows: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    """Adds up, for each token of a sequence, what all tokens of the sequence add to its row.

    Args:
      rows: The row that each token adds to, int64 [batch, length].
      deltas: What it adds, [batch, length, in].

    Returns:
      Same shape and dtype as `deltas`; the same for tokens of one row.
    """
    is_same = rows[:, :, None] == rows[:, None, :]
    return torch.bmm(is_same.to(deltas.dtype), deltas)


def first_of_rows(rows: torch.Tensor) -> torch.Tensor:
    """Says which tokens of a sequence are the first with their row, bool [batch, length]."""
    is_same = rows[:, :, None] == rows[:, None, :]
    return ~is_same.tril(-1).any(2)


def add_rows(total: torch.Tensor, rows: torch.Tensor, deltas: torch.Tensor) -> None:
    """Adds to the rows of a matrix, [out, in (+ 1)], in place; a bias's column gets nothing.

    Args:
      total: The matrix.
      rows: The row that each token adds to, int64 [batch, length].
      deltas: What it adds, [batch, length, in].
    """
    width = deltas.shape[-1]
    total[:, :width].index_add_(0, rows.flatten(), deltas.flatten(0, 1).to(total.dtype))


def row_products(rows: torch.Tensor, deltas: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Computes sum over tokens of delta . V[row] for each sequence.

    Args:
      rows: int64 [batch, length].
      deltas: [batch, length, in].
      v: The vector V, [out, in (+ 1)].

    Returns:
      float32 (float64 for float64 deltas), [batch].
    """
    dtype = torch.promote_types(deltas.dtype, torch.float32)
    return (v[rows, : deltas.shape[2]].to(dtype) * deltas.to(dtype)).sum((1, 2))


def _in_dtype(g: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    """Converts output gradients a few sequences at a time: of a vocabulary's width all would fill the memory once more."""
    step = max(1, _GRADIENT_ENTRIES // (g.shape[1] * g.shape[2]))
    for start in range(0, len(g), step):
        some = slice(start, start + step)
        yield some, g[some].to(dtype)
