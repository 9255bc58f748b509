"""Asks of a selection what it was made for: does a model learn the query better from it than from random texts?"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers

from beam_quad import seeding
from pipelines.demo import proxy

Loader = Callable[[], torch.nn.Module]


@dataclasses.dataclass(frozen=True)
class HeldOutLoss:
    """Held-out query loss, in nats per token, after going on training the proxy model.

    Attributes:
      before: Of the proxy model itself.
      selection: After the selection, one number for each order of its texts.
      random: After as many tokens of the corpus at random, one number for each draw.
    """

    before: float
    selection: tuple[float, ...]
    random: tuple[float, ...]


def held_out_loss(
    model_directory: pathlib.Path,
    selected: Sequence[str],
    corpus: Sequence[str],
    heldout: Sequence[str],
    recipe: proxy.Recipe,
    num_seeds: int,
    seed: int,
    progress: proxy.Progress,
) -> HeldOutLoss:
    """Goes on training the proxy on the selection, and on random texts of as many tokens.

    Both get the same recipe and the same number of tokens, so that nothing but the texts differs.

    Args:
      model_directory: The proxy, as `proxy.train_proxy` saved it.
      selected: Texts of the selection.
      corpus: All usable texts of the corpus.
      heldout: Texts of the query's source which the selection has not seen.
      recipe: How to train; `num_tokens` is cut to what the selection holds.
      num_seeds: Orders of the selection, and random draws.
      seed: The seed of both.
      progress: Takes a line after each training.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_directory)
    chosen, pool, held = (proxy.encode(tokenizer, texts) for texts in (selected, corpus, heldout))
    size = sum(map(len, chosen))
    recipe = dataclasses.replace(recipe, num_tokens=min(recipe.num_tokens, size))

    def after(documents: Sequence[Sequence[int]], repeat: int, name: str) -> float:
        model = load(model_directory)
        proxy.train(model, documents, recipe, seeding.integer(seed, "evaluation", repeat))
        loss = proxy.mean_loss(model, held)
        progress(f"after {recipe.num_tokens:,} tokens of the {name}: {loss:.3f}")
        return loss

    before = proxy.mean_loss(load(model_directory), held)
    progress(f"the proxy's loss on the held-out query texts: {before:.3f}")
    repeats = range(num_seeds)
    return HeldOutLoss(
        before=before,
        selection=tuple(after(chosen, r, "selection") for r in repeats),
        random=tuple(after(random_draw(pool, size, seed + r), r, "corpus") for r in repeats),
    )


def load(directory: pathlib.Path) -> torch.nn.Module:
    """Loads the proxy model for training."""
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def random_draw(
    documents: Sequence[Sequence[int]], num_tokens: int, seed: int
) -> list[Sequence[int]]:
    """Draws documents uniformly, without replacement, until they hold `num_tokens`."""
    order = seeding.generator(seed, "random draw").permutation(len(documents))
    enough = int(np.searchsorted(np.cumsum([len(documents[i]) for i in order]), num_tokens)) + 1
    return [documents[i] for i in order[:enough]]
