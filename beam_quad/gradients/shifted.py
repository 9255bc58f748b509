"""The model moved along a direction, one way and the other: two forward passes, no backward."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from beam_quad.gradients import losses, parameters, passes, tracked
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.gradients.windows import MicroBatch


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far the tracked weights are moved from theta, one way and the other.

    Attributes:
      steps: e v, by the names of the parameters in the model.
      distance: 2 e, what a difference of losses is divided by.
    """

    steps: dict[str, torch.Tensor]
    distance: float

    @classmethod
    def of(
        cls,
        proxy: Proxy,
        blocks: Sequence[Block],
        direction: Mapping[str, torch.Tensor],
        relative_step: float,
    ) -> "Shift":
        """Scales a direction to a step.

        Args:
          proxy: The model; it is not changed.
          blocks: What is tracked.
          direction: v, by block [out, in (+ 1)].
          relative_step: ||e v|| over the norm of the tracked weights, > 0.

        Returns:
          The shift; 0 in all of v makes its distance infinite and every derivative 0.
        """
        moves = parameters.to_parameters(proxy.model, blocks, direction)
        # Another thread may have the weights moved while it scores.
        with proxy.lock:
            weights = {name: proxy.model.get_parameter(name).data for name in moves}
            length = _norm(moves)
            e = relative_step * _norm(weights) / length if length else math.inf
            steps = {
                name: (e * moves[name]).to(weight) if length else torch.zeros_like(weight)
                for name, weight in weights.items()
            }
        return cls(steps, 2 * e)


def why_not(model: Any, blocks: Sequence[Block]) -> str | None:
    """Says in a sentence why a model cannot be moved along a direction; None where it can."""
    low = {p.dtype for p in model.parameters()} - {torch.float32, torch.float64}
    if low:
        return (
            f"Two forwards need float32: in {low.pop()} the difference of two losses is rounding."
        )
    if tracked.has_experts(model):
        return "The loss of a mixture of experts jumps where a token changes its experts."
    modules = [model.get_submodule(name) for name in tracked.by_module(blocks)]
    if len({id(module.weight) for module in modules}) < len(modules):
        return "Tracked layers that share a weight cannot be moved one by one."
    return None


def loss_differences(
    proxy: Proxy, blocks: Sequence[Block], shift: Shift, batch: MicroBatch
) -> torch.Tensor:
    """Subtracts each token's loss at theta - e v from that at theta + e v.

    What lies below the lowest tracked layer is the same in both, and is run once.

    Args:
      proxy: The model.
      blocks: What is tracked.
      shift: The weights.
      batch: The windows.

    Returns:
      Nats, float64 [batch, length]; 0 where a position is in no loss. Subtracted token by token, since two sums of
      losses differ by less than they are rounded to.
    """
    labels, mask = (passes.to_device(part, proxy) for part in (batch.labels, batch.loss_mask))
    with proxy.lock, torch.no_grad():
        with _Lower.below(proxy.model, blocks) as lower:
            steps = _steps_by_module(blocks, shift)
            with lower.recorded():
                up = losses.token_losses(_logits(proxy, steps, 1, batch), labels)
            with lower.replayed():
                down = losses.token_losses(_logits(proxy, steps, -1, batch), labels)
        return torch.where(mask, up.double() - down.double(), 0)


def _steps_by_module(blocks: Sequence[Block], shift: Shift) -> dict[str, dict[str, torch.Tensor]]:
    """Lists the steps of each module's parameters: a tied weight is moved where it is looked up and where it multiplies."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, step in shift.steps.items():
        module, _, parameter = name.rpartition(".")
        modules.setdefault(module, {})[parameter] = step
    for name, block in tracked.tied_embeddings(blocks).items():
        modules.setdefault(block.module, {})["weight"] = modules[name]["weight"]
    return modules


def _logits(
    proxy: Proxy, steps: Mapping[str, Mapping[str, torch.Tensor]], sign: int, batch: MicroBatch
) -> torch.Tensor:
    with _moved(proxy.model, steps, sign):
        return passes.logits(proxy, batch)


@contextlib.contextmanager
def _moved(
    model: Any, modules: Mapping[str, Mapping[str, torch.Tensor]], sign: int
) -> Iterator[None]:
    """Moves every module while it is called: one module's moved weights are held at a time, and not those of all."""
    unused = dict.fromkeys(modules)
    scratch: dict[torch.Size, torch.Tensor] = {}
    with contextlib.ExitStack() as hooks:
        for name, own in modules.items():
            move = _Move(own, sign, scratch, functools.partial(unused.pop, name, None))
            module = model.get_submodule(name)
            hooks.callback(module.register_forward_pre_hook(move.there).remove)
            hooks.callback(module.register_forward_hook(move.back, always_call=True).remove)
        yield
    passes.refuse_unused(unused)


class _Move:
    """Puts moved weights in the place of a module's own, and back.

    All modules share scratch space by shape: memory of its own for every call would fall to pieces.
    """

    def __init__(
        self,
        steps: Mapping[str, torch.Tensor],
        sign: int,
        scratch: dict[torch.Size, torch.Tensor],
        called: Callable[[], object],
    ) -> None:
        self._steps = steps
        self._sign = sign
        self._scratch = scratch
        self._called = called
        self._own: dict[str, torch.Tensor] = {}

    def there(self, module: nn.Module, inputs: Any) -> None:
        self._called()
        for name, step in self._steps.items():
            parameter = module.get_parameter(name)
            self._own[name] = parameter.data
            if step.shape not in self._scratch:
                self._scratch[step.shape] = torch.empty_like(step)
            parameter.data = torch.add(
                parameter.data, step, alpha=self._sign, out=self._scratch[step.shape]
            )
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                # Training does not see the padding token's embedding, and neither do exact scores.
                parameter.data[module.padding_idx] = self._own[name][module.padding_idx]

    def back(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for name, data in self._own.items():
            module.get_parameter(name).data = data
        self._own.clear()


class _Lower:
    """The layers below the lowest tracked one: what they give is recorded in one pass and given back in the next."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._output: Any = None

    @classmethod
    @contextlib.contextmanager
    def below(cls, model: Any, blocks: Sequence[Block]) -> Iterator["_Lower"]:
        lower = cls(tracked.layers_below(model, blocks))
        try:
            yield lower
        finally:
            lower._output = None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        if not self._layers:
            yield
            return
        handle = self._layers[-1].register_forward_hook(self._record)
        try:
            yield
        finally:
            handle.remove()

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        # All of them give what the last one gave; each hands it on to the next, which does not look at it.
        patched = [vars(layer).get("forward") for layer in self._layers]
        for layer in self._layers:
            layer.forward = lambda *args, **kwargs: self._output
        try:
            yield
        finally:
            for layer, own in zip(self._layers, patched, strict=True):
                del layer.forward
                if own is not None:
                    layer.forward = own

    def _record(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self._output = output


def _norm(tensors: Mapping[str, torch.Tensor]) -> float:
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors.values()))
