"""Forward and backward passes with gradients of activations only."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from beam_quad import errors
from beam_quad.gradients import losses, tracked
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.gradients.windows import MicroBatch

_log = logging.getLogger(__name__)
T = TypeVar("T")
# Called with a module's name, its input a [batch, length, in] and its output's gradient g [batch, length, out]. For an
# embedding, a is the looked-up rows, int64 [batch, length], and g the gradient of each row, [batch, length, dim].
Record = Callable[[str, torch.Tensor, torch.Tensor], None]
# Micro-batches are not halved below this size: a device that cannot hold 8 tokens cannot hold any window.
_FEWEST_TOKENS = 8
# Marks an error of a CPU without memory, for which torch has no type.
_CPU_ALLOCATOR = "DefaultCPUAllocator"


def logits(proxy: Proxy, batch: MicroBatch) -> torch.Tensor:
    """Runs the model and returns its logits, [batch, length, vocabulary].

    No attention mask is passed. Padding is on the right and attention looks to the left, so padding never reaches a
    token, and the fast attention kernels require that there is no mask.
    """
    output: torch.Tensor = proxy.model(
        input_ids=to_device(batch.tokens, proxy), use_cache=False
    ).logits
    return output


def to_device(tensor: torch.Tensor, proxy: Proxy) -> torch.Tensor:
    """Moves a tensor to the proxy's device; copies to a GPU are asynchronous, from pinned memory."""
    if proxy.device.type != "cuda":
        return tensor.to(proxy.device)
    return tensor.pin_memory().to(proxy.device, non_blocking=True)


def token_weights(batch: MicroBatch, per_document: torch.Tensor, proxy: Proxy) -> torch.Tensor:
    """Spreads one weight per document over the positions in its loss.

    Args:
      batch: The windows.
      per_document: Weights, float [num_documents].
      proxy: The model, which decides dtype and device.

    Returns:
      `proxy.sum_dtype` [batch, length], 0 at a window's last token and at padding.
    """
    weights = per_document[batch.documents][:, None] * batch.loss_mask
    return to_device(weights.to(proxy.sum_dtype), proxy)


def window_losses(proxy: Proxy, batch: MicroBatch, weights: torch.Tensor) -> torch.Tensor:
    """Computes the weighted loss of each window by a forward pass, in nats, [batch]."""
    with proxy.lock, torch.no_grad():
        labels = to_device(batch.labels, proxy)
        return losses.weighted_losses(logits(proxy, batch), labels, weights)


def backward(
    proxy: Proxy,
    modules: Iterable[str],
    batch: MicroBatch,
    weights: torch.Tensor,
    record: Record,
    uniforms: torch.Tensor | None = None,
) -> None:
    """Runs one forward and one backward pass and calls `record` with every module's input and output gradient.

    All parameters are frozen, so autograd starts at the lowest module; activations below it are neither stored nor
    differentiated. Output gradients are those of the sum of the weighted losses, and 0 at padding.

    Args:
      proxy: The model.
      modules: Names of the modules to watch: linear layers and embeddings.
      batch: The windows.
      weights: Weight of each position's loss, [batch, length].
      record: Called once for each module, in the order of the backward pass: the head first, the embedding last.
      uniforms: If given, labels are drawn from the model with these numbers, float64 [batch, length].

    Raises:
      UsageError: If the model does not call a module exactly once, or calls it with anything but one row per token.
    """

    def use(name: str, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        module = proxy.model.get_submodule(name)
        if isinstance(module, nn.Embedding):
            a = _by_token(name, inputs[..., None], batch.tokens).squeeze(2)
        else:
            a = _by_token(name, inputs.detach(), batch.tokens)

        def show(g: torch.Tensor) -> None:
            g = _by_token(name, g, batch.tokens)
            record(name, a, _row_gradients(module, a, g) if isinstance(module, nn.Embedding) else g)

        if not output.requires_grad:
            # Cloned, because OLMo clips its queries in place, which a leaf does not allow.
            output = output.requires_grad_().clone()
        output.register_hook(show)  # type: ignore[no-untyped-call]
        return output

    with proxy.lock:
        with _watching(proxy, modules, use), torch.enable_grad():
            outputs = logits(proxy, batch)
        draws = None if uniforms is None else to_device(uniforms, proxy)
        labels = to_device(batch.labels, proxy)
        gradient = losses.loss_gradient(outputs, labels, weights, draws)
        torch.autograd.backward(outputs, gradient)


def _row_gradients(embedding: nn.Embedding, rows: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Turns the gradient of an embedding's output into that of its rows, as in training.

    Gemma multiplies its rows by a constant, and torch does not train the row of the padding token.
    """
    scale = getattr(embedding, "embed_scale", None)
    if scale is not None:
        g = g * torch.as_tensor(scale, dtype=g.dtype, device=g.device)
    if embedding.padding_idx is not None:
        g = g * (rows != embedding.padding_idx)[..., None]
    return g


def input_groups(proxy: Proxy, blocks: Sequence[Block]) -> dict[str, tuple[Block, ...]]:
    """Groups blocks by the input of their modules: in most models q, k and v share one tensor, and so do gate and up.

    A forward pass of two tokens is enough, because the sharing depends on the architecture alone. Blocks with and
    without a bias are not grouped, because the 1 of the bias is part of the input.

    Args:
      proxy: The model.
      blocks: The tracked blocks.

    Returns:
      Blocks by the name of their group's first module, each group in the order of `blocks`.

    Raises:
      UsageError: If the model does not call a module exactly once, or calls it with anything but one row per token.
    """
    modules = tracked.by_module(blocks)
    tokens = torch.zeros(1, 2, dtype=torch.long, device=proxy.device)
    uses: dict[str, list[Hashable]] = {name: [] for name in modules}
    alive = []  # Keeps the inputs in memory, so no two of them can have the same address.

    def use(name: str, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        a = _by_token(name, inputs, tokens)
        # Modules share an input if it has the same address, version and layout. Writing to it changes the version.
        alive.append(a)
        uses[name].append((a.data_ptr(), a._version, a.shape, a.stride()))
        return output

    with proxy.lock, _watching(proxy, modules, use), torch.no_grad():
        proxy.model(input_ids=tokens, use_cache=False)
    groups: dict[Hashable, list[str]] = {}
    for name, own in modules.items():
        groups.setdefault((*uses[name], own[0].has_bias), []).append(name)
    return {
        names[0]: tuple(block for name in names for block in modules[name])
        for names in groups.values()
    }


@contextlib.contextmanager
def _watching(
    proxy: Proxy,
    modules: Iterable[str],
    use: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Calls `use` with the name, the input and the output of every module, and replaces the output by its result.

    Each module must be called once. Otherwise its gradient would be a sum over calls, and the square of the sum is not
    the sum of the squares.
    """
    unused = dict.fromkeys(modules)

    def hook(name: str) -> Callable[[Any, tuple[torch.Tensor], torch.Tensor], torch.Tensor]:
        def call(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            if name not in unused:
                raise errors.UsageError(
                    f"{name} is tracked, but texts pass through it more than once; "
                    "choose other layers with --layers regex:..."
                )
            del unused[name]
            return use(name, inputs[0], output)

        return call

    handles = [proxy.model.get_submodule(name).register_forward_hook(hook(name)) for name in unused]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    refuse_unused(unused)


def refuse_unused(modules: Iterable[str]) -> None:
    """Refuses tracked modules that a forward pass did not call.

    Raises:
      UsageError: If there are any; it names the first.
    """
    for name in modules:
        raise errors.UsageError(
            f"{name} is tracked, but texts do not pass through it or only its weights are used; "
            "choose other layers with --layers regex:..."
        )


def _by_token(name: str, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Reshapes the input or output of a module to [batch, length, features].

    The input of DeepSeek's kv_b_proj is [batch, 1, length, rank], and that of OPT's fc1 [batch * length, hidden].
    """
    batch, length = tokens.shape
    starts_with_batch = values.shape[0] in (batch, batch * length)
    if not starts_with_batch or values[..., 0].numel() != batch * length:
        raise errors.UsageError(
            f"{name} is tracked, but is called with {tuple(values.shape)} for {batch} x {length} tokens, not "
            "once for each; choose other layers with --layers regex:..."
        )
    return values.reshape(batch, length, -1)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Returns whether an error means that a device is out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or _CPU_ALLOCATOR in str(error)


@dataclasses.dataclass
class Fitting:
    """The largest micro-batch that is known to fit on a device.

    Attributes:
      max_batch_tokens: Tokens of a micro-batch that fitted after larger ones did not; None if all have fitted so far.
    """

    max_batch_tokens: int | None = None


def with_halving(proxy: Proxy, compute: Callable[[int], T], fitting: Fitting | None = None) -> T:
    """Computes with the proxy's `max_batch_tokens`, and starts over with half as many whenever memory runs out.

    Starting over keeps partial sums out of the result. It costs little, because the largest micro-batches come first.

    Args:
      proxy: The model; its `num_halvings` is increased by each halving.
      compute: Takes `max_batch_tokens`; must have no side effects.
      fitting: Remembers the size that fitted for the next call. Use it only for results that do not depend on the size,
        such as scores. The last bits of sums depend on the size and must not depend on earlier calls.

    Returns:
      The result of `compute`.

    Raises:
      UsageError: If memory runs out even at the smallest size.
    """
    fitting = fitting or Fitting()
    max_batch_tokens = fitting.max_batch_tokens or proxy.max_batch_tokens
    while True:
        try:
            return compute(max_batch_tokens)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if max_batch_tokens <= _FEWEST_TOKENS:
                raise errors.UsageError(
                    f"one window does not fit into the memory of {proxy.device}; "
                    "take a smaller context, fewer layers, or --dtype=bfloat16"
                ) from error
        # Outside the `except` block, whose error keeps the tensors of the failed attempt alive.
        max_batch_tokens //= 2
        fitting.max_batch_tokens = max_batch_tokens
        proxy.num_halvings += 1
        _log.warning(
            "out of memory on %s; trying %d tokens at once", proxy.device, max_batch_tokens
        )
        if proxy.device.type == "cuda":
            torch.cuda.empty_cache()
