"""A proxy tuned on a few texts: what the loss of other texts is compared under."""

import copy
import dataclasses
from collections.abc import Sequence

import torch

from beam_quad import errors, seeding
from beam_quad.gradients import losses, passes
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import Documents

_MAX_GRADIENT_NORM = 1.0


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How a proxy is tuned: AdamW without weight decay, at a rate that falls linearly to 0.

    Args:
      epochs: Passes over the texts.
      learning_rate: Rate of the first step, positive: small beside that of training, as a query set is small.
      batch_texts: Texts of a step.
      seed: Draws the order of the texts in every pass.
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

    A step lowers the mean over its texts of their mean losses, so that a text counts once, however long it is. The order
    of the texts does not matter: every pass draws its own by their hashes. Dropout stays off.

    Args:
      proxy: The model, which is left as it is.
      texts: What it is tuned on; those with fewer than 2 tokens are left out.
      tuning: The recipe; by default `Tuning()`.

    Returns:
      A proxy with parameters of its own, in the dtype of the given one. While they are tuned they are in `proxy.sum_dtype`,
      as bfloat16 would swallow small steps.

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
    model = copy.deepcopy(proxy.model)
    _cast(model, proxy.sum_dtype)
    tuned = dataclasses.replace(proxy, model=model)
    model.requires_grad_(True)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    batches = [
        documents.take([usable[i] for i in order[start : start + recipe.batch_texts]])
        for order in (
            seeding.lowest(recipe.seed, f"tune {epoch}", keys) for epoch in range(recipe.epochs)
        )
        for start in range(0, len(order), recipe.batch_texts)
    ]
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * (1 - step / len(batches))
        _differentiate(tuned, batch)
        norm = torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
        if not torch.isfinite(norm):
            raise errors.IntegrityError(
                f"the gradient of tuning is not finite in step {step} of {len(batches)}; "
                "lower the learning rate"
            )
        optimizer.step()
    model.zero_grad()
    _cast(model, proxy.dtype)
    return dataclasses.replace(proxy, model=model)


def _cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    # `Module.to` would cast buffers too, such as the frequencies of rotary embeddings, which stay in float32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _differentiate(proxy: Proxy, documents: Documents) -> None:
    """Leaves in the parameters the gradient of the mean over documents of their mean losses."""
    counts = torch.from_numpy(documents.loss_tokens).double()
    per_document = 1 / (counts * len(counts))

    def compute(max_batch_tokens: int) -> None:
        proxy.model.zero_grad()
        for batch in proxy.micro_batches(documents.windows, max_batch_tokens):
            weights = passes.token_weights(batch, per_document, proxy)
            labels = passes.to_device(batch.labels, proxy)
            with proxy.lock, torch.enable_grad():
                outputs = passes.logits(proxy, batch)
                gradient = losses.loss_gradient(outputs, labels, weights, None)
                torch.autograd.backward(outputs, gradient)

    passes.with_halving(proxy, compute)
