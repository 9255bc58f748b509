"""The one optimiser loop: AdamW on a copy of a proxy, one batch of documents a step."""

import concurrent.futures
import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from beam_quad import errors
from beam_quad.gradients import losses, passes
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import Documents, MicroBatch

_MAX_GRADIENT_NORM = 1.0


def descend(
    proxy: Proxy,
    steps: Iterable[tuple[float, Documents]],
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    num_workers: int | None = None,
    observe: Callable[[float], None] | None = None,
) -> Proxy:
    """Takes steps of AdamW on all parameters of a copy of a proxy.

    A step lowers the mean over its documents of their mean losses; its gradient is cut to norm 1. Dropout stays off. The
    result is a function of its arguments alone, on one kind of machine with one number of threads; with workers it does
    not depend on the number of cores.

    Args:
      proxy: The model, which is left as it is.
      steps: Learning rate of each step, and what it reads, in which every document has at least one loss token.
      betas: Decay of AdamW's first and second moment.
      weight_decay: Of all parameters, over the learning rate.
      num_workers: On a CPU, how many micro-batches are differentiated at once, by a thread each; None: one after the
        other, by all of torch's threads. On small matrices threads that share an operation wait for each other more than they
        work: a step of a model of 1.1 M parameters takes five times the CPU time with 2 threads an operation.
      observe: Takes the loss of each step, before it is taken.

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
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=betas, weight_decay=weight_decay)
    with _one_thread_each(num_workers) as pool:
        for number, (rate, documents) in enumerate(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = _differentiate(trained, parameters, documents, pool, observe is not None)
            norm = torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
            if not torch.isfinite(norm):
                raise errors.IntegrityError(
                    f"the gradient is not finite in step {number} of a training of the proxy; lower the learning rate"
                )
            optimizer.step()
            if observe is not None:
                observe(loss)
    model.zero_grad()
    _cast(model, proxy.dtype)
    return dataclasses.replace(proxy, model=model)


@contextlib.contextmanager
def _one_thread_each(num_workers: int | None) -> Iterator[concurrent.futures.Executor | None]:
    if num_workers is None:
        yield None
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # of this thread and of those to come
    try:
        with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    # `Module.to` would cast buffers too, such as the frequencies of rotary embeddings, which stay in float32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _differentiate(
    proxy: Proxy,
    parameters: Sequence[torch.nn.Parameter],
    documents: Documents,
    pool: concurrent.futures.Executor | None,
    with_loss: bool,
) -> float:
    """Leaves in the parameters the gradient of the mean over documents of their mean losses; returns it if asked for."""
    counts = torch.from_numpy(documents.loss_tokens).double()
    per_document = 1 / (counts * len(counts))

    def one(batch: MicroBatch) -> tuple[float, Sequence[torch.Tensor | None]]:
        weights = passes.token_weights(batch, per_document, proxy)
        labels = passes.to_device(batch.labels, proxy)
        with torch.enable_grad():
            outputs = passes.logits(proxy, batch)
        gradient = losses.loss_gradient(outputs, labels, weights, None)
        loss = losses.weighted_losses(outputs, labels, weights).sum().item() if with_loss else 0.0
        return loss, torch.autograd.grad(outputs, parameters, gradient, allow_unused=True)

    def compute(max_batch_tokens: int) -> float:
        proxy.model.zero_grad()
        batches = proxy.micro_batches(documents.windows, max_batch_tokens)
        total = 0.0
        # In the order of the batches, whichever is done first.
        for loss, parts in map(one, batches) if pool is None else pool.map(one, batches):
            total += loss
            for parameter, part in zip(parameters, parts, strict=True):
                if part is not None:
                    parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)
        return total

    return passes.with_halving(proxy, compute)
