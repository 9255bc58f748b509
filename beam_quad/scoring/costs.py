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
from typing import Any, NamedTuple

from torch import nn

from beam_quad.gradients.tracked import Block
from beam_quad.scoring import products
from beam_quad.scoring.eigenvalues import is_factored
from beam_quad.scoring.fitting import Labels

_FLOAT32_BYTES = 4
# Projections back to the residual stream, as the families of `transformers` name them; the others read from it.
_OUTPUT_PROJECTIONS = frozenset(
    {"o_proj", "out_proj", "c_proj", "dense", "wo"}
    | {"down_proj", "dense_4h_to_h", "fc_out", "fc2", "w2"}
)
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
    """

    blocks: tuple[Block, ...]
    vocabulary: int
    forward: TokenWork
    backward: TokenWork

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
        origins = {_origin(block) for block in blocks}
        is_parallel = bool(getattr(model.config, "use_parallel_residual", False))
        return cls(
            blocks=tuple(blocks),
            vocabulary=model.get_output_embeddings().weight.shape[0],
            forward=_total(step.forward for step in steps),
            backward=_total(
                step.backward
                for step in steps
                if any(_feeds(origin, step.place, is_parallel) for origin in origins)
            ),
        )

    def forward_flops(self, length: float) -> float:
        """Counts a forward pass, which is what perplexity costs."""
        return self.forward.flops(length)

    def exact_flops(self, length: float, num_vectors: int = 1, normalize: bool = False) -> float:
        """Counts exact scoring.

        Args:
          length: Tokens of a window.
          num_vectors: Query vectors, which share the passes.
          normalize: Whether gradients' norms are computed too, for documents of one window.
        """
        stacks = _stacks(self.blocks)
        each = (_scored_entries(own, length, num_vectors, normalize) for own in stacks)
        return self._passes(length) + 2.0 * sum(each)

    def query_flops(self, length: float) -> float:
        """Counts the gradient of the query set."""
        return self._passes(length) + self.gradient_sum_flops

    def covariance_flops(self, length: float, labels: Labels = "sampled") -> float:
        """Counts the pass that sums the Kronecker factors."""
        return self._passes(length) + self._label_flops(labels) + self.covariance_sum_flops

    def eigenvalue_flops(self, length: float, labels: Labels = "sampled") -> float:
        """Counts the pass that sums EK-FAC's eigenvalues."""
        joins = sum(length * (b.shape[1] + b.shape[1]) for b in self._tied)
        return (
            self._passes(length)
            + self._label_flops(labels)
            + self.eigenvalue_sum_flops
            + 2.0 * joins
        )

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
        triangles = (self._factor_entries + sum(_factor_sizes(self.blocks))) // 2
        tied = sum(b.out_features for b in self._tied)
        return _FLOAT32_BYTES * (triangles + sum(_diagonal_sizes(self.blocks)) + tied)

    @property
    def eigenbasis_bytes(self) -> int:
        """Bytes of the factors' eigenvectors and eigenvalues."""
        return _eigenbasis_bytes(self.blocks)

    @property
    def eigenvalue_bytes(self) -> int:
        """Bytes of one set of EK-FAC's eigenvalues."""
        return _eigenvalue_bytes(self.blocks)

    @property
    def vector_bytes(self) -> int:
        """Bytes of one query vector, or of one query gradient."""
        return _FLOAT32_BYTES * self._gradient_entries

    @property
    def _tied(self) -> list[Block]:
        return [block for block in self.blocks if block.embedding is not None]

    @property
    def _factor_entries(self) -> int:
        return sum(size**2 for size in _factor_sizes(self.blocks))

    @property
    def _gradient_entries(self) -> int:
        return sum(math.prod(block.shape) for block in self.blocks)

    def _passes(self, length: float) -> float:
        return (self.forward + self.backward).flops(length)

    def _label_flops(self, labels: Labels) -> float:
        if labels == "empirical":
            return 0.0
        # Two cumulative sums as products with a triangle, over groups of the vocabulary and within one.
        width = math.isqrt(self.vocabulary - 1) + 1
        return 2.0 * (width**2 + math.ceil(self.vocabulary / width) ** 2)


def fitted_bytes(blocks: Sequence[Block]) -> int:
    """Bytes of what the pass of EK-FAC's eigenvalues holds of blocks: their factors' eigenvectors, and the sums in them."""
    return _eigenbasis_bytes(blocks) + _eigenvalue_bytes(blocks)


def layer_of(block: Block) -> float:
    """Numbers the layer that a block is in; the head is above all, and what is in none is below."""
    return _HEAD.layer if block.is_head else _place(block.module).layer


def _eigenbasis_bytes(blocks: Sequence[Block]) -> int:
    sizes = _factor_sizes(blocks)
    entries = sum(size**2 for size in sizes) + sum(sizes) + 2 * sum(_diagonal_sizes(blocks))
    return _FLOAT32_BYTES * entries


def _eigenvalue_bytes(blocks: Sequence[Block]) -> int:
    entries = (sum(b.shape) if is_factored(b) else math.prod(b.shape) for b in blocks)
    return _FLOAT32_BYTES * sum(entries)


def _stacks(blocks: Sequence[Block]) -> list[list[Block]]:
    """Groups blocks that read one tensor."""
    stacks: dict[tuple[_Place, bool, int], list[Block]] = {}
    for block in blocks:
        stacks.setdefault((_origin(block), block.has_bias, block.in_features), []).append(block)
    return list(stacks.values())


def _factor_sizes(blocks: Sequence[Block]) -> list[int]:
    inputs = [own[0].shape[1] for own in _stacks(blocks)]
    return [*inputs, *(b.out_features for b in blocks if not b.is_head)]


def _diagonal_sizes(blocks: Sequence[Block]) -> list[int]:
    return [block.out_features for block in blocks if block.is_head]


class _Place(NamedTuple):
    """Where a module stands in the flow of data."""

    layer: float
    is_mlp: bool
    stage: int


@dataclasses.dataclass(frozen=True)
class _Step:
    """A matrix, or the products of queries, keys and values of an attention layer."""

    place: _Place
    forward: TokenWork
    backward: TokenWork


def _place(name: str) -> _Place:
    parts = name.split(".")
    layer = next((int(part) for part in parts if part.isdigit()), -1)
    is_output = not _OUTPUT_PROJECTIONS.isdisjoint(parts)
    return _Place(layer, not any("att" in part for part in parts), 2 * is_output)


# Below and above all layers.
_EMBEDDING = _Place(-math.inf, True, 0)
_HEAD = _Place(math.inf, True, 0)


def _origin(block: Block) -> _Place:
    """Where the lowest output of a block stands."""
    if block.is_head:
        return _HEAD if block.embedding is None else _EMBEDDING
    return _place(block.module)


def _feeds(origin: _Place, place: _Place, is_parallel: bool) -> bool:
    """Whether what stands at `place` depends on the output of a module at `origin`."""
    if is_parallel and origin.layer == place.layer and origin.is_mlp != place.is_mlp:
        return False
    return origin < place


def _steps(model: Any) -> Iterator[_Step]:
    config = model.config.get_text_config()
    output_layer = model.get_output_embeddings()
    attention_layers: set[float] = set()
    for name, entries in _matrices(model, config):
        place = _place(name)
        work = TokenWork(entries=entries)
        yield _Step(place, work, work)
        if not place.is_mlp:
            attention_layers.add(place.layer)
    output = TokenWork(entries=output_layer.weight.numel())
    yield _Step(_HEAD, output, output)
    attention = _attention_work(config)
    for layer in attention_layers:
        yield _Step(_Place(layer, False, 1), *attention)


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
