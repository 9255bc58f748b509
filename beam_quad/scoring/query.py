"""The gradient of the query set."""

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from beam_quad import errors
from beam_quad.gradients import passes, tracked
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.gradients.windows import Window
from beam_quad.scoring import products, tensors

# Number of parts into which a query group's files are divided; gradients are summed separately for each part.
NUM_PARTS = 8


@dataclasses.dataclass(frozen=True)
class GradientSum:
    """Sum over documents of the gradients of their mean losses.

    Attributes:
      gradients: The sum by block, float32 or float64 [out, in (+ 1)].
      num_examples: Documents in the sum, without those of fewer than 2 tokens.
    """

    gradients: dict[str, torch.Tensor]
    num_examples: int

    def __add__(self, other: "GradientSum") -> "GradientSum":
        return GradientSum(
            tensors.add(self.gradients, other.gradients), self.num_examples + other.num_examples
        )

    def mean(self) -> dict[str, torch.Tensor]:
        """Divides by the number of documents.

        Returns:
          Gradient by block.

        Raises:
          UsageError: If there are no documents.
          IntegrityError: If the gradient is not finite.
        """
        if self.num_examples == 0:
            raise errors.UsageError("no query text has at least 2 tokens; pass other query files")
        if not all(torch.isfinite(total).all() for total in self.gradients.values()):
            raise errors.IntegrityError(
                "the query gradient is not finite: the proxy overflows on it"
            )
        return {name: total / self.num_examples for name, total in self.gradients.items()}

    def save(self, file: tensors.Writable) -> None:
        """Writes the sum as safetensors, block by block."""
        counts = torch.tensor([self.num_examples])
        named = {"counts": counts, **tensors.prefixed("gradient", self.gradients)}
        tensors.write(file, named)

    @classmethod
    def load(cls, reader: tensors.TensorReader, blocks: Iterable[str]) -> "GradientSum":
        """Reads the named blocks from a file written by `save`."""
        named = reader.read(["counts", *(f"gradient/{block}" for block in blocks)])
        return cls(tensors.with_prefix("gradient", named), int(named["counts"].item()))


def query_gradient(proxy: Proxy, blocks: Sequence[Block], texts: Sequence[str]) -> GradientSum:
    """Sums the gradients of the mean losses of query documents.

    A document's loss is the mean over the tokens predicted in its windows.

    Args:
      proxy: The model.
      blocks: The tracked blocks.
      texts: The documents.

    Returns:
      The sum, on the proxy's device; additive over any partition of the documents.
    """
    documents = proxy.read(texts)
    counts = torch.from_numpy(documents.loss_tokens)
    gradients = weighted_gradient(proxy, blocks, documents.windows, 1 / counts.double())
    return GradientSum(gradients, int((counts > 0).sum()))


def weighted_gradient(
    proxy: Proxy, blocks: Sequence[Block], pieces: Sequence[Window], per_document: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Computes the gradient of a weighted sum of token losses.

    Args:
      proxy: The model.
      blocks: The tracked blocks.
      pieces: The windows.
      per_document: Weight of each token's loss, by document, float64 [num_documents].

    Returns:
      Gradient by block, float32 (float64 for a float64 model) [out, in (+ 1)], on the proxy's device.
    """
    watched, modules = tracked.watched_modules(blocks), tracked.by_module(blocks)
    tied = tracked.tied_embeddings(blocks)

    def compute(max_batch_tokens: int) -> dict[str, torch.Tensor]:
        # New sums in every attempt, because `with_halving` starts over if memory runs out.
        totals = {
            block.name: torch.zeros(block.shape, dtype=proxy.sum_dtype, device=proxy.device)
            for block in blocks
        }

        def record(module: str, a: torch.Tensor, g: torch.Tensor) -> None:
            if module in tied:
                products.add_rows(totals[tied[module].name], a, g)
                return
            inputs = products.with_bias(a.to(proxy.sum_dtype), modules[module][0].has_bias)
            for block in modules[module]:
                totals[block.name] += products.summed_gradient(inputs, block.select(g))

        for batch in proxy.micro_batches(pieces, max_batch_tokens):
            weights = passes.token_weights(batch, per_document, proxy)
            passes.backward(proxy, watched, batch, weights, record)
        return totals

    return passes.with_halving(proxy, compute)
