"""Costs of scoring, computed from shapes alone: the FLOPs of each pass and the bytes of its results.

Only matrix products count, at 2 FLOPs per multiply-add; lookups, norms, activations and softmax do not. Per token, in a window
of T tokens, with m the entries of a matrix and w the width of all heads of an attention layer:

    forward         2 m for every matrix, including the output layer; 4 w T for every attention layer
    backward        2 m for every matrix whose input depends on a tracked output. Parameters are frozen, so autograd
                    computes no gradient of a weight, and none of an input without a tracked layer below. 8 w T for every
                    attention layer whose q, k or v depends on one, 10 w T if a fused kernel recomputes its scores
    exact           forward, backward, and for every input of tracked modules and every vector, the narrower of V a and Vᵀ g
    covariances     forward, backward, a aᵀ for every input of tracked modules and g gᵀ for every block
    eigenvalues     forward, backward, U_Aᵀ a for every input, U_Gᵀ g and g aᵀ for every block

The head has no U_G, and only the diagonal of its g gᵀ, which is not a matrix product. If the head is tied to the input embedding,
the backward pass extends down to the embedding. Joining the two parts of its gradient, for EK-FAC's eigenvalues and for norms,
takes two products of T x T matrices with matrices of width `in`.

The gradient of an input is formed if that is cheaper than its products and Gram matrices (`products.is_formed`).

Modules that read the same tensor share one input. Here these are modules at the same place of a layer with the same width, such
as q, k and v. If attention and MLP also read the same tensor, as in Phi, the real cost is a little lower.

Attention counts as if every token attended to every token of its window, which is the convention of
`torch.utils.flop_counter` and of published utilisations. Kernels that skip entries hidden by a causal or sliding mask do up to
half less of this part. Padding counts as tokens.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from beam_quad.gradients.tracked import Block
from beam_quad.scoring import products, shapes
from beam_quad.scoring.fitting import Labels
from beam_quad.scoring.slices import layer_slices, peak_bytes

_MIXTURE_FIELDS = ("num_experts_per_tok", "moe_topk", "moe_k")


@dataclasses.dataclass(frozen=True)
class TokenWork:
    """Multiply-adds of one token: `entries` + `per_key` · T, in a window of T tokens.

    Attributes:
      entries: Entries of the matrices by which the token is multiplied.
      per_key: Multiply-adds for each token of the window.
    """

    entries: int = 0
    per_key: int = 0

    def __add__(self, other: "TokenWork") -> "TokenWork":
        return TokenWork(self.entries + other.entries, self.per_key + other.per_key)

    def flops(self, length: float) -> float:
        """Counts the FLOPs of a token in a window of `length` tokens."""
        return 2.0 * (self.entries + self.per_key * length)


@dataclasses.dataclass(frozen=True)
class ScoringCosts:
    """Costs of a proxy model with some of its layers tracked.

    FLOPs are per token of a window of `length` tokens. Bytes cover the tensors, without file headers and counts.

    Attributes:
      blocks: The tracked blocks.
      vocabulary: Rows of the output layer.
      forward: Work of a forward pass.
      backward: Work of the backward pass for activations.
      slice_backwards: Work of the backward pass for each slice of layers, which is fitted in passes of its own.
    """

    blocks: tuple[Block, ...]
    vocabulary: int
    forward: TokenWork
    backward: TokenWork
    slice_backwards: tuple[TokenWork, ...]

    @classmethod
    def of(cls, model: Any, blocks: Sequence[Block]) -> "ScoringCosts":
        """Computes the costs from a model's shapes, without running it.

        Args:
          model: A causal language model of `transformers` on any device, including `meta`.
          blocks: The tracked blocks.

        Returns:
          The costs. For a mixture of experts, only the experts used by a token count.
        """
        steps = list(_steps(model))
        is_parallel = bool(getattr(model.config, "use_parallel_residual", False))

        def backward(own: Sequence[Block]) -> TokenWork:
            origins = {shapes.origin_of(block) for block in own}
            return _total(
                step.backward
                for step in steps
                if any(shapes.feeds(origin, step.place, is_parallel) for origin in origins)
            )

        return cls(
            blocks=tuple(blocks),
            vocabulary=model.get_output_embeddings().weight.shape[0],
            forward=_total(step.forward for step in steps),
            backward=backward(blocks),
            slice_backwards=tuple(map(backward, layer_slices(blocks))),
        )

    def forward_flops(self, length: float) -> float:
        """Counts a forward pass, the cost of perplexity."""
        return self.forward.flops(length)

    def pass_flops(self, length: float) -> float:
        """Counts a forward pass and a backward pass for all tracked blocks."""
        return (self.forward + self.backward).flops(length)

    def exact_flops(self, length: float, num_vectors: int = 1, normalize: bool = False) -> float:
        """Counts exact scoring.

        Args:
          length: Tokens of a window.
          num_vectors: Number of query vectors, which share the passes.
          normalize: Whether gradient norms are computed too, for documents of one window.
        """
        stacks = shapes.stacks_of(self.blocks)
        each = (_scored_entries(own, length, num_vectors, normalize) for own in stacks)
        return self.pass_flops(length) + 2.0 * sum(each)

    def query_flops(self, length: float) -> float:
        """Counts the gradient of the query set. As in the next two methods, the passes of all slices of layers count."""
        return self._slice_passes(length) + self.gradient_sum_flops

    def covariance_flops(self, length: float, labels: Labels = "sampled") -> float:
        """Counts the pass that sums the Kronecker factors."""
        return self._slice_passes(length, labels) + self.covariance_sum_flops

    def eigenvalue_flops(self, length: float, labels: Labels = "sampled") -> float:
        """Counts the pass that sums EK-FAC's eigenvalues."""
        joins = sum(2 * length * b.shape[1] for b in self._tied)
        return self._slice_passes(length, labels) + self.eigenvalue_sum_flops + 2.0 * joins

    @property
    def gradient_sum_flops(self) -> float:
        """The sums in `query_flops`, which run in float32 whatever the model's dtype."""
        return 2.0 * self._gradient_entries

    @property
    def covariance_sum_flops(self) -> float:
        """The sums in `covariance_flops`, which run in float32 whatever the model's dtype."""
        return 2.0 * self._factor_entries

    @property
    def eigenvalue_sum_flops(self) -> float:
        """The sums and rotations in `eigenvalue_flops`, which run in float32 whatever the model's dtype."""
        rotations = sum(b.in_features * b.shape[1] for b in self._tied)
        return 2.0 * (self._factor_entries + self._gradient_entries + rotations)

    @property
    def covariance_bytes(self) -> int:
        """Bytes of one set of Kronecker factors: the upper triangles of every input's A and every block's G."""
        triangles = (self._factor_entries + sum(shapes.factor_sizes(self.blocks))) // 2
        tied = sum(b.out_features for b in self._tied)
        return shapes.FLOAT32_BYTES * (triangles + sum(shapes.diagonal_sizes(self.blocks)) + tied)

    @property
    def eigenbasis_bytes(self) -> int:
        """Bytes of the factors' eigenvectors and eigenvalues."""
        return shapes.eigenbasis_bytes(self.blocks)

    @property
    def eigenvalue_bytes(self) -> int:
        """Bytes of one set of EK-FAC's eigenvalues."""
        return shapes.eigenvalue_bytes(self.blocks)

    @property
    def vector_bytes(self) -> int:
        """Bytes of one query vector or query gradient."""
        return shapes.vector_bytes(self.blocks)

    @property
    def fit_peak_bytes(self) -> int:
        """Peak memory in bytes of a worker that fits curvature and query vectors; see `slices.peak_bytes`."""
        return peak_bytes(self.blocks)

    @property
    def _tied(self) -> list[Block]:
        return [block for block in self.blocks if block.embedding is not None]

    @property
    def _factor_entries(self) -> int:
        return sum(size**2 for size in shapes.factor_sizes(self.blocks))

    @property
    def _gradient_entries(self) -> int:
        return sum(math.prod(block.shape) for block in self.blocks)

    def _slice_passes(self, length: float, labels: Labels = "empirical") -> float:
        passes = math.fsum((self.forward + own).flops(length) for own in self.slice_backwards)
        return passes + len(self.slice_backwards) * self._label_flops(labels)

    def _label_flops(self, labels: Labels) -> float:
        if labels == "empirical":
            return 0.0
        # Labels are sampled with two cumulative sums, over groups of the vocabulary and within one, each computed as a product
        # with a triangular matrix.
        width = math.isqrt(self.vocabulary - 1) + 1
        return 2.0 * (width**2 + math.ceil(self.vocabulary / width) ** 2)


@dataclasses.dataclass(frozen=True)
class _Step:
    """A matrix, or the products of queries, keys and values in an attention layer."""

    place: shapes.Place
    forward: TokenWork
    backward: TokenWork


def _steps(model: Any) -> Iterator[_Step]:
    config = model.config.get_text_config()
    output_layer = model.get_output_embeddings()
    attention_layers: set[float] = set()
    for name, entries in _matrices(model, config):
        place = shapes.place_of(name)
        work = TokenWork(entries=entries)
        yield _Step(place, work, work)
        if not place.is_mlp:
            attention_layers.add(place.layer)
    output = TokenWork(entries=output_layer.weight.numel())
    yield _Step(shapes.HEAD, output, output)
    attention = _attention_work(config)
    for layer in attention_layers:
        yield _Step(shapes.Place(layer, False, 1), *attention)


def _matrices(model: Any, config: Any) -> Iterator[tuple[str, int]]:
    """Lists every matrix except the output layer, with the number of entries by which a token is multiplied."""
    output_layer = model.get_output_embeddings()
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or module is output_layer:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            # Biases and norms have one dimension and enter no matrix product; experts are stacked in three.
            if parameter.ndim == 2:
                yield f"{module_name}.{name}", parameter.numel()
            elif parameter.ndim == 3:
                yield f"{module_name}.{name}", _active_entries(parameter.shape, config)


def _active_entries(shape: Sequence[int], config: Any) -> int:
    """Counts the entries of the experts used by one token, of all experts [num_experts, ., .]."""
    chosen = (getattr(config, field, None) for field in _MIXTURE_FIELDS)
    return next((count for count in chosen if count), shape[0]) * math.prod(shape[1:])


def _attention_work(config: Any) -> tuple[TokenWork, TokenWork]:
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    # Forward: scores q kᵀ and the weighted sum of v. Backward: the gradients of scores, q, k and v.
    is_eager = getattr(config, "_attn_implementation", None) == "eager"
    return TokenWork(per_key=2 * width), TokenWork(per_key=(4 if is_eager else 5) * width)


def _total(works: Iterator[TokenWork]) -> TokenWork:
    return sum(works, TokenWork())


def _scored_entries(
    stack: Sequence[Block], length: float, num_vectors: int, has_norm: bool
) -> float:
    """Counts the multiply-adds of a stack's products for one token and, if `has_norm`, of its part of the norm."""
    first = stack[0]
    out_features, in_features = sum(block.out_features for block in stack), first.shape[1]
    entries = out_features * in_features
    is_formed = products.is_formed((out_features, in_features), int(length), num_vectors, has_norm)
    # Joins the two parts of a tied head: rows of the output part (free if it is formed), and sums by row.
    join = length * first.in_features if has_norm and first.embedding is not None else 0.0
    if is_formed:
        return entries * (1 + num_vectors / length) + join
    grams = length * (in_features + out_features) if has_norm else 0.0
    # The bias column of V is part of the sum in V a, not of the product.
    narrow = entries if out_features > first.in_features else out_features * first.in_features
    return num_vectors * narrow + grams + 2 * join
