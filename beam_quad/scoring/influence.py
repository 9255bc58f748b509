"""Exact influence of texts on query groups."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from beam_quad.gradients import passes, tracked
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.gradients.windows import Documents, MicroBatch, Window
from beam_quad.scoring import products, query
from beam_quad.scoring.scorer import ProxyScorer


class InfluenceScorer(ProxyScorer):
    """Scores texts by + < v , grad L(text) > for each query group's vector v = (F + lambda I)⁻¹ grad L(query).

    Higher is better: training on the text lowers the group's loss. L is the mean loss over the tokens predicted in the text's
    windows, which is the token-weighted mean over the windows. One forward pass and one backward pass for activations serve all
    groups. A gradient is formed only if that is cheaper than computing products and norm without it.

    Args:
      proxy: The model.
      blocks: The tracked blocks.
      vectors: The vector of each query group, by group and block, [out, in (+ 1)].
      normalize: Whether to divide by ||grad L(text)|| over the tracked blocks.

    Raises:
      ValueError: If there is no group, or a vector does not fit its block.
    """

    def __init__(
        self,
        proxy: Proxy,
        blocks: Sequence[Block],
        vectors: Mapping[str, Mapping[str, torch.Tensor]],
        normalize: bool = False,
    ) -> None:
        check_vectors(blocks, vectors)
        self.groups: tuple[str, ...] = tuple(vectors)
        self.blocks: tuple[Block, ...] = tuple(blocks)
        super().__init__(proxy)
        self._normalize = normalize
        self._watched = tracked.watched_modules(blocks)
        self.stacks = Stack.of(proxy, blocks, vectors)

    def score(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts, faster if many are given at a time; a score does not depend on the other texts.

        Args:
          texts: The documents, as texts or prepared.

        Returns:
          Influence, float64 [num_texts, num_groups]; nan if a text has fewer than 2 tokens or its score is not finite.
        """
        return total(self.score_stacks(texts))

    def score_stacks(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts stack by stack, float64 [num_texts, num_groups, num_stacks]; the sum is the score."""
        documents = self._proxy.read(texts)
        counts = torch.from_numpy(documents.loss_tokens).double()
        influence, squared_norms = self._score_windows(documents.windows, counts)
        influence[counts == 0] = torch.nan
        if self._normalize:
            self._join_norms(documents.windows, counts, squared_norms)
            # Division by a norm that overflows would give a score of 0; such a score is nan instead.
            is_norm = torch.isfinite(squared_norms) & (squared_norms > 0)
            norms = squared_norms.sqrt().where(is_norm, torch.nan)
            influence /= norms[:, None, None]
        by_stack: np.ndarray = influence.numpy()
        return by_stack

    def _score_windows(
        self, pieces: Sequence[Window], counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over each document's windows: influence by group and stack, and the windows' own squared norms."""
        proxy = self._proxy
        shape = (len(counts), len(self.groups), len(self.stacks))
        influence = torch.zeros(shape, dtype=torch.float64)
        squared_norms = torch.zeros(len(counts), dtype=torch.float64)
        if not pieces:
            return influence, squared_norms

        def compute(max_batch_tokens: int) -> tuple[torch.Tensor, ...]:
            order, products, squares = [], [], []
            for batch, windows in proxy.even_batches(pieces, max_batch_tokens):
                # A document without a loss has no window, so its infinite weight is never used.
                weights = passes.token_weights(batch, 1 / counts, proxy)
                partial = Partial(proxy, batch, self.stacks, self._normalize)
                passes.backward(proxy, self._watched, batch, weights, partial.record)
                order.append(windows)
                products.append(partial.influence())
                squares.append(partial.squared_norms())
            # Results stay on the device until here, so that no micro-batch waits for a transfer.
            return torch.cat(order), torch.cat(products).cpu(), torch.cat(squares).cpu()

        order, products, squares = passes.with_halving(proxy, compute, self._fitting)
        # Summed in the order of the windows, so that rounding does not depend on how they were batched.
        order = order.argsort()
        documents = torch.tensor([window.document for window in pieces])
        influence.index_add_(0, documents, products[order].double())
        squared_norms.index_add_(0, documents, squares[order].double())
        return influence, squared_norms

    def _join_norms(
        self, pieces: Sequence[Window], counts: torch.Tensor, squared_norms: torch.Tensor
    ) -> None:
        """Replaces the squared norm of each document of several windows by the squared norm of its summed gradient.

        The inner products between windows need both windows at once, so the gradients of these documents are formed, one
        document at a time.
        """
        by_document = collections.defaultdict(list)
        for window in pieces:
            by_document[window.document].append(dataclasses.replace(window, document=0))
        joined = {}
        for document, own in by_document.items():
            if len(own) > 1:
                weight = 1 / counts[document : document + 1]
                gradient = query.weighted_gradient(self._proxy, self.blocks, own, weight)
                squares = [block.double().square().sum() for block in gradient.values()]
                joined[document] = torch.stack(squares).sum()
        if joined:
            squared_norms[list(joined)] = torch.stack(list(joined.values())).cpu()


def total(by_stack: np.ndarray) -> np.ndarray:
    """Sums the scores of stacks, float64 [num_texts, num_groups, num_stacks], over the last axis; nan if a sum is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # stacks of opposite infinities
        totals: np.ndarray = by_stack.sum(axis=2)
    return np.where(np.isfinite(totals), totals, np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """Blocks whose modules have the same input, such as q, k and v, treated as one linear layer with one product.

    Attributes:
      blocks: The blocks, in the order of their outputs.
      vectors: The vector of each query group, in the proxy's dtype, [num_groups, out, in (+ 1)].
    """

    blocks: tuple[Block, ...]
    vectors: torch.Tensor

    @classmethod
    def of(
        cls,
        proxy: Proxy,
        blocks: Sequence[Block],
        vectors: Mapping[str, Mapping[str, torch.Tensor]],
    ) -> tuple["Stack", ...]:
        """Stacks all blocks, and the vectors of every query group in the same way.

        Raises:
          UsageError: As `passes.input_groups`.
        """
        stacks = []
        for own in passes.input_groups(proxy, blocks).values():
            stacked = [torch.cat([by_block[b.name] for b in own]) for by_block in vectors.values()]
            on_device = torch.stack(stacked).to(dtype=proxy.dtype, device=proxy.device)
            stacks.append(cls(own, on_device))
        return tuple(stacks)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a gradient: outputs of all blocks, and inputs (plus 1 for a bias)."""
        _, out_features, in_features = self.vectors.shape
        return out_features, in_features

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules of the blocks."""
        return tuple(tracked.by_module(self.blocks))

    def join(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Concatenates the modules' output gradients, each [batch, length, module's outputs], to [batch, length, out]."""
        parts = [block.select(outputs[block.module]) for block in self.blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Partial:
    """Contributions of the stacks to the scores of one micro-batch, kept on the device.

    Args:
      proxy: The model.
      batch: The windows.
      stacks: The tracked blocks with their vectors.
      normalize: Whether norms are needed too.
    """

    def __init__(
        self, proxy: Proxy, batch: MicroBatch, stacks: Sequence[Stack], normalize: bool
    ) -> None:
        self._stack_of = {module: stack for stack in stacks for module in stack.modules}
        # No other module has the head's input, so a tied head is always a stack of its own.
        self._tied = {
            embedding: stack
            for stack in stacks
            for embedding in tracked.tied_embeddings(stack.blocks)
        }
        self._dtype = proxy.sum_dtype
        self._tokens = passes.to_device(batch.tokens, proxy)
        self._normalize = normalize
        # Output gradients waiting for the other modules of their stack.
        self._outputs: dict[str, torch.Tensor] = {}
        # Rows of the output part of a tied head's gradients: the norm has a cross term with the input part.
        self._output_rows: dict[str, torch.Tensor] = {}
        self._influence: dict[str, torch.Tensor] = {}
        self._order = [stack.blocks[0].name for stack in stacks]
        self._squares: list[torch.Tensor] = []

    def influence(self) -> torch.Tensor:
        """Products with the vectors, float32 or float64 [batch, num_groups, num_stacks]."""
        return torch.stack([self._influence[name] for name in self._order], dim=2)

    def squared_norms(self) -> torch.Tensor:
        """Squared norms over all stacks, same dtype, [batch]; 0 if norms are not needed."""
        if not self._normalize:
            return torch.zeros(len(self._tokens), dtype=self._dtype, device=self._tokens.device)
        return torch.stack(self._squares, dim=1).sum(1)

    def record(self, module: str, a: torch.Tensor, g: torch.Tensor) -> None:
        """Records a module's inputs and output gradients, as `passes.Record`."""
        if module in self._tied:
            self._record_rows(self._tied[module], a, g)
            return
        stack = self._stack_of[module]
        self._outputs[module] = g
        if all(name in self._outputs for name in stack.modules):
            outputs = stack.join({name: self._outputs.pop(name) for name in stack.modules})
            self._record_stack(stack, a, outputs)

    def _record_stack(self, stack: Stack, a: torch.Tensor, g: torch.Tensor) -> None:
        first, num_groups = stack.blocks[0], len(stack.vectors)
        if products.is_formed(stack.shape, a.shape[1], num_groups, self._normalize):
            self._record_formed(stack, a, g)
            return
        self._influence[first.name] = products.inner_products(a, g, stack.vectors)
        if self._normalize:
            inputs = products.with_bias(a.to(self._dtype), first.has_bias)
            self._squares.append(products.squared_norms(inputs, g))
            if first.embedding is not None:
                rows = products.gradient_rows(inputs, g, self._tokens)
                self._output_rows[first.name] = rows[..., : first.in_features]

    def _record_formed(self, stack: Stack, a: torch.Tensor, g: torch.Tensor) -> None:
        """Computes products and norms from formed gradients, a few windows at a time."""
        first = stack.blocks[0]
        # Without a norm, the model's own precision is enough for the gradient.
        dtype = self._dtype if self._normalize else a.dtype
        inputs = products.with_bias(a.to(dtype), first.has_bias)
        vectors = stack.vectors.to(self._dtype)
        influence, squares, rows = [], [], []
        start = 0
        for formed in products.sequence_gradients(inputs, g):
            some = slice(start, start + len(formed))
            start = some.stop
            gradients = formed.to(self._dtype)
            influence.append(products.formed_products(gradients, vectors))
            if not self._normalize:
                continue
            squares.append(torch.linalg.vector_norm(gradients.flatten(1), dim=1).square())
            if first.embedding is not None:
                tokens = self._tokens[some]
                own = torch.arange(len(tokens), device=tokens.device)[:, None]
                rows.append(gradients[own, tokens, : first.in_features])
        self._influence[first.name] = torch.cat(influence)
        if self._normalize:
            self._squares.append(torch.cat(squares))
        if rows:
            self._output_rows[first.name] = torch.cat(rows)

    def _record_rows(self, stack: Stack, rows: torch.Tensor, deltas: torch.Tensor) -> None:
        (block,) = stack.blocks
        # A backward pass starts at the head and ends at the embedding, so the head's part is there already.
        self._influence[block.name] += products.row_products(rows, deltas, stack.vectors)
        if self._normalize:
            # ||D + d||² - ||D||² = <d, d + 2 D>, and only the rows of the window's tokens are nonzero in d.
            deltas = deltas.to(self._dtype)
            added = products.sums_by_row(rows, deltas) + 2 * self._output_rows.pop(block.name)
            self._squares.append(products.entry_products(deltas, added))


def check_vectors(
    blocks: Sequence[Block], vectors: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Checks that every block has a vector of its shape.

    Raises:
      ValueError: If a vector is missing or does not fit; names the first.
    """
    if not blocks or not vectors:
        raise ValueError("influence needs at least one tracked block and one query group")
    for group, by_block in vectors.items():
        for block in blocks:
            if block.name not in by_block:
                raise ValueError(f"query group {group!r} has no vector for block {block.name}")
            shape = tuple(by_block[block.name].shape)
            if shape != block.shape:
                raise ValueError(
                    f"the vector of query group {group!r} for {block.name} has shape {shape} "
                    f"but the block has {block.shape}; was it made with another model?"
                )
