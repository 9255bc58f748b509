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

    Higher is better: training on the text lowers the group's loss. L is the mean loss over the tokens that the
    text's windows predict, which is the token-weighted mean over its windows. One forward and one backward for
    activations serve all groups; a gradient is formed only where that is the cheapest way to its norm.

    Args:
      proxy: The model.
      blocks: What is tracked.
      vectors: The vector of each query group, by group and block, [out, in (+ 1)].
      normalize: Divide by ||grad L(text)|| over the tracked blocks.

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
        self._vectors = {
            block.name: [
                by_block[block.name].to(dtype=proxy.dtype, device=proxy.device)
                for by_block in vectors.values()
            ]
            for block in blocks
        }

    def score(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts; one call is one batch, and a score depends on nothing outside it.

        Args:
          texts: The documents, as texts or prepared.

        Returns:
          Influence, float64 [num_texts, num_groups]; nan for a text with fewer than 2 tokens, or whose score is not
          finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # blocks of opposite infinities
            totals: np.ndarray = self.score_blocks(texts).sum(axis=2)
        return np.where(np.isfinite(totals), totals, np.nan)

    def score_blocks(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts block by block, float64 [num_texts, num_groups, num_blocks]; the sum is the score."""
        documents = self._proxy.read(texts)
        pieces = documents.windows
        counts = torch.from_numpy(documents.loss_tokens).double()
        influence, squared_norms = self._score_windows(pieces, counts)
        influence[counts == 0] = torch.nan
        if self._normalize:
            self._join_norms(pieces, counts, squared_norms)
            # A square that overflowed would make the score 0.
            is_norm = torch.isfinite(squared_norms) & (squared_norms > 0)
            norms = squared_norms.sqrt().where(is_norm, torch.nan)
            influence /= norms[:, None, None]
        blocks: np.ndarray = influence.numpy()
        return blocks

    def _score_windows(
        self, pieces: Sequence[Window], counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds up each document's windows: influence by group and block, and their own squared norms."""
        proxy = self._proxy
        shape = (len(counts), len(self.groups), len(self.blocks))

        def compute(max_batch_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
            influence = torch.zeros(shape, dtype=torch.float64)
            squared_norms = torch.zeros(len(counts), dtype=torch.float64)
            for batch in proxy.micro_batches(pieces, max_batch_tokens):
                weights = passes.token_weights(batch, 1 / counts, proxy)
                partial = _Partial(proxy, batch, self.blocks, self._vectors, self._normalize)
                passes.backward(proxy, self._watched, batch, weights, partial.record)
                influence.index_add_(0, batch.documents, partial.influence.double().cpu())
                squared_norms.index_add_(0, batch.documents, partial.squared_norms.double().cpu())
            return influence, squared_norms

        return passes.with_halving(proxy, compute)

    def _join_norms(
        self, pieces: Sequence[Window], counts: torch.Tensor, squared_norms: torch.Tensor
    ) -> None:
        """Replaces the squared norm of each document of several windows by that of its summed gradient.

        The products between windows need both at once, so such documents' gradients are formed, one at a time.
        """
        by_document = collections.defaultdict(list)
        for window in pieces:
            by_document[window.document].append(dataclasses.replace(window, document=0))
        for document, own in by_document.items():
            if len(own) > 1:
                weight = 1 / counts[document : document + 1]
                gradient = query.weighted_gradient(self._proxy, self.blocks, own, weight)
                squares = [block.double().square().sum() for block in gradient.values()]
                squared_norms[document] = torch.stack(squares).sum().cpu()


class _Partial:
    """What the blocks contribute to the windows of one micro-batch.

    Attributes:
      influence: float32 or float64 [batch, num_groups, num_blocks].
      squared_norms: Same dtype, [batch].
    """

    def __init__(
        self,
        proxy: Proxy,
        batch: MicroBatch,
        blocks: Sequence[Block],
        vectors: Mapping[str, Sequence[torch.Tensor]],
        normalize: bool,
    ) -> None:
        self._modules = tracked.by_module(blocks)
        self._tied = tracked.tied_embeddings(blocks)
        self._tokens = batch.tokens.to(proxy.device)
        # Rows of the output part of a tied head's gradients, which the input part is not orthogonal to.
        self._output_rows: dict[str, torch.Tensor] = {}
        self._vectors = vectors
        self._normalize = normalize
        self._columns = {name: column for column, name in enumerate(vectors)}
        num_windows, num_groups = len(batch.lengths), len(next(iter(vectors.values())))
        self.influence = torch.zeros(
            num_windows, num_groups, len(vectors), dtype=proxy.sum_dtype, device=proxy.device
        )
        self.squared_norms = torch.zeros(num_windows, dtype=proxy.sum_dtype, device=proxy.device)

    def record(self, module: str, a: torch.Tensor, g: torch.Tensor) -> None:
        if module in self._tied:
            self._record_rows(self._tied[module], a, g)
            return
        for block in self._modules[module]:
            outputs = block.select(g)
            if self._normalize and products.is_formed(block.shape, a.shape[1]):
                self._record_formed(block, a, outputs)
                continue
            column = self._columns[block.name]
            for group, v in enumerate(self._vectors[block.name]):
                self.influence[:, group, column] += products.inner_products(a, outputs, v)
            if self._normalize:
                dtype = self.squared_norms.dtype
                inputs = products.with_bias(a.to(dtype), block.has_bias)
                self.squared_norms += products.squared_norms(inputs, outputs)
                if block.embedding is not None:
                    rows = products.gradient_rows(inputs, g, self._tokens)
                    self._output_rows[block.name] = rows[..., : block.in_features]

    def _record_formed(self, block: Block, a: torch.Tensor, g: torch.Tensor) -> None:
        """Takes products and norm off the gradients themselves, a few windows at a time."""
        inputs = products.with_bias(a.to(self.squared_norms.dtype), block.has_bias)
        vectors = torch.stack(list(self._vectors[block.name])).to(inputs).flatten(1)
        rows = []
        start = 0
        for gradients in products.sequence_gradients(inputs, g):
            some = slice(start, start + len(gradients))
            start = some.stop
            flat = gradients.flatten(1)
            self.influence[some, :, self._columns[block.name]] += flat @ vectors.T
            self.squared_norms[some] += torch.linalg.vector_norm(flat, dim=1).square()
            if block.embedding is not None:
                tokens = self._tokens[some]
                own = torch.arange(len(tokens), device=tokens.device)[:, None]
                rows.append(gradients[own, tokens, : block.in_features])
        if rows:
            self._output_rows[block.name] = torch.cat(rows)

    def _record_rows(self, block: Block, rows: torch.Tensor, deltas: torch.Tensor) -> None:
        column = self._columns[block.name]
        for group, v in enumerate(self._vectors[block.name]):
            self.influence[:, group, column] += products.row_products(rows, deltas, v)
        if self._normalize:
            # ||D + d||² - ||D||² = <d, d + 2 D>, where d has only the rows of the window's tokens.
            deltas = deltas.to(self.squared_norms.dtype)
            added = products.sums_by_row(rows, deltas) + 2 * self._output_rows.pop(block.name)
            self.squared_norms += torch.einsum("bti,bti->b", deltas, added)


def check_vectors(
    blocks: Sequence[Block], vectors: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Checks that there is a vector for every block, of its shape.

    Raises:
      ValueError: Naming the first that is missing or does not fit.
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
