"""What scoring costs, from shapes alone: the FLOPs of each pass and the bytes of what it leaves.

Products of matrices count, 2 FLOPs a multiply-add, and nothing else does: no lookup, norm, activation or softmax. Per
token, in a window of T tokens, with m the entries of a matrix and w the width of all heads of an attention layer:

    forward         2 m every matrix, the output layer too; 4 w T every attention layer
    backward        2 m every matrix whose input depends on a tracked output: parameters are frozen, so that autograd
                    forms no gradient of a weight, and none of an input that no tracked layer lies below; 8 w T every
                    attention layer whose q, k or v does, 10 w T where a fused kernel computes its scores again
    exact           forward, backward, and every input of tracked modules and vector: V a or Vᵀ g, whichever is narrower
    covariances     forward, backward, a aᵀ every input of tracked modules and g gᵀ every block
    eigenvalues     forward, backward, U_Aᵀ a every input, U_Gᵀ g and g aᵀ every block

The head has no U_G, and of its g gᵀ the diagonal alone, which is no product of matrices. Where it is the input embedding
too, the backward pass goes down to the embedding; joining the two parts of a gradient takes, in EK-FAC's eigenvalues
and in norms, two products of T x T matrices with what is `in` wide.

An input's gradient is formed where that is cheaper than its products and Gram matrices (`products.is_formed`).

Modules that read one tensor are one input: here those that stand at one place of a layer and are equally wide, as q, k
and v do. Where attention and MLP read the same tensor too, as in Phi, there is a little less to do.

Attention counts as if every token looked at every token of its window, which is the convention of
`torch.utils.flop_counter` and of published utilisations. Kernels that skip what a causal or sliding mask hides do up to
half of that part less. Padding counts as tokens.
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
    """Multiply-adds that one token costs: `entries` + `per_key` T, in a window of T tokens.

    Attributes:
      entries: Entries of the matrices that it is multiplied by.
      per_key: Multiply-adds with each token of its window.
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

    FLOPs are per token of a window of `length` tokens; bytes are those of the tensors, without the header of the file
    and the few numbers that count what is in a sum.

    Attributes:
      blocks: What is tracked.
      vocabulary: Rows of the output layer.
      forward: Work of a forward pass.
      backward: Work of the backward pass for activations.
      slice_backwards: The same down to each slice of layers that is fitted on its own, in passes of its own.
    """

    blocks: tuple[Block, ...]
    vocabulary: int
    forward: TokenWork
    backward: TokenWork
    slice_backwards: tuple[TokenWork, ...]

    @classmethod
    def of(cls, model: Any, blocks: Sequence[Block]) -> "ScoringCosts":
        """Reads the costs off a model's shapes; nothing is run.

        Args:
          model: A causal language model of `transformers`, on any device, `meta` too.
          blocks: What is tracked.

        Returns:
          The costs. Of a mixture of experts, those of the experts that a token is sent to.
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
        """Counts a forward pass, which is what perplexity costs."""
        return self.forward.flops(length)

    def pass_flops(self, length: float) -> float:
        """Counts a forward pass and a backward pass for all that is tracked."""
        return (self.forward + self.backward).flops(length)

    def exact_flops(self, length: float, num_vectors: int = 1, normalize: bool = False) -> float:
        """Counts exact scoring.

        Args:
          length: Tokens of a window.
          num_vectors: Query vectors, which share the passes.
          normalize: Whether gradients' norms are computed too, for documents of one window.
        """
        stacks = shapes.stacks_of(self.blocks)
        each = (_scored_entries(own, length, num_vectors, normalize) for own in stacks)
        return self.pass_flops(length) + 2.0 * sum(each)

    def query_flops(self, length: float) -> float:
        """Counts the gradient of the query set; here and in what follows, the passes of all slices of the layers."""
        return self._slice_passes(length) + self.gradient_sum_flops

    def covariance_flops(self, length: float, labels: Labels = "sampled") -> float:
        """Counts the pass that sums the Kronecker factors."""
        return self._slice_passes(length, labels) + self.covariance_sum_flops

    def eigenvalue_flops(self, length: float, labels: Labels = "sampled") -> float:
        """Counts the pass that sums EK-FAC's eigenvalues."""
        joins = sum(length * (b.shape[1] + b.shape[1]) for b in self._tied)
        return self._slice_passes(length, labels) + self.eigenvalue_sum_flops + 2.0 * joins

    @property
    def gradient_sum_flops(self) -> float:
        """The part of `query_flops` that is done in float32, whatever the model's dtype is: the sums."""
        return 2.0 * self._gradient_entries

    @property
    def covariance_sum_flops(self) -> float:
        """The same of `covariance_flops`."""
        return 2.0 * self._factor_entries

    @property
    def eigenvalue_sum_flops(self) -> float:
        """The same of `eigenvalue_flops`, rotations included."""
        rotations = sum(b.in_features * b.shape[1] for b in self._tied)
        return 2.0 * (self._factor_entries + self._gradient_entries + rotations)

    @property
    def covariance_bytes(self) -> int:
        """Bytes of one set of Kronecker factors: the upper triangles of A of every input and of G of every block."""
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
        """Bytes of one query vector, or of one query gradient."""
        return shapes.vector_bytes(self.blocks)

    @property
    def fit_peak_bytes(self) -> int:
        """Bytes that a worker holds at most while curvature and query vectors are fitted; see `slices.peak_bytes`."""
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
        # Two cumulative sums as products with a triangle, over groups of the vocabulary and within one.
        width = math.isqrt(self.vocabulary - 1) + 1
        return 2.0 * (width**2 + math.ceil(self.vocabulary / width) ** 2)


@dataclasses.dataclass(frozen=True)
class _Step:
    """A matrix, or the products of queries, keys and values of an attention layer."""

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
    """Lists every matrix that tokens are multiplied by, but for the output layer's, and its entries for one token."""
    output_layer = model.get_output_embeddings()
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or module is output_layer:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 2:
                yield f"{module_name}.{name}", parameter.numel()
            elif parameter.ndim == 3:
                yield f"{module_name}.{name}", _active_entries(parameter.shape, config)


def _active_entries(shape: Sequence[int], config: Any) -> int:
    """Counts the entries of the experts [num_experts, ., .] that one token is sent to."""
    chosen = (getattr(config, field, None) for field in _MIXTURE_FIELDS)
    return next((count for count in chosen if count), shape[0]) * math.prod(shape[1:])


def _attention_work(config: Any) -> tuple[TokenWork, TokenWork]:
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    # Forward: scores q kᵀ and their mixture of v. Backward: the gradients of scores, q, k and v.
    is_eager = getattr(config, "_attn_implementation", None) == "eager"
    return TokenWork(per_key=2 * width), TokenWork(per_key=(4 if is_eager else 5) * width)


def _total(works: Iterator[TokenWork]) -> TokenWork:
    return sum(works, TokenWork())


def _scored_entries(
    stack: Sequence[Block], length: float, num_vectors: int, has_norm: bool
) -> float:
    """Counts what a stack's products and, where it is asked for, its part of the norm take for one token."""
    first = stack[0]
    out_features, in_features = sum(block.out_features for block in stack), first.shape[1]
    entries = out_features * in_features
    is_formed = products.is_formed((out_features, in_features), int(length), num_vectors, has_norm)
    # The two parts of a tied head: rows of the output part unless it was formed, and sums by row.
    join = length * first.in_features if has_norm and first.embedding is not None else 0.0
    if is_formed:
        return entries * (1 + num_vectors / length) + join
    grams = length * (in_features + out_features) if has_norm else 0.0
    # V a leaves the bias's column to the sum.
    narrow = entries if out_features > first.in_features else out_features * first.in_features
    return num_vectors * narrow + grams + 2 * join
