"""Jacobian-vector products through a model's first blocks: the effect of a fixed parameter step on a text."""

import contextlib
import copy
import dataclasses
import gc
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from beam_quad import errors, seeding
from beam_quad.gradients import passes
from beam_quad.gradients.attention import eager_attention, fitting_tokens
from beam_quad.gradients.checkpoints import first_line
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import MicroBatch, Window, micro_batches

# Tolerance, relative to their norm, between products computed in two ways.
_ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclasses.dataclass(frozen=True, eq=False)
class LowerBlocks:
    """A model cut after its first transformer blocks, with tangents of all parameters of these blocks.

    Attributes:
      model: Embeddings, the first blocks and the final norm; they are the whole model's own modules.
      tangents: Standard normal draws, by the parameter's name in `model`, [num_tangents, *shape of the parameter].
      last_mlp: MLP of the last block, if it can run on the last tokens alone (18 % less time for 4 blocks).
    """

    model: Any
    tangents: dict[str, torch.Tensor]
    last_mlp: nn.Module | None = None

    @classmethod
    def of(cls, proxy: Proxy, num_blocks: int, num_tangents: int, seed: int) -> "LowerBlocks":
        """Cuts a model and draws tangents from (seed, tangent, parameter's name).

        Args:
          proxy: The model; it is not changed.
          num_blocks: Blocks to keep, or all if the model has fewer.
          num_tangents: Tangents to draw.
          seed: Seed of the tangents.

        Returns:
          The cut model, on the proxy's device.

        Raises:
          UsageError: If the model has no single stack of blocks, or its blocks have no forward derivative (mixtures of
            experts).
        """
        model, stack = cut_model(proxy.model, num_blocks)
        tangents = {
            name: torch.stack([_normal(seed, k, name, value) for k in range(num_tangents)])
            for name, value in model.named_parameters()
            if name.startswith(f"{stack}.")
        }
        # Architectures differ, so the shortcut for the last MLP is used only if it reproduces the products of two windows.
        whole = cls(model, tangents)
        expected = whole._probed(proxy)
        last_block = list(model.get_submodule(stack).children())[-1]
        trimmed = cls(model, tangents, getattr(last_block, "mlp", None))
        return trimmed if trimmed._agrees(proxy, expected) else whole

    @property
    def hidden_size(self) -> int:
        """Width of the final norm's output."""
        return int(self.model.config.get_text_config().hidden_size)

    def products(self, proxy: Proxy, batch: MicroBatch) -> torch.Tensor:
        """Computes the products at the last token of each window, after the final norm.

        One pass takes the forward derivatives along all tangents and runs the model itself once. Tokens to the right of
        a token never reach it, so padding needs no mask.

        Args:
          proxy: The proxy that `of` was given.
          batch: The windows, of at least 1 token.

        Returns:
          [batch, num_tangents, hidden_size], in the dtype of the model.
        """
        tokens = passes.to_device(batch.tokens, proxy)
        rows = torch.arange(len(tokens), device=tokens.device)
        last = passes.to_device(batch.lengths - 1, proxy)

        def read(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
            output = torch.func.functional_call(
                self.model, parameters, (), {"input_ids": tokens, "use_cache": False}
            )
            hidden: torch.Tensor = output.last_hidden_state
            return hidden[rows, last]

        def product(tangents: dict[str, torch.Tensor]) -> torch.Tensor:
            moved: torch.Tensor = torch.func.jvp(read, (parameters,), (tangents,))[1]
            return moved

        own_mode = self._last_tokens_only(rows, last)
        with proxy.lock, torch.no_grad(), eager_attention(proxy.model), own_mode:
            parameters = {name: self.model.get_parameter(name) for name in self.tangents}
            by_tangent: torch.Tensor = torch.func.vmap(product)(self.tangents)
        return by_tangent.transpose(0, 1)

    def batch_tokens(self, length: int, max_batch_tokens: int) -> int:
        """Lowers `max_batch_tokens` to fit eager attention, for windows of at most `length` tokens."""
        return fitting_tokens(self.model, length, max_batch_tokens)

    def _probed(self, proxy: Proxy) -> torch.Tensor:
        """Computes the products of two windows of different lengths."""
        windows = [Window(0, 0, [1, 2, 0, 1]), Window(1, 0, [2, 1])]
        (batch,) = micro_batches(windows, context_length=8, max_batch_tokens=16)
        _load_derivatives()
        try:
            return self.products(proxy, batch)
        except RuntimeError as error:
            raise errors.UsageError(
                "the proxy's first blocks have no forward derivative "
                f"({first_line(error)}); take another embedder"
            ) from error

    def _agrees(self, proxy: Proxy, expected: torch.Tensor) -> bool:
        try:
            found = self._probed(proxy)
        except (errors.UsageError, IndexError):
            return False
        return bool((found - expected).norm() <= _ROUNDING[found.dtype] * expected.norm())

    @contextlib.contextmanager
    def _last_tokens_only(self, rows: torch.Tensor, last: torch.Tensor) -> Iterator[None]:
        """Runs the last MLP on one token of each window, [batch, 1, hidden_size].

        Broadcasting adds its output to the residual stream at all positions. This is correct at the last token, and no
        other position is read afterwards.
        """
        if self.last_mlp is None:
            yield
            return
        handle = self.last_mlp.register_forward_pre_hook(
            lambda module, inputs: (inputs[0][rows, last][:, None], *inputs[1:])
        )
        try:
            yield
        finally:
            handle.remove()


def cut_model(model: Any, num_blocks: int) -> tuple[nn.Module, str]:
    """Returns a model of the same modules with the first blocks only, and the name of the stack of blocks."""
    base = model.base_model
    depth = model.config.get_text_config().num_hidden_layers
    for name, module in base.named_modules():
        # Models name their stack differently (layers, h, blocks); its length tells it from other lists.
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return _with_submodule(base, name, module[:num_blocks]), name
    raise errors.UsageError(
        f"no stack of {depth} blocks was found in the proxy; take another embedder"
    )


def _with_submodule(module: nn.Module, name: str, replacement: nn.Module) -> nn.Module:
    """Replaces a submodule in copies of its ancestors; all other modules are shared."""
    child, _, rest = name.partition(".")
    own = module.get_submodule(child)
    copied = copy.copy(module)
    # A shallow copy shares the table of its submodules with the original.
    copied._modules = {
        **module._modules,
        child: _with_submodule(own, rest, replacement) if rest else replacement,
    }
    return copied


def _normal(seed: int, tangent: int, name: str, like: torch.Tensor) -> torch.Tensor:
    # Unlike torch's draws, NumPy's do not depend on the device.
    draws = seeding.generator(seed, "tangent", tangent, name).standard_normal(
        tuple(like.shape), dtype="float32"
    )
    return torch.from_numpy(draws).to(like)


def _load_derivatives() -> None:
    """Imports torch's formulas for forward derivatives; the import compiles source."""
    # A garbage collection during the import would let another thread compile at the same time, which raises a SystemError
    # in CPython 3.11 (python/cpython#106905).
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("torch._decomp.decompositions_for_jvp")
    finally:
        if was_enabled:
            gc.enable()
