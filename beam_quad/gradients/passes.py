"""Forward and backward passes in which only activations get gradients."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

from beam_quad import errors
from beam_quad.gradients import losses
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import MicroBatch

T = TypeVar("T")
# Called with a module's name, its input a [batch, length, in] and its output's gradient g [batch, length, out].
Record = Callable[[str, torch.Tensor, torch.Tensor], None]
# A GPU that cannot hold so few tokens will not hold fewer.
_FEWEST_TOKENS = 8


def logits(proxy: Proxy, batch: MicroBatch) -> torch.Tensor:
    """Runs the model, [batch, length, vocabulary].

    No attention mask is passed: padding is on the right and attention looks to the left, so that padding never
    reaches a token; without a mask the fast attention kernels can be used.
    """
    output: torch.Tensor = proxy.model(
        input_ids=batch.tokens.to(proxy.device), use_cache=False
    ).logits
    return output


def token_weights(batch: MicroBatch, per_document: torch.Tensor, proxy: Proxy) -> torch.Tensor:
    """Spreads one weight per document over the positions that carry its loss.

    Args:
      batch: The windows.
      per_document: Weights, float [num_documents].
      proxy: Gives dtype and device.

    Returns:
      `proxy.sum_dtype` [batch, length], 0 at a window's last token and at padding.
    """
    weights = per_document[batch.documents][:, None] * batch.loss_mask
    return weights.to(dtype=proxy.sum_dtype, device=proxy.device)


def window_losses(proxy: Proxy, batch: MicroBatch, weights: torch.Tensor) -> torch.Tensor:
    """Computes the weighted loss of each window, forward only, in nats, [batch]."""
    with proxy.lock, torch.no_grad():
        labels = batch.labels.to(proxy.device)
        return losses.weighted_losses(logits(proxy, batch), labels, weights)


def backward(
    proxy: Proxy,
    modules: Iterable[str],
    batch: MicroBatch,
    weights: torch.Tensor,
    record: Record,
    uniforms: torch.Tensor | None = None,
) -> None:
    """Runs one forward and one backward, and shows every module's inputs and output gradients to `record`.

    All parameters are frozen, so autograd starts at the lowest module: what lies below it is neither stored nor
    differentiated. Output gradients are those of the sum of the weighted losses; they are 0 at padding.

    Args:
      proxy: The model.
      modules: Names of the modules to watch.
      batch: The windows.
      weights: Weight of each position's loss, [batch, length].
      record: Called once for each use of a module, in the order of the backward pass.
      uniforms: Where given, labels are drawn from the model with these, float64 [batch, length].
    """
    with proxy.lock:
        handles = [
            proxy.model.get_submodule(name).register_forward_hook(_watch(name, record))
            for name in modules
        ]
        try:
            with torch.enable_grad():
                outputs = logits(proxy, batch)
        finally:
            for handle in handles:
                handle.remove()
        draws = None if uniforms is None else uniforms.to(proxy.device)
        labels = batch.labels.to(proxy.device)
        gradient = losses.loss_gradient(outputs, labels, weights, draws)
        torch.autograd.backward(outputs, gradient)


def _watch(name: str, record: Record) -> Callable[[Any, tuple[torch.Tensor], torch.Tensor], None]:
    def hook(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        a = inputs[0].detach()
        if not output.requires_grad:
            output.requires_grad_()
        output.register_hook(lambda g: record(name, a, g))  # type: ignore[no-untyped-call]

    return hook


def with_halving(proxy: Proxy, compute: Callable[[int], T]) -> T:
    """Computes with the proxy's `max_batch_tokens`, and all over again with half of it where memory runs out.

    Starting over keeps half-added sums out of the result. It costs little, since the longest windows, which need the
    most memory, come first. The smaller size is not remembered: a result never depends on other calls.

    Args:
      proxy: Its `num_halvings` is counted up.
      compute: Takes `max_batch_tokens`; must not change anything outside.

    Returns:
      What `compute` returns.

    Raises:
      UsageError: If memory runs out at the smallest size too.
    """
    max_batch_tokens = proxy.max_batch_tokens
    while True:
        try:
            return compute(max_batch_tokens)
        except torch.OutOfMemoryError as error:
            if max_batch_tokens <= _FEWEST_TOKENS:
                raise errors.UsageError(
                    f"one window does not fit into the memory of {proxy.device}; "
                    "take a smaller context, fewer layers, or --dtype=bfloat16"
                ) from error
        max_batch_tokens //= 2
        proxy.num_halvings += 1
        if proxy.device.type == "cuda":
            torch.cuda.empty_cache()
