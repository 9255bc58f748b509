"""What training does: steps on a group of documents, and the decrease of the query loss after each."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from beam_quad import scoring
from beam_quad.gradients import Block, Proxy, tokenize
from pipelines.demo import proxy as training
from tests.benchmarks.counterfactual.draws import Draw

# The decrease, in nats, that a small step is scaled to: far above the rounding of a mean loss in float32 (about
# 1e-7), and small enough that its square does not count.
_SMALL = 1e-5

Precondition = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def query_losses(proxy: Proxy, queries: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Means the query documents' mean token losses, nats, float64 [num_queries]."""
    scorer = scoring.PerplexityScorer(proxy)
    return np.array([scorer.score(texts).mean() for texts in queries.values()])


def small_steps(
    proxy: Proxy,
    blocks: Sequence[Block],
    drawn: Draw,
    preconditions: Mapping[str, Precondition],
    predicted: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Takes one small step on each group: theta - step * P grad L(group), on the tracked layers.

    Args:
      proxy: The model; it is as before afterwards.
      blocks: The tracked layers.
      drawn: Groups and queries.
      preconditions: P of each kind of step; the identity makes it a step of SGD.
      predicted: What each kind's own score predicts, per unit of `step`, float64 [num_groups, num_queries]; it only
        scales the step, which is one for all groups.

    Returns:
      Measured decrease of the query losses per unit of `step`, by kind, float64 [num_groups, num_queries].
    """
    before = query_losses(proxy, drawn.queries)
    sizes = {kind: _SMALL / np.median(np.abs(scores)) for kind, scores in predicted.items()}
    decrease = {kind: np.empty_like(scores) for kind, scores in predicted.items()}
    texts = drawn.texts
    for row, members in enumerate(drawn.groups):
        gradient = scoring.query_gradient(proxy, blocks, [texts[i] for i in members]).mean()
        for kind, precondition in preconditions.items():
            with _moved(proxy, blocks, precondition(gradient), -sizes[kind]):
                after = query_losses(proxy, drawn.queries)
            decrease[kind][row] = (before - after) / sizes[kind]
    return decrease


@contextlib.contextmanager
def _moved(
    proxy: Proxy, blocks: Sequence[Block], direction: Mapping[str, torch.Tensor], step: float
) -> Iterator[None]:
    """Adds step * direction to the tracked weights, which are modules of their own without a bias, for a while."""
    weights = [proxy.model.get_parameter(f"{block.name}.weight").data for block in blocks]
    kept = [weight.clone() for weight in weights]
    try:
        for block, weight in zip(blocks, weights, strict=True):
            weight.add_(direction[block.name], alpha=step)
        yield
    finally:
        for weight, own in zip(weights, kept, strict=True):
            weight.copy_(own)


def adamw_steps(proxy: Proxy, drawn: Draw, recipe: training.Recipe) -> np.ndarray:
    """Trains all parameters on each group, from the same model with a new optimiser.

    Args:
      proxy: The model; it is not changed.
      drawn: Groups and queries.
      recipe: How to train.

    Returns:
      Measured decrease of the query losses, nats, float64 [num_groups, num_queries].
    """
    before = query_losses(proxy, drawn.queries)
    documents = [t[: proxy.context_length] for t in tokenize(proxy.tokenizer, drawn.texts)]
    decrease = []
    for members in drawn.groups:
        model = copy.deepcopy(proxy.model).requires_grad_(True)
        training.train(model, [documents[i] for i in members], recipe, drawn.seed)
        trained = Proxy(model, proxy.tokenizer, proxy.context_length, proxy.max_windows)
        decrease.append(before - query_losses(trained, drawn.queries))
    return np.array(decrease)
