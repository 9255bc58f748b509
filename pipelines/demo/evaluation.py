"""Measures whether a model learns the query better from a selection than from random texts."""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import transformers

from beam_quad import seeding
from pipelines.demo import proxy

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class HeldOutLoss:
    """Held-out query loss of the proxy model, in nats per token, before and after further training.

    Attributes:
      before: The loss before this training.
      after: The losses after training on each selection, by its name, one for each order of its texts; under `RANDOM`, on as
        many random tokens of the corpus, one for each draw.
    """

    before: float
    after: dict[str, tuple[float, ...]]


def held_out_loss(
    model_directory: pathlib.Path,
    selections: Mapping[str, Sequence[str]],
    corpus: Sequence[str],
    heldout: Sequence[str],
    recipe: proxy.Recipe,
    num_seeds: int,
    seed: int,
    progress: proxy.Progress,
) -> HeldOutLoss:
    """Trains the proxy further on each selection, and on random texts of as many tokens.

    All get the same recipe and the same number of tokens, so only the texts differ.

    Args:
      model_directory: The proxy, as `proxy.train_proxy` saved it.
      selections: Texts of each selection, by its name.
      corpus: All usable texts of the corpus.
      heldout: Texts of the query's source, unseen by every selection.
      recipe: How to train; `num_tokens` is cut to what each selection holds.
      num_seeds: Orders of each selection, and random draws.
      seed: The seed of all.
      progress: Takes a line after each training.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_directory)
    chosen = {name: proxy.encode(tokenizer, texts) for name, texts in selections.items()}
    pool, held = (proxy.encode(tokenizer, texts) for texts in (corpus, heldout))
    # The smallest selection limits all: with more tokens its texts alone would be repeated.
    size = min(sum(map(len, documents)) for documents in chosen.values())
    recipe = dataclasses.replace(recipe, num_tokens=min(recipe.num_tokens, size))

    def train_on(documents: Sequence[Sequence[int]], repeat: int) -> float:
        model = load(model_directory)
        proxy.train(model, documents, recipe, seeding.integer(seed, "evaluation", repeat))
        return proxy.mean_loss(model, held)

    before = proxy.mean_loss(load(model_directory), held)
    progress(f"the proxy's loss on the held-out query texts: {before:.3f}")
    after: dict[str, tuple[float, ...]] = {}
    repeats = range(num_seeds)
    for name, documents in chosen.items():
        after[name] = tuple(train_on(documents, repeat) for repeat in repeats)
        progress(
            f"after {recipe.num_tokens:,} tokens of {name}: {statistics.mean(after[name]):.3f}"
        )
    after[RANDOM] = tuple(train_on(random_draw(pool, size, seed + r), r) for r in repeats)
    progress(f"after {recipe.num_tokens:,} random tokens: {statistics.mean(after[RANDOM]):.3f}")
    return HeldOutLoss(before, after)


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
