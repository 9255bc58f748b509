"""The only optimiser loop: AdamW on a copy of a proxy, one batch of documents per step."""

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

    A step lowers the mean of its documents' mean losses. Its gradient is clipped to norm 1. Dropout stays off. On one kind
    of machine with one number of threads, the result is a function of the arguments alone; with workers it does not
    depend on the number of cores either.

    Args:
      proxy: The model; it is not changed.
      steps: Learning rate and documents of each step; every document has at least one loss token.
      betas: Decay of AdamW's first and second moment.
      weight_decay: Weight decay of all parameters, over the learning rate.
      num_workers: On a CPU, the number of micro-batches that are differentiated at the same time, each by one thread.
        None differentiates one after the other, with all of torch's threads. Threads that share operations on small
        matrices mostly wait for each other: with 2 threads per operation, a step of a model of 1.1 M parameters takes
        five times the CPU time.
      observe: Called with the loss of each step, computed before the step.

    Returns:
      A proxy with its own parameters, in the dtype of the given one. Until the last step they are in `proxy.sum_dtype`,
      because small steps vanish in bfloat16.

    Raises:
      IntegrityError: If a gradient is not finite.
    """
    model = copy.deepcopy(proxy.model)
    _cast(model, proxy.sum_dtype)
    trained = dataclasses.replace(proxy, model=model)
    # After the proxy is made, which freezes its model.
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
    torch.set_num_threads(1)  # For this thread and for threads started later.
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
    """Sets the parameters' gradients to those of the mean over documents of their mean losses.

    Returns:
      The mean loss if `with_loss`, otherwise 0.
    """
    counts = torch.from_numpy(documents.loss_tokens).double()
    per_document = 1 / (counts * len(counts))

    def one(batch: MicroBatch) -> tuple[float, Sequence[torch.Tensor | None]]:
        weights = passes.token_weights(batch, per_document, proxy)
        labels = passes.to_device(batch.labels, proxy)
        with torch.enable_grad():
            outputs = passes.logits(proxy, batch)
        # Written out, as in scoring: autograd through the softmax would keep further tensors of the logits' size.
        gradient = losses.loss_gradient(outputs, labels, weights, None)
        loss = losses.weighted_losses(outputs, labels, weights).sum().item() if with_loss else 0.0
        return loss, torch.autograd.grad(outputs, parameters, gradient, allow_unused=True)

    def compute(max_batch_tokens: int) -> float:
        # A failed attempt may have added some of its gradients.
        proxy.model.zero_grad()
        batches = proxy.micro_batches(documents.windows, max_batch_tokens)
        total = 0.0
        # Gradients are added in the order of the batches, whichever is done first, so the last bits do not vary.
        for loss, parts in map(one, batches) if pool is None else pool.map(one, batches):
            total += loss
            for parameter, part in zip(parameters, parts, strict=True):
                if part is not None:
                    parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)
        return total

    return passes.with_halving(proxy, compute)
