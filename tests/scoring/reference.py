"""Gradients the slow way: one document at a time, through `backward()` of the parameters."""

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from beam_quad.gradients import Block, Proxy, windows


def document_windows(proxy: Proxy, text: str) -> list[list[int]]:
    (tokens,) = windows.tokenize(proxy.tokenizer, [text])
    return [list(w) for w in windows.cut(tokens, proxy.context_length, proxy.max_windows)]


def token_losses(
    proxy: Proxy, tokens: Sequence[int], labels: torch.Tensor | None = None
) -> torch.Tensor:
    """Losses of the tokens of one window, with its own labels or others, float [tokens - 1]."""
    ids = torch.tensor([list(tokens)])
    logits = proxy.model(input_ids=ids).logits[0, :-1]
    target = ids[0, 1:] if labels is None else labels
    return functional.cross_entropy(logits, target, reduction="none")


def document_loss(proxy: Proxy, text: str) -> torch.Tensor:
    """The token-weighted mean of the windows' mean losses."""
    each = [token_losses(proxy, tokens) for tokens in document_windows(proxy, text)]
    means, counts = [losses.mean() for losses in each], [len(losses) for losses in each]
    return sum(m * c for m, c in zip(means, counts, strict=True)) / sum(counts)


def gradient(proxy: Proxy, blocks: Sequence[Block], loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Differentiates by weights and biases, by block, [out, in (+ 1)]; the parameters must require gradients."""
    found = {}
    for block in blocks:
        module = proxy.model.get_submodule(block.module)
        wanted = [module.weight] if module.bias is None else [module.weight, module.bias]
        weight, *bias = torch.autograd.grad(loss, wanted, retain_graph=True)
        weight = weight.T if isinstance(module, Conv1D) else weight
        whole = torch.cat([weight, *(b[:, None] for b in bias)], dim=1)
        found[block.name] = whole[block.select(torch.arange(len(whole)))]
    return found


def document_gradient(proxy: Proxy, blocks: Sequence[Block], text: str) -> dict[str, torch.Tensor]:
    proxy.model.requires_grad_(True)
    try:
        return gradient(proxy, blocks, document_loss(proxy, text))
    finally:
        proxy.model.requires_grad_(False)


def inner(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return sum(float((left[name] * right[name]).sum()) for name in left)


def random_vectors(blocks: Sequence[Block], seed: int = 0) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {b.name: torch.randn(b.shape, generator=draws, dtype=torch.float64) for b in blocks}
