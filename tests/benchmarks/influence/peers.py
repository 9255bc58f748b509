"""Other ways to the same numbers: parameter gradients, per-example gradients by `vmap`, dattri's hooks."""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from beam_quad.gradients import Proxy
from beam_quad.gradients.windows import Documents
from tests.benchmarks.influence import clocks
from tests.benchmarks.influence.methods import Function, plain_kernels
from tests.benchmarks.influence.ours import Tracked


def batches(documents: Documents, micro_batch: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Stacks windows of one length, int64 [batch, length]."""
    tokens = torch.tensor([list(window.tokens) for window in documents.windows], device=device)
    yield from tokens.split(max(1, micro_batch // tokens.shape[1]))


def token_loss(logits: torch.Tensor, tokens: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Takes the loss of the next token of every position, in nats."""
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction
    )


def forward_backward(name: str, proxy: Proxy) -> Function:
    """A plain training pass: the gradient of every parameter, summed over the documents."""
    model = copy.deepcopy(proxy.model).requires_grad_(True)

    def run(documents: Documents, micro_batch: int) -> None:
        with plain_kernels():
            for tokens in batches(documents, micro_batch, proxy.device):
                token_loss(model(input_ids=tokens, use_cache=False).logits, tokens).backward()
        model.zero_grad(set_to_none=True)

    return Function(name, run, proxy.device)


def per_example(name: str, proxy: Proxy, tracked: Tracked) -> Function:
    """Per-example gradients of the tracked weights by `torch.func`, multiplied by the vector."""
    model = proxy.model
    vector = _by_parameter(proxy, tracked)
    weights = {parameter: model.get_parameter(parameter) for parameter in vector}

    def loss(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        arguments: dict[str, Any] = {"input_ids": tokens[None], "use_cache": False}
        output = torch.func.functional_call(model, weights, (), arguments)
        return token_loss(output.logits, tokens[None])

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))

    def score(tokens: torch.Tensor) -> torch.Tensor:
        found = gradients(weights, tokens)
        return sum(torch.einsum("boi,oi->b", found[p], v) for p, v in vector.items())

    scores = functools.partial(_in_batches, score, proxy)
    return Function(name, scores, proxy.device, clocks.held_bytes(vector))


def dattri_hooks(name: str, proxy: Proxy, tracked: Tracked) -> Function:
    """dattri's per-example gradients by hooks, its fastest way, not projected, multiplied by the vector.

    Its `attribute` computes the query's gradient anew for every batch of candidates; that is left out here.

    Raises:
      ImportError: If dattri is not installed.
    """
    from dattri.algorithm.block_projected_if.core import compressor, hook

    vector = _by_parameter(proxy, tracked)
    model = copy.deepcopy(proxy.model)
    for parameter in vector:
        model.get_parameter(parameter).requires_grad_(True)
    modules = [parameter.removesuffix(".weight") for parameter in vector]
    device = str(proxy.device)
    whole = {"proj_dim": -1, "proj_max_batch_size": 64, "proj_type": "identity", "device": device}
    example = {"input_ids": torch.zeros(1, 8, dtype=torch.int64)}
    compressors = compressor.setup_model_compressors(
        model, modules, dict(whole), dict(whole), example, device
    )
    manager = hook.HookManager(model, modules, device)
    manager.set_compressors(compressors)
    directions = [v.flatten() for v in vector.values()]

    def score(tokens: torch.Tensor) -> torch.Tensor:
        # Its hooks multiply by the batch's size, for a loss that is the batch's mean.
        token_loss(model(input_ids=tokens, use_cache=False).logits, tokens).backward()
        with torch.no_grad():
            found = manager.get_compressed_grads()
            return sum(g @ v for g, v in zip(found, directions, strict=True))

    def run(documents: Documents, micro_batch: int) -> np.ndarray:
        scores = _in_batches(score, proxy, documents, micro_batch)
        # It keeps the last batch's gradients, which would hide those of the next call from its memory.
        manager.compressed_grads = [None] * len(modules)
        return scores

    return Function(name, run, proxy.device, clocks.held_bytes(directions))


def _in_batches(
    score: Callable[[torch.Tensor], torch.Tensor],
    proxy: Proxy,
    documents: Documents,
    micro_batch: int,
) -> np.ndarray:
    with plain_kernels():
        parts = [score(tokens).cpu() for tokens in batches(documents, micro_batch, proxy.device)]
    return torch.cat(parts).double().numpy()


def _by_parameter(proxy: Proxy, tracked: Tracked) -> dict[str, torch.Tensor]:
    return {
        f"{block.module}.weight": tracked.vector[block.name].to(proxy.device, proxy.dtype)
        for block in tracked.blocks
    }
