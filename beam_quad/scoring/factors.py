"""Kronecker factors: covariances of layers' inputs and of their output gradients.

Modules with the same input tensor, such as q, k and v in most models, share one A. Results by input are named by the first module
with that input.

The head has as many outputs as the vocabulary has tokens. Only the diagonal of its G is computed, so its eigenbasis on that side
is the tokens themselves.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import torch

from beam_quad import errors
from beam_quad.gradients import passes, tracked
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.scoring import products, tensors
from beam_quad.scoring.fitting import Labels, SumLossPasses


@dataclasses.dataclass(frozen=True)
class CovarianceSum:
    """Sums over tokens of a aᵀ and g gᵀ, for one input of tracked modules.

    Both sums run over all tokens of a window except padding, as in kronfluence with an attention mask. The last token counts
    too: its a is in A, and its g, always 0 because no prediction in the loss depends on it, counts in the mean G. T, the mean
    tokens per sequence, includes it, so that T G (x) A is per sequence.

    Attributes:
      activation: Sum of a aᵀ, including the 1 of a bias, symmetric, float32 or float64 [in (+ 1), in (+ 1)].
      gradients: Sum of g gᵀ by block, symmetric, same dtype [out, out]; for a head, its diagonal, [out].
      num_tokens: Tokens in the sums.
      num_sequences: Windows in the sums.
      embeddings: For a head tied to the input embedding, the sum of the squared norms of the gradients of each token's
        embedding, [out].
    """

    activation: torch.Tensor
    gradients: dict[str, torch.Tensor]
    num_tokens: int
    num_sequences: int
    embeddings: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "CovarianceSum") -> "CovarianceSum":
        return CovarianceSum(
            self.activation + other.activation,
            tensors.add(self.gradients, other.gradients),
            self.num_tokens + other.num_tokens,
            self.num_sequences + other.num_sequences,
            tensors.add(self.embeddings, other.embeddings),
        )

    def save(self, file: tensors.Writable) -> None:
        """Writes the sum as safetensors, with only the upper triangle of each matrix."""
        counts = torch.tensor([self.num_tokens, self.num_sequences])
        triangles, diagonals = {}, {}
        for name, total in self.gradients.items():
            if total.ndim == 1:
                diagonals[name] = total
            else:
                triangles[name] = tensors.upper_triangle(total)
        tensors.write(
            file,
            {
                "activation": tensors.upper_triangle(self.activation),
                "counts": counts,
                **tensors.prefixed("gradient", triangles),
                **tensors.prefixed("diagonal", diagonals),
                **tensors.prefixed("embedding", self.embeddings),
            },
        )

    @classmethod
    def load(cls, file: BinaryIO) -> "CovarianceSum":
        """Reads what `save` wrote."""
        named = tensors.read(file)
        num_tokens, num_sequences = named["counts"].tolist()
        gradients = {
            name: tensors.symmetric(triangle)
            for name, triangle in tensors.with_prefix("gradient", named).items()
        }
        return cls(
            tensors.symmetric(named["activation"]),
            gradients | tensors.with_prefix("diagonal", named),
            num_tokens,
            num_sequences,
            tensors.with_prefix("embedding", named),
        )


@dataclasses.dataclass(frozen=True)
class Eigenbasis:
    """Eigenvectors and eigenvalues of one input's factor A and of its blocks' factors G.

    Attributes:
      activation_values: Eigenvalues s_A of A, at least 0, [in (+ 1)].
      activation_vectors: U_A, eigenvectors in columns, [in (+ 1), in (+ 1)].
      gradient_values: s_G of each block's G, [out].
      gradient_vectors: U_G of each block, [out, out]; for a head, whose U_G is the identity, the diagonal, [out].
      tokens_per_sequence: T, mean tokens of a window.
    """

    activation_values: torch.Tensor
    activation_vectors: torch.Tensor
    gradient_values: dict[str, torch.Tensor]
    gradient_vectors: dict[str, torch.Tensor]
    tokens_per_sequence: float

    def save(self, file: tensors.Writable) -> None:
        """Writes the basis as safetensors."""
        tensors.write(
            file,
            {
                "activation_values": self.activation_values,
                "activation_vectors": self.activation_vectors,
                "tokens_per_sequence": torch.tensor(
                    [self.tokens_per_sequence], dtype=torch.float64
                ),
                **tensors.prefixed("gradient_values", self.gradient_values),
                **tensors.prefixed("gradient_vectors", self.gradient_vectors),
            },
        )

    @classmethod
    def load(cls, file: BinaryIO) -> "Eigenbasis":
        """Reads what `save` wrote."""
        named = tensors.read(file)
        return cls(
            named["activation_values"],
            named["activation_vectors"],
            tensors.with_prefix("gradient_values", named),
            tensors.with_prefix("gradient_vectors", named),
            named["tokens_per_sequence"].item(),
        )


def covariance_sums(
    proxy: Proxy,
    blocks: Sequence[Block],
    ids: Sequence[str],
    texts: Sequence[str],
    seed: int,
    labels: Labels = "sampled",
) -> dict[str, CovarianceSum]:
    """Sums the covariances of every input of tracked modules over a group of examples.

    Args:
      proxy: The model.
      blocks: The tracked blocks.
      ids: Example ids; labels are drawn from (seed, id, window, position).
      texts: Texts of the examples.
      seed: The run's seed.
      labels: "sampled" from the model (the true Fisher), or "empirical", the text's own tokens.

    Returns:
      One sum per input, by its first module, on the CPU, float32 (float64 for a float64 model).

    Raises:
      UsageError: If texts do not pass token by token through a tracked module.

    References:
      Grosse et al., Studying Large Language Model Generalization with Influence Functions, 2023.
    """
    sample = SumLossPasses(proxy, ids, texts, seed, labels)
    watched = tracked.watched_modules(blocks)
    groups = passes.input_groups(proxy, blocks)

    def compute(max_batch_tokens: int) -> dict[str, CovarianceSum]:
        accumulator = _Covariances(proxy, blocks, groups)
        for batch in sample.batches(max_batch_tokens):
            accumulator.token_mask = batch.token_mask.to(proxy.device)
            sample.run(watched, batch, accumulator.record)
        return accumulator.sums(sample.num_tokens, len(sample.windows))

    return passes.with_halving(proxy, compute)


class _Covariances:
    def __init__(
        self,
        proxy: Proxy,
        blocks: Sequence[Block],
        groups: Mapping[str, Sequence[Block]],
    ) -> None:
        self._modules = tracked.by_module(blocks)
        self._tied = tracked.tied_embeddings(blocks)
        self._groups = groups
        self._dtype = proxy.sum_dtype
        self._activation = {name: _square(b[0].shape[1], proxy) for name, b in groups.items()}
        self._gradient = {
            b.name: _row(b.shape[0], proxy) if b.is_head else _square(b.shape[0], proxy)
            for b in blocks
        }
        self._embedding = {b.name: _row(b.shape[0], proxy) for b in self._tied.values()}
        self.token_mask = torch.empty(0)

    def record(self, module: str, a: torch.Tensor, g: torch.Tensor) -> None:
        if module in self._tied:
            squares = g.to(self._dtype).square().sum(2)
            self._embedding[self._tied[module].name].index_add_(0, a.flatten(), squares.flatten())
            return
        own = self._modules[module]
        if module in self._activation:  # other modules of the group have the same input
            inputs = products.with_bias(a.to(self._dtype), own[0].has_bias)
            # Only inputs need the mask: the output gradients of padding are 0, because no loss depends on it.
            _add_outer(self._activation[module], inputs * self.token_mask[..., None])
        for block in own:
            if block.is_head:
                self._gradient[block.name] += products.token_squares(g, self._dtype)
            else:
                _add_outer(self._gradient[block.name], block.select(g).to(self._dtype))

    def sums(self, num_tokens: int, num_sequences: int) -> dict[str, CovarianceSum]:
        """Moves the sums to the CPU; nothing can be recorded afterwards."""
        return {
            name: CovarianceSum(
                _taken(self._activation, name),
                {block.name: _taken(self._gradient, block.name) for block in group},
                num_tokens,
                num_sequences,
                {b.name: self._embedding[b.name].cpu() for b in group if b.name in self._embedding},
            )
            for name, group in self._groups.items()
        }


def _row(size: int, proxy: Proxy) -> torch.Tensor:
    return torch.zeros(size, dtype=proxy.sum_dtype, device=proxy.device)


def _square(size: int, proxy: Proxy) -> torch.Tensor:
    return torch.zeros(size, size, dtype=proxy.sum_dtype, device=proxy.device)


def _add_outer(total: torch.Tensor, vectors: torch.Tensor) -> None:
    rows = vectors.flatten(0, 1)
    total.addmm_(rows.T, rows)


def _taken(totals: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Moves a sum to the CPU, made exactly symmetric by its upper triangle, because products may round the two differently."""
    # In place, and freed before the next: the sums may fill the device, so a second copy would not fit.
    total = totals.pop(name)
    if total.ndim == 1:
        return total.cpu()
    total.triu_()
    return total.add_(total.triu(1).T).cpu()


def eigenbasis(covariance: CovarianceSum) -> Eigenbasis:
    """Decomposes one input's factors in float64.

    The K-FAC block of a tied head is T (S (x) A + E (x) B), with S the diagonal of G, E the counts of tokens and B the
    covariance of the gradients of their embeddings. The nearest single product with A and the same row sums is
    T (S + E tr B / tr A) (x) A.

    Args:
      covariance: The complete sum.

    Returns:
      The basis, in the dtype and on the device of the sum. Eigenvalues below 0, due to rounding, are set to 0.

    Raises:
      ValueError: If the sum covers no tokens.
      IntegrityError: If the sum is not finite.
    """
    if covariance.num_tokens == 0:
        raise ValueError("the covariances are sums over no tokens; the sample holds no usable text")
    num_tokens = covariance.num_tokens
    activation_values, activation_vectors = _decompose(covariance.activation, num_tokens)
    values, vectors = {}, {}
    for name, total in covariance.gradients.items():
        if total.ndim == 1:
            values[name], vectors[name] = _head_values(covariance, name), torch.ones_like(total)
        else:
            values[name], vectors[name] = _decompose(total, num_tokens)
    return Eigenbasis(
        activation_values,
        activation_vectors,
        values,
        vectors,
        num_tokens / covariance.num_sequences,
    )


def _decompose(total: torch.Tensor, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    # In float64: small eigenvalues drown in the rounding of float32, and their eigenvectors with them. `eigh` reads one
    # triangle, and the sums are exactly symmetric (`_taken`).
    values, vectors = torch.linalg.eigh(_finite_mean(total, num_tokens))
    return values.clamp_min(0).to(total.dtype), vectors.to(total.dtype)


def _head_values(covariance: CovarianceSum, name: str) -> torch.Tensor:
    diagonal = covariance.gradients[name]
    values = _finite_mean(diagonal, covariance.num_tokens)
    if name in covariance.embeddings:
        trace = covariance.activation.double().trace() / covariance.num_tokens
        embedding = _finite_mean(covariance.embeddings[name], covariance.num_tokens)
        # If all hidden states are 0, A is 0 and no product with A can represent the embedding's part.
        values = values + embedding / trace if trace > 0 else values
    return values.to(diagonal.dtype)


def _finite_mean(total: torch.Tensor, num_tokens: int) -> torch.Tensor:
    mean = total.double() / num_tokens
    if not torch.isfinite(mean).all():
        raise errors.IntegrityError(
            "a covariance is not finite: the proxy model overflows on this corpus; try another dtype"
        )
    return mean
