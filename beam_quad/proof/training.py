"""Goes on training a proxy on a selection, and measures what it has learnt."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from beam_quad import errors, seeding
from beam_quad.gradients.descent import descend
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import Documents, Window, tokenize
from beam_quad.proof.verdict import Losses
from beam_quad.scoring import PerplexityScorer

# Small batches learn most from few tokens, and a schedule needs some steps.
_NUM_STEPS = 200
_LONGEST_WINDOW = 512
_MEASURED_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a proxy goes on training: AdamW (0.9, 0.95), a linear warm-up over a twentieth, cosine decay to a tenth.

    Args:
      num_tokens: Tokens to read; texts are read again if they hold fewer.
      window: Tokens of a window, into which texts are packed one after the other, at least 2.
      batch_windows: Windows of a step.
      learning_rate: Of the warm-up's end, positive.
    """

    num_tokens: int
    window: int
    batch_windows: int
    learning_rate: float = 5e-4

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.batch_windows < 1 or self.window < 2:
            raise ValueError(
                "num_tokens and batch_windows must be at least 1 and window at least 2, got "
                f"{self.num_tokens}, {self.batch_windows} and {self.window}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

    @classmethod
    def of(cls, num_tokens: int, context_length: int, learning_rate: float) -> "Recipe":
        """Makes the recipe of a proof: about 200 steps, of windows of at most 512 tokens."""
        window = min(context_length, _LONGEST_WINDOW)
        batch = max(1, round(num_tokens / (_NUM_STEPS * window)))
        return cls(num_tokens, window, batch, learning_rate)

    @property
    def num_steps(self) -> int:
        """Steps that read about `num_tokens`, at least one."""
        return max(1, round(self.num_tokens / (self.batch_windows * self.window)))

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warmup = max(1, self.num_steps // 20)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.num_steps - warmup)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def training_order(seed: int, keys: np.ndarray) -> np.ndarray:
    """The order in which a training reads texts: that of their hashes, whatever order they come in.

    Args:
      seed: Of the training.
      keys: Of the texts, uint64 [n].

    Returns:
      Positions, int64 [n].
    """
    return seeding.lowest(seed, "proof", keys)


def continue_training(proxy: Proxy, texts: Sequence[str], recipe: Recipe) -> Proxy:
    """Goes on training a proxy on texts, in the order given; it is left as it is.

    Texts are packed into windows one after the other, the tokenizer's end of text after each if it has one. A step
    lowers the mean loss of its tokens.

    Returns:
      The trained proxy.

    Raises:
      UsageError: If the texts hold no token.
      IntegrityError: If a gradient is not finite.
    """
    documents = tokenize(proxy.tokenizer, texts)
    if not any(documents):
        raise errors.UsageError("no text to train the proxy on has a token")
    batches = packed(itertools.cycle(documents), proxy.tokenizer.eos_token_id, recipe)
    steps = ((recipe.rate(step), next(batches)) for step in range(recipe.num_steps))
    return descend(proxy, steps, betas=(0.9, 0.95))


def measure(proxy: Proxy, texts: Sequence[str]) -> Losses:
    """Measures the losses of texts, each read by itself from its start.

    Raises:
      IntegrityError: If a loss is not finite.
    """
    scorer = PerplexityScorer(proxy)
    sums, counts = np.zeros(len(texts)), np.zeros(len(texts))
    for first in range(0, len(texts), _MEASURED_AT_ONCE):
        documents = proxy.read(texts[first : first + _MEASURED_AT_ONCE])
        here = slice(first, first + len(documents.loss_tokens))
        counts[here] = documents.loss_tokens
        means = scorer.score(documents)[:, 0]
        sums[here] = np.where(documents.loss_tokens > 0, means, 0.0) * documents.loss_tokens
    if not np.isfinite(sums).all():
        raise errors.IntegrityError(
            "the loss of a held-out text is not finite after training; lower the learning rate"
        )
    return Losses(sums, counts)


def packed(
    documents: Iterator[Sequence[int]], end_of_text: int | None, recipe: Recipe
) -> Iterator[Documents]:
    """Packs tokens into windows, each of which counts as one document of a step.

    Args:
      documents: Tokens of each text.
      end_of_text: Put after each text, if there is such a token.
      recipe: How many windows of how many tokens a step has.

    Yields:
      The windows of each step; what does not fill one is left out.
    """
    size = recipe.batch_windows * recipe.window
    separator = [] if end_of_text is None else [end_of_text]
    counts = np.full(recipe.batch_windows, recipe.window - 1, np.int64)
    buffer: list[int] = []
    for tokens in documents:
        buffer += [*tokens, *separator]
        while len(buffer) >= size:
            starts = range(0, size, recipe.window)
            windows = [Window(i, 0, buffer[at : at + recipe.window]) for i, at in enumerate(starts)]
            yield Documents(windows, counts)
            buffer = buffer[size:]
