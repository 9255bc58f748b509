"""The one optimiser loop: AdamW on a copy of a proxy, one batch of documents a step."""

import copy
import dataclasses
from collections.abc import Iterable

import torch

from beam_quad import errors
from beam_quad.gradients import losses, passes
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import Documents

_MAX_GRADIENT_NORM = 1.0


def descend(
    proxy: Proxy,
    steps: Iterable[tuple[float, Documents]],
    betas: tuple[float, float] = (0.9, 0.999),
) -> Proxy:
    """Takes steps of AdamW, without weight decay, on all parameters of a copy of a proxy.

    A step lowers the mean over its documents of their mean losses; its gradient is cut to norm 1. Dropout stays off. The
    result is a function of its arguments alone: the same steps end in the same bits, on one machine with one number of
    threads.

    Args:
      proxy: The model, which is left as it is.
      steps: Learning rate of each step, and what it reads, in which every document has at least one loss token.
      betas: Decay of AdamW's first and second moment.

    Returns:
      A proxy with parameters of its own, in the dtype of the given one. Until the last step they are in
      `proxy.sum_dtype`, as bfloat16 would swallow small steps.

    Raises:
      IntegrityError: If a gradient is not finite.
    """
    model = copy.deepcopy(proxy.model)
    _cast(model, proxy.sum_dtype)
    trained = dataclasses.replace(proxy, model=model)
    model.requires_grad_(True)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=betas, weight_decay=0.0)
    for number, (rate, documents) in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate
        _differentiate(trained, documents)
        norm = torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
        if not torch.isfinite(norm):
            raise errors.IntegrityError(
                f"the gradient is not finite in step {number} of a training of the proxy; lower the learning rate"
            )
        optimizer.step()
    model.zero_grad()
    _cast(model, proxy.dtype)
    return dataclasses.replace(proxy, model=model)


def _cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    # `Module.to` would cast buffers too, such as the frequencies of rotary embeddings, which stay in float32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _differentiate(proxy: Proxy, documents: Documents) -> None:
    """Leaves in the parameters the gradient of the mean over documents of their mean losses."""
    counts = torch.from_numpy(documents.loss_tokens).double()
    per_document = 1 / (counts * len(counts))

    def compute(max_batch_tokens: int) -> None:
        proxy.model.zero_grad()
        for batch in proxy.micro_batches(documents.windows, max_batch_tokens):
            weights = passes.token_weights(batch, per_document, proxy)
            labels = passes.to_device(batch.labels, proxy)
            with proxy.lock, torch.enable_grad():
                outputs = passes.logits(proxy, batch)
                gradient = losses.loss_gradient(outputs, labels, weights, None)
                torch.autograd.backward(outputs, gradient)

    passes.with_halving(proxy, compute)
