"""Products of a target's second derivatives with vectors."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch

from beam_quad import errors
from beam_quad.gradients import parameters, passes
from beam_quad.gradients.attention import eager_attention, fitting_tokens
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.gradients.windows import Documents, MicroBatch

CURVATURES = ("gauss_newton", "hessian")
# A graph that is differentiated twice takes a few times the memory of a plain backward pass.
_GRAPH_FACTOR = 4

Vector = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class CurvatureProducts:
    """Sums over documents of the products of their mean loss's second derivatives with vectors.

    Attributes:
      products: The sum for each vector, by block, float32 or float64 [out, in (+ 1)].
      num_examples: Documents in the sum; documents without a loss token do not count.
    """

    products: list[dict[str, torch.Tensor]]
    num_examples: int

    def __add__(self, other: "CurvatureProducts") -> "CurvatureProducts":
        pairs = zip(self.products, other.products, strict=True)
        return CurvatureProducts(
            [{name: mine[name] + theirs[name] for name in mine} for mine, theirs in pairs],
            self.num_examples + other.num_examples,
        )

    def mean(self) -> list[dict[str, torch.Tensor]]:
        """Divides by the number of documents.

        Raises:
          UsageError: If there is no document.
          IntegrityError: If a product is not finite.
        """
        if self.num_examples == 0:
            raise errors.UsageError("no query text has at least 2 tokens; pass other query files")
        for product in self.products:
            if not all(torch.isfinite(own).all() for own in product.values()):
                raise errors.IntegrityError("a product with the target's curvature is not finite")
        return [{n: own / self.num_examples for n, own in p.items()} for p in self.products]


def curvature_products(
    proxy: Proxy,
    blocks: Sequence[Block],
    texts: Sequence[str] | Documents,
    vectors: Sequence[Vector],
    curvature: str = "gauss_newton",
) -> CurvatureProducts:
    """Multiplies vectors by the Hessian of the documents' losses, or by its Gauss-Newton part.

    With logits z, J = dz/dθ and loss L, the Hessian is Jᵀ (d²L/dz²) J plus the curvature of z itself, weighted by
    dL/dz. The Gauss-Newton matrix is the first term alone. It is positive semi-definite, because d²L/dz² of a softmax
    with probabilities p is diag(p) - p pᵀ. All matrices are restricted to the tracked blocks. One forward and one
    backward pass of a micro-batch serve all vectors. Each vector takes one more backward pass through both (Hessian),
    or one through the backward pass and one through the forward pass (Gauss-Newton).

    Args:
      proxy: The model, in float32 or float64; rounding would drown second derivatives in lower precision.
      blocks: The tracked blocks.
      texts: The documents of a target, as texts or prepared.
      vectors: Vectors by block, [out, in (+ 1)]; all are in memory at once.
      curvature: "gauss_newton" or "hessian".

    Returns:
      The sums, on the proxy's device; additive over any partition of the documents.

    Raises:
      UsageError: If `curvature` is unknown, the model has lower precision, or tracked layers share a weight.

    References:
      Pearlmutter, Fast Exact Multiplication by the Hessian, 1994; Schraudolph, Fast Curvature Matrix-Vector Products
      for Second-Order Gradient Descent, 2002.
    """
    _refuse(proxy, blocks, curvature)
    multiply = _gauss_newton if curvature == "gauss_newton" else _hessian
    documents = proxy.read(texts)
    counts = torch.from_numpy(documents.loss_tokens).double()
    names = parameters.parameter_names(blocks)
    directions = [_direction(proxy, blocks, vector) for vector in vectors]

    def compute(max_batch_tokens: int) -> list[list[torch.Tensor]]:
        totals = [[torch.zeros_like(own) for own in direction] for direction in directions]
        for batch in proxy.micro_batches(
            documents.windows, _fitting(proxy, documents, max_batch_tokens)
        ):
            weights = passes.token_weights(batch, 1 / counts, proxy)
            with _differentiable(proxy, names) as values:
                for total, product in zip(
                    totals, multiply(proxy, values, batch, weights, directions), strict=True
                ):
                    for own, part in zip(total, product, strict=True):
                        own += part
        return totals

    sums = passes.with_halving(proxy, compute)
    products = [
        parameters.to_blocks(proxy.model, blocks, dict(zip(names, total, strict=True)))
        for total in sums
    ]
    return CurvatureProducts(products, int((counts > 0).sum()))


def _refuse(proxy: Proxy, blocks: Sequence[Block], curvature: str) -> None:
    if curvature not in CURVATURES:
        raise errors.UsageError(f"curvature must be one of {CURVATURES}, got {curvature!r}")
    if proxy.dtype != proxy.sum_dtype:
        raise errors.UsageError(
            f"second derivatives drown in {proxy.dtype}; pass --dtype=float32, or --order=1"
        )
    values = [proxy.model.get_parameter(name) for name in parameters.parameter_names(blocks)]
    if len({id(value) for value in values}) < len(values):
        raise errors.UsageError(
            "second derivatives need tracked layers of their own weights, and some share one; pass --order=1"
        )


def _direction(proxy: Proxy, blocks: Sequence[Block], vector: Vector) -> list[torch.Tensor]:
    on_device = {
        block.name: vector[block.name].to(dtype=proxy.dtype, device=proxy.device)
        for block in blocks
    }
    return list(parameters.to_parameters(proxy.model, blocks, on_device).values())


def _fitting(proxy: Proxy, documents: Documents, max_batch_tokens: int) -> int:
    longest = max((len(window.tokens) for window in documents.windows), default=1)
    return max(1, fitting_tokens(proxy.model, longest, max_batch_tokens) // _GRAPH_FACTOR)


@contextlib.contextmanager
def _differentiable(proxy: Proxy, names: Sequence[str]) -> Iterator[list[torch.Tensor]]:
    """Yields parameters that require gradients for the time being; holds the model's lock."""
    with proxy.lock, eager_attention(proxy.model), torch.enable_grad():
        values = [proxy.model.get_parameter(name).requires_grad_() for name in names]
        try:
            yield values
        finally:
            for value in values:
                value.requires_grad_(False)


def _hessian(
    proxy: Proxy,
    values: Sequence[torch.Tensor],
    batch: MicroBatch,
    weights: torch.Tensor,
    directions: Sequence[Sequence[torch.Tensor]],
) -> Iterator[Sequence[torch.Tensor]]:
    """Differentiates the gradient's product with each direction."""
    logits = passes.logits(proxy, batch).to(weights.dtype)
    labels = passes.to_device(batch.labels, proxy)
    picked = logits.log_softmax(2).gather(2, labels[..., None]).squeeze(2)
    gradient = torch.autograd.grad(-(picked * weights).sum(), values, create_graph=True)
    for direction in directions:
        # A parameter that the gradient does not depend on gets zeros, not None.
        yield torch.autograd.grad(
            gradient, values, direction, retain_graph=True, materialize_grads=True
        )


def _gauss_newton(
    proxy: Proxy,
    values: Sequence[torch.Tensor],
    batch: MicroBatch,
    weights: torch.Tensor,
    directions: Sequence[Sequence[torch.Tensor]],
) -> Iterator[Sequence[torch.Tensor]]:
    """Multiplies each direction by J, by the curvature of the softmax, and by Jᵀ.

    The product with J comes from a backward pass: Jᵀ u is linear in u, so the transpose of its derivative by u is J.
    """
    logits = passes.logits(proxy, batch)
    probabilities = logits.detach().to(weights.dtype).softmax(2)
    # The value of u does not matter: Jᵀ u is linear in u, and only its derivative is used.
    u = torch.zeros_like(logits, requires_grad=True)
    transposed = torch.autograd.grad(logits, values, u, create_graph=True)
    for direction in directions:
        (forward,) = torch.autograd.grad(transposed, u, direction, retain_graph=True)
        # (diag(p) - p pᵀ) J v, without the matrix of the vocabulary's square.
        weighted = probabilities * forward
        curved = weighted - probabilities * weighted.sum(2, keepdim=True)
        yield torch.autograd.grad(
            logits, values, (curved * weights[..., None]).to(logits), retain_graph=True
        )
