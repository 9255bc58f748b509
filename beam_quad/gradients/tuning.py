"""Tunes a proxy on a few texts, to compare the losses of other texts under the two models."""

import dataclasses
from collections.abc import Sequence

from beam_quad import errors, seeding
from beam_quad.gradients.descent import descend
from beam_quad.gradients.proxy import Proxy


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The recipe of a tuning: AdamW without weight decay, with a learning rate that falls linearly to 0.

    Args:
      epochs: Passes over the texts.
      learning_rate: Positive learning rate of the first step; smaller than in training, because a query set is small.
      batch_texts: Texts in a step.
      seed: Seed of the order of the texts in every pass.
    """

    epochs: int = 4
    learning_rate: float = 1e-4
    batch_texts: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_texts < 1:
            raise ValueError(
                f"epochs and batch_texts must be at least 1, got {self.epochs} and {self.batch_texts}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


def tune(proxy: Proxy, texts: Sequence[str], tuning: Tuning | None = None) -> Proxy:
    """Tunes all parameters of a proxy on texts.

    A step lowers the mean of its texts' mean losses, so every text counts once, whatever its length. The order of the
    texts does not matter, because every pass draws its own order by their hashes. Dropout stays off.

    Args:
      proxy: The model; it is not changed.
      texts: Texts to tune on; texts with fewer than 2 tokens are left out.
      tuning: The recipe; by default `Tuning()`.

    Returns:
      A proxy with its own parameters, in the dtype of the given one. During tuning they are in `proxy.sum_dtype`, because
      small steps vanish in bfloat16.

    Raises:
      UsageError: If no text has 2 tokens.
      IntegrityError: If a gradient is not finite.
    """
    recipe = tuning or Tuning()
    documents = proxy.read(texts)
    usable = [i for i, count in enumerate(documents.loss_tokens) if count]
    if not usable:
        raise errors.UsageError("no text to tune the proxy on has at least 2 tokens")
    keys = seeding.keys([texts[i] for i in usable])
    batches = [
        documents.take([usable[i] for i in order[start : start + recipe.batch_texts]])
        for order in (
            seeding.lowest(recipe.seed, f"tune {epoch}", keys) for epoch in range(recipe.epochs)
        )
        for start in range(0, len(order), recipe.batch_texts)
    ]
    # The last step still has a rate above 0: its texts must count.
    rates = [recipe.learning_rate * (1 - step / len(batches)) for step in range(len(batches))]
    return descend(proxy, zip(rates, batches, strict=True))
