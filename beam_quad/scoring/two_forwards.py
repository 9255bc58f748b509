"""Influence as a directional derivative, from two forward passes and no backward."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from beam_quad.gradients import passes, shifted
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.gradients.windows import Documents
from beam_quad.scoring.influence import check_vectors
from beam_quad.scoring.scorer import ProxyScorer


class TwoForwardsScorer(ProxyScorer):
    """Scores texts by [ L(theta + e v) - L(theta - e v) ] / 2e, which tends to < v , grad L(text) >.

    The other way to what `InfluenceScorer` gives, and the cheaper one for one query group. It stores no activations
    and asks nothing of the architecture, but its step has to suit model and vector: too small, and the difference
    drowns in rounding; too large, and the loss bends. `calibrate` finds it. With the upper layers tracked, the lower
    ones are run once.

    Args:
      proxy: The model, in float32 or float64.
      blocks: What is tracked.
      vectors: The vector of each query group, by group and block, [out, in (+ 1)]; each takes two passes.
      relative_step: ||e v|| over the norm of the tracked weights.

    Raises:
      ValueError: If there is no group, a vector does not fit its block, the step is not positive, or the model does
        not suit: in lower precision, a mixture of experts, or with tracked layers that share a weight.
    """

    def __init__(
        self,
        proxy: Proxy,
        blocks: Sequence[Block],
        vectors: Mapping[str, Mapping[str, torch.Tensor]],
        relative_step: float,
    ) -> None:
        check_vectors(blocks, vectors)
        if not relative_step > 0:
            raise ValueError(f"relative_step must be positive, got {relative_step}")
        if why := shifted.why_not(proxy.model, blocks):
            raise ValueError(f"{why} Score exactly.")
        self.groups: tuple[str, ...] = tuple(vectors)
        self.blocks: tuple[Block, ...] = tuple(blocks)
        super().__init__(proxy)
        self._shifts = [
            shifted.Shift.of(proxy, blocks, vector, relative_step) for vector in vectors.values()
        ]

    def score(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts; one call is one batch, and a score depends on nothing outside it.

        Args:
          texts: The documents, as texts or prepared.

        Returns:
          Influence, float64 [num_texts, num_groups]; nan for a text with fewer than 2 tokens, or whose score is not
          finite.
        """
        documents = self._proxy.read(texts)

        def compute(max_batch_tokens: int) -> torch.Tensor:
            return self._differences(documents, max_batch_tokens)

        totals = passes.with_halving(self._proxy, compute)
        scores = (totals / torch.from_numpy(documents.loss_tokens)[:, None]).numpy()
        return np.where(np.isfinite(scores), scores, np.nan)

    def _differences(self, documents: Documents, max_batch_tokens: int) -> torch.Tensor:
        """Adds up the derivatives of the documents' sum losses, float64 [num_texts, num_groups]."""
        proxy = self._proxy
        totals = torch.zeros(len(documents.loss_tokens), len(self.groups), dtype=torch.float64)
        for batch in proxy.micro_batches(documents.windows, max_batch_tokens):
            for group, shift in enumerate(self._shifts):
                differences = shifted.loss_differences(proxy, self.blocks, shift, batch)
                sums = differences.sum(1).cpu() / shift.distance
                totals[:, group].index_add_(0, batch.documents, sums)
        return totals
