"""Continued training of a proxy on a selection, and the loss after it."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from beam_quad import errors, seeding
from beam_quad.gradients.descent import descend
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import Documents, Spans, Tokens, Window, read_tokens
from beam_quad.proof.verdict import Losses
from beam_quad.scoring import PerplexityScorer

# Small batches learn the most from few tokens, and the schedule needs enough steps.
_NUM_STEPS = 200
# Training from scratch needs more steps. With 240,000 parameters and four passes over 60,000 tokens of the demo's corpus, the
# held-out loss is 5.79 at 234 steps per pass and 6.13 at 59; after a single pass it is 6.61.
_STEPS_FROM_SCRATCH = 1000
# The compute-optimal tokens per parameter (Hoffmann et al. 2022), and the passes up to which repeated text is nearly as good
# as new text (Muennighoff et al. 2023).
_TOKENS_PER_PARAMETER = 20
_MOST_PASSES = 4
_LEARNING_RATE = 5e-4
_LONGEST_WINDOW = 512
_MEASURED_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training recipe: AdamW (0.9, 0.95), linear warm-up over a twentieth of the steps, cosine decay to a tenth.

    Args:
      num_tokens: Tokens of a pass; texts are repeated if they hold fewer.
      window: Tokens of a window, into which texts are packed, at least 2.
      batch_windows: Windows of a step.
      learning_rate: Learning rate at the end of the warm-up, positive.
      num_passes: Number of passes over the same tokens, each in another order.
    """

    num_tokens: int
    window: int
    batch_windows: int
    learning_rate: float = _LEARNING_RATE
    num_passes: int = 1

    def __post_init__(self) -> None:
        if min(self.num_tokens, self.batch_windows, self.num_passes) < 1 or self.window < 2:
            raise ValueError(
                "num_tokens, batch_windows and num_passes must be at least 1 and window at least 2, got "
                f"{self.num_tokens}, {self.batch_windows}, {self.num_passes} and {self.window}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

    @classmethod
    def of(cls, num_tokens: int, context_length: int, learning_rate: float) -> "Recipe":
        """Makes the recipe for continued training: about 200 steps, with windows of at most 512 tokens."""
        window = min(context_length, _LONGEST_WINDOW)
        batch = max(1, round(num_tokens / (_NUM_STEPS * window)))
        return cls(num_tokens, window, batch, learning_rate)

    @classmethod
    def from_scratch(
        cls, num_tokens: int, context_length: int, learning_rate: float, num_parameters: int
    ) -> "Recipe":
        """Makes the recipe for training from scratch: whole passes over the tokens, of about 1,000 steps each.

        The number of passes is the number needed to read 20 tokens per parameter, at most 4.

        References:
          Hoffmann et al., Training Compute-Optimal Large Language Models, 2022.
          Muennighoff et al., Scaling Data-Constrained Language Models, 2023.
        """
        window = min(context_length, _LONGEST_WINDOW)
        batch = max(1, round(num_tokens / (_STEPS_FROM_SCRATCH * window)))
        passes = math.ceil(_TOKENS_PER_PARAMETER * num_parameters / num_tokens)
        return cls(num_tokens, window, batch, learning_rate, max(1, min(_MOST_PASSES, passes)))

    @property
    def steps_of_a_pass(self) -> int:
        """Number of steps that read about `num_tokens`, at least 1."""
        return max(1, round(self.num_tokens / (self.batch_windows * self.window)))

    @property
    def num_steps(self) -> int:
        """Number of steps of all passes."""
        return self.num_passes * self.steps_of_a_pass

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warmup = max(1, self.num_steps // 20)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.num_steps - warmup)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def default_learning_rate(num_parameters: int | None) -> float:
    """Decides the learning rate of the trainings.

    For the model of `_STEPS_FROM_SCRATCH` the learning rate is 1.6e-3, with a loss of 5.79; 5e-4 gives 6.04, 3.2e-3 gives 5.93.

    Args:
      num_parameters: Parameters without embeddings of a model trained from scratch; None for continued training.

    References:
      Kaplan et al., Scaling Laws for Neural Language Models, 2020, equation D.1, which is valid up to 10¹⁰ parameters.
    """
    if num_parameters is None:
        return _LEARNING_RATE
    return max(1e-4, 3.239e-3 - 1.395e-4 * math.log(max(1, num_parameters)))


def training_order(seed: int, keys: np.ndarray) -> np.ndarray:
    """Computes the order in which a training reads texts: by hash, whatever their order in the input.

    Args:
      seed: Seed of the training.
      keys: Keys of the texts, uint64 [n].

    Returns:
      Positions, int64 [n].
    """
    return seeding.lowest(seed, "proof", keys)


def continue_training(proxy: Proxy, texts: Sequence[str], recipe: Recipe) -> Proxy:
    """Trains a copy of a proxy on texts, in the given order in the first pass; the proxy itself does not change.

    Texts are packed into windows, each followed by the tokenizer's end-of-text token if it has one. A step lowers the mean loss
    of its tokens; if texts answer prompts (`beam_quad.answers`), only tokens of answers count. Every pass reads the same
    windows.

    Returns:
      The trained proxy.

    Raises:
      UsageError: If the texts hold no token.
      IntegrityError: If a gradient is not finite.
    """
    documents = read_tokens(proxy.tokenizer, texts)
    if not any(own.ids if own.answers is None else own.answers for own in documents):
        raise errors.UsageError("no text to train the proxy on has a token")
    first = itertools.islice(
        _filled(itertools.cycle(documents), proxy.tokenizer.eos_token_id, recipe.window),
        recipe.steps_of_a_pass * recipe.batch_windows,
    )
    batches = _batches(_passes(list(first), recipe.num_passes), recipe)
    steps = ((recipe.rate(step), batch) for step, batch in enumerate(batches))
    return descend(proxy, steps, betas=(0.9, 0.95))


def measure(proxy: Proxy, texts: Sequence[str]) -> Losses:
    """Measures the losses of texts, each read separately from its start.

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
    documents: Iterator[Tokens], end_of_text: int | None, recipe: Recipe
) -> Iterator[Documents]:
    """Packs tokens into windows, each of which counts as one document of a step.

    Args:
      documents: Tokens of each text.
      end_of_text: Token added after each text, if the tokenizer has one.
      recipe: The recipe, which sets the tokens of a window and the windows of a step.

    Returns:
      The windows of each step. Windows without a token of the loss are skipped; an incomplete window or step at the end is
      dropped.
    """
    return _batches(_filled(documents, end_of_text, recipe.window), recipe)


def _filled(documents: Iterator[Tokens], end_of_text: int | None, size: int) -> Iterator[Window]:
    """Yields full windows with a token of the loss; the tokens left over at the end are dropped."""
    separator = [] if end_of_text is None else [end_of_text]
    buffer: list[int] = []
    # Spans of answers in the buffer; a text without marks counts as one answer, including its end-of-text token.
    spans: list[tuple[int, int]] = []
    for tokens in documents:
        first = len(buffer)
        buffer += [*tokens.ids, *separator]
        own = ((0, len(buffer) - first),) if tokens.answers is None else tokens.answers
        spans += [(first + start, first + end) for start, end in own]
        full = len(buffer) // size * size
        for at in range(0, full, size):
            window = Window(0, 0, buffer[at : at + size], _within(spans, at, size))
            if window.predicted:
                yield window
        buffer = buffer[full:]
        spans = list(_within(spans, full, len(buffer)))


def _within(spans: Sequence[tuple[int, int]], first: int, size: int) -> Spans:
    """Clips spans to `size` tokens from `first`, and counts their positions from `first`."""
    cut = ((max(start - first, 0), min(end - first, size)) for start, end in spans)
    return tuple((start, end) for start, end in cut if start < end)


def _passes(windows: Sequence[Window], num_passes: int) -> Iterator[Window]:
    """Yields all windows once per pass: first in the given order, then shuffled by hash."""
    yield from windows
    keys = np.arange(len(windows), dtype=np.uint64)
    for number in range(1, num_passes):
        yield from (windows[i] for i in seeding.lowest(number, "proof pass", keys))


def _batches(windows: Iterator[Window], recipe: Recipe) -> Iterator[Documents]:
    """Yields the windows of each step; windows that do not fill a step are dropped."""
    while len(batch := list(itertools.islice(windows, recipe.batch_windows))) == (
        recipe.batch_windows
    ):
        # Every predicted token of the step has the same weight, whatever the number of such tokens in its window.
        tokens = sum(window.num_predicted for window in batch)
        counts = np.full(len(batch), tokens / len(batch))
        yield Documents([dataclasses.replace(w, document=i) for i, w in enumerate(batch)], counts)
