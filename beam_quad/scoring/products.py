"""Products of token-level inputs a and output gradients g of a linear layer y = W a."""

from collections.abc import Iterator

import torch
from torch.nn import functional

# Entries of the per-sequence gradients that are formed at a time: 256 MB of float32.
_GRADIENT_ENTRIES = 1 << 26


def with_bias(a: torch.Tensor, has_bias: bool) -> torch.Tensor:
    """Appends the 1 that stands for a bias: [batch, length, in] to [batch, length, in (+ 1)]."""
    return functional.pad(a, (0, 1), value=1.0) if has_bias else a


def summed_gradient(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Sums g aᵀ over all tokens of all sequences, [out, in], in the inputs' dtype."""
    return g.flatten(0, 1).T @ a.flatten(0, 1)


def inner_products(a: torch.Tensor, g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Computes sum over tokens of gᵀ V a for each sequence, without forming its gradient.

    Args:
      a: Inputs with the bias's 1 still left out, [batch, length, in].
      g: Output gradients, [batch, length, out].
      v: The vector V, [out, in] or, with a bias, [out, in + 1], in the dtype of `a`.

    Returns:
      float32 (float64 for float64 inputs), [batch].
    """
    in_features = a.shape[-1]
    bias = v[:, in_features] if v.shape[1] > in_features else None
    mapped = functional.linear(a, v[:, :in_features], bias)
    dtype = torch.promote_types(a.dtype, torch.float32)
    return torch.einsum("bto,bto->b", mapped.to(dtype), g.to(dtype))


def squared_norms(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Computes ||sum over tokens of g aᵀ||² for each sequence.

    Short sequences go through their Gram matrices, sum over t, t' of (a_t . a_t') (g_t . g_t'), long ones through the
    gradient, whichever takes fewer products.

    Args:
      a: Inputs with the bias's 1, float32 or float64 [batch, length, in].
      g: Output gradients, same dtype, [batch, length, out].

    Returns:
      Same dtype, [batch].
    """
    length, in_features, out_features = a.shape[1], a.shape[2], g.shape[2]
    if length * (in_features + out_features) < in_features * out_features:
        grams = torch.bmm(a, a.mT), torch.bmm(g, g.mT)
        return torch.einsum("bst,bst->b", *grams).clamp_min(0)
    return torch.cat([d.square().sum((1, 2)) for d in sequence_gradients(a, g)])


def sequence_gradients(a: torch.Tensor, g: torch.Tensor) -> Iterator[torch.Tensor]:
    """Forms sum over tokens of g aᵀ of each sequence, a few sequences at a time.

    Args:
      a: Inputs, [batch, length, in].
      g: Output gradients, same dtype, [batch, length, out].

    Yields:
      [some sequences, out, in], in the order of the batch.
    """
    step = max(1, _GRADIENT_ENTRIES // (a.shape[2] * g.shape[2]))
    for start in range(0, len(a), step):
        yield torch.bmm(g[start : start + step].mT, a[start : start + step])
