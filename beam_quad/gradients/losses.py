"""The causal language model's loss and its gradient with respect to the logits, written out.

Autograd runs only from the logits down to the lowest tracked layer. The gradient of the loss, a softmax, has a closed
form, so no tensors of the logits' size are kept besides the logits and their gradient, both in the model's dtype.
"""

import math

import numpy as np
import torch
from torch.nn import functional

from beam_quad import seeding
from beam_quad.columns import slices
from beam_quad.gradients import windows as windows_lib

# Entries of a float32 piece of the logits. 128 MB on a GPU, for few launches; 2 MB on a CPU, which fits in the cache.
_PIECE_ENTRIES = {"cuda": 1 << 25, "cpu": 1 << 19}


def label_uniforms(
    seed: int, example_keys: np.ndarray, batch: windows_lib.MicroBatch
) -> torch.Tensor:
    """Draws one number in [0, 1) for each position, from (seed, example, window, position) alone.

    Args:
      seed: The run's seed.
      example_keys: Keys of the call's documents, uint64 [num_documents].
      batch: The windows to draw for.

    Returns:
      float64 [batch, length].
    """
    indices = batch.indices.numpy().astype(np.uint64)
    keys = example_keys[batch.documents.numpy()] ^ seeding.mix(seed, "window", indices)
    positions = np.arange(batch.tokens.shape[1], dtype=np.uint64)
    # Hashed before positions are added, so the streams of two windows do not run side by side.
    streams = seeding.mix(seed, "label stream", keys)[:, None] + positions
    return torch.from_numpy(seeding.uniform(seed, "label", streams))


def sample_labels(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draws labels by inverse CDF.

    The CDF is searched in two steps, first among about sqrt(vocabulary) groups of tokens and then within one group, so
    float64 sums are needed only for groups and for one group's tokens. Sums are products with a triangular matrix,
    because `cumsum` is not deterministic on CUDA.

    Args:
      probabilities: Probabilities, not necessarily normalised, float [n, vocabulary].
      uniforms: Numbers in [0, 1), float64 [n].

    Returns:
      Labels, int64 [n].
    """
    vocabulary = probabilities.shape[1]
    width = math.isqrt(vocabulary - 1) + 1
    # The last group is filled with probabilities of 0, which are never drawn.
    padded = functional.pad(probabilities, (0, -vocabulary % width))
    groups = padded.view(len(padded), -1, width)
    group_cdf = _cumulate(groups.sum(2, dtype=torch.float64))
    target = uniforms * group_cdf[:, -1]
    group = _search(group_cdf, target)
    below = functional.pad(group_cdf, (1, 0)).gather(1, group[:, None]).squeeze(1)
    rows = torch.arange(len(group), device=group.device)
    inner_cdf = _cumulate(groups[rows, group].double())
    label = group * width + _search(inner_cdf, target - below)
    return label.clamp_max(vocabulary - 1)


def _cumulate(values: torch.Tensor) -> torch.Tensor:
    triangle = torch.ones(
        values.shape[1], values.shape[1], dtype=values.dtype, device=values.device
    )
    return values @ triangle.triu()


def _search(cdf: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    # Clamped, because rounding may put the target at the end of the CDF.
    return (cdf <= target[:, None]).sum(1).clamp_max(cdf.shape[1] - 1)


def weighted_losses(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Sums the weighted losses of each window's tokens, in nats.

    Args:
      logits: [batch, length, vocabulary], any float dtype.
      labels: int64 [batch, length].
      weights: Weight of each position, 0 outside the loss, float [batch, length].

    Returns:
      dtype of `weights`, [batch].
    """
    losses = token_losses(logits, labels, weights.dtype)
    # Not a plain product: a loss outside the mask may be infinite, and infinity times 0 is nan.
    return torch.where(weights > 0, losses * weights, 0).sum(1)


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Computes the loss of every position, in nats.

    Args:
      logits: [batch, length, vocabulary], any float dtype.
      labels: int64 [batch, length].
      dtype: Dtype of the softmax and the result, promoted to at least that of the logits.

    Returns:
      [batch, length].
    """
    dtype = torch.promote_types(dtype, logits.dtype)
    losses = torch.empty(labels.numel(), dtype=dtype, device=logits.device)
    for piece in _pieces(logits):
        log_probabilities = _log_softmax(logits, piece, dtype)
        losses[piece] = -_pick(log_probabilities, labels.flatten()[piece])
    return losses.view_as(labels)


def loss_gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    uniforms: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes the gradient of the sum of all weighted losses with respect to the logits.

    Args:
      logits: [batch, length, vocabulary], any float dtype.
      labels: int64 [batch, length]; replaced by draws from the model if `uniforms` are given.
      weights: Weight of each position, 0 outside the loss, float [batch, length].
      uniforms: Numbers in [0, 1) to draw the labels with, float64 [batch, length].

    Returns:
      The gradient, in the shape and dtype of `logits`. Softmaxes and their differences are computed in the dtype of
      `weights`.
    """
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    # In float32, the softmax is computed in the gradient's own memory; in bfloat16 it needs a float32 piece.
    is_in_place = logits.dtype == weights.dtype
    for piece in _pieces(logits):
        rows = gradient.flatten(0, 1)[piece]
        scores = logits.detach().flatten(0, 1)[piece]
        if is_in_place:
            probabilities = torch.softmax(scores, dim=1, out=rows)
        else:
            probabilities = torch.softmax(scores, dim=1, dtype=weights.dtype)
        label = labels.flatten()[piece]
        if uniforms is not None:
            label = sample_labels(probabilities, uniforms.flatten()[piece])
        # The gradient of -log p[label] by the logits is p - onehot(label).
        chosen = _pick(probabilities, label)
        probabilities.scatter_(1, label[:, None], (chosen - 1)[:, None])
        probabilities.mul_(weights.flatten()[piece][:, None])
        if not is_in_place:
            rows.copy_(probabilities)
    return gradient


def _pieces(logits: torch.Tensor) -> list[slice]:
    num_rows = logits.shape[0] * logits.shape[1]
    step = max(1, _PIECE_ENTRIES[logits.device.type] // logits.shape[2])
    return slices(num_rows, step)


def _log_softmax(logits: torch.Tensor, piece: slice, dtype: torch.dtype) -> torch.Tensor:
    return torch.log_softmax(logits.detach().flatten(0, 1)[piece], dim=1, dtype=dtype)


def _pick(table: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return table.gather(1, columns[:, None]).squeeze(1)
