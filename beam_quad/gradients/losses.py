"""The causal language model's loss and its gradient at the logits, written out.

Only what lies between the logits and the lowest tracked layer goes through autograd: the loss itself is a softmax,
whose gradient is known, so that beside the logits, in the model's dtype, and their gradient nothing of their size is kept.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from beam_quad import seeding
from beam_quad.gradients import windows as windows_lib

# Entries of a float32 piece of the logits. On a GPU 128 MB, few launches; on a CPU 2 MB, so that what a piece goes
# through stays in its cache.
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
    streams = seeding.mix(seed, "label stream", keys)[:, None] + positions
    return torch.from_numpy(seeding.uniform(seed, "label", streams))


def sample_labels(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draws labels by inverse CDF.

    The CDF is searched in two steps, among about sqrt(vocabulary) groups of tokens and then within one, so that
    only those sums are formed in float64. They are products with a triangle, not `cumsum`, which is not
    deterministic on CUDA.

    Args:
      probabilities: Not necessarily normalised, float [n, vocabulary].
      uniforms: Numbers in [0, 1), float64 [n].

    Returns:
      Labels, int64 [n].
    """
    vocabulary = probabilities.shape[1]
    width = math.isqrt(vocabulary - 1) + 1
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
    return torch.where(weights > 0, losses * weights, 0).sum(1)


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Computes the loss of every position, in nats.

    Args:
      logits: [batch, length, vocabulary], any float dtype.
      labels: int64 [batch, length].
      dtype: Of the softmax and the result; at least that of the logits.

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
    """Differentiates the sum of all weighted losses by the logits.

    Args:
      logits: [batch, length, vocabulary], any float dtype.
      labels: int64 [batch, length]; replaced by draws from the model where `uniforms` are given.
      weights: Weight of each position, 0 outside the loss, float [batch, length].
      uniforms: Numbers in [0, 1) to draw the labels with, float64 [batch, length].

    Returns:
      Shape and dtype of `logits`; softmaxes and their differences are formed in the dtype of `weights`.
    """
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
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
        chosen = _pick(probabilities, label)
        probabilities.scatter_(1, label[:, None], (chosen - 1)[:, None])
        probabilities.mul_(weights.flatten()[piece][:, None])
        if not is_in_place:
            rows.copy_(probabilities)
    return gradient


def _pieces(logits: torch.Tensor) -> Iterator[slice]:
    num_rows = logits.shape[0] * logits.shape[1]
    step = max(1, _PIECE_ENTRIES[logits.device.type] // logits.shape[2])
    return (slice(start, start + step) for start in range(0, num_rows, step))


def _log_softmax(logits: torch.Tensor, piece: slice, dtype: torch.dtype) -> torch.Tensor:
    return torch.log_softmax(logits.detach().flatten(0, 1)[piece], dim=1, dtype=dtype)


def _pick(table: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return table.gather(1, columns[:, None]).squeeze(1)
