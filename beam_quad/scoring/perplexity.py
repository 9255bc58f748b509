"""The baseline: how likely the proxy finds a text."""

from collections.abc import Sequence

import numpy as np
import torch

from beam_quad.gradients import passes
from beam_quad.gradients.windows import Documents
from beam_quad.scoring.scorer import ProxyScorer


class PerplexityScorer(ProxyScorer):
    """Scores texts by their mean loss in nats per token: lower is likelier.

    Args:
      proxy: The model.
    """

    def score(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts, forward only; one call is one batch.

        Args:
          texts: The documents, as texts or prepared.

        Returns:
          Mean loss over the tokens that a text's windows predict, in nats, float64 [num_texts, 1]; nan for a text
          with fewer than 2 tokens, or whose loss is not finite.
        """
        proxy = self._proxy
        documents = proxy.read(texts)
        counts = torch.from_numpy(documents.loss_tokens).double()

        def compute(max_batch_tokens: int) -> torch.Tensor:
            totals = torch.zeros(len(counts), dtype=torch.float64)
            for batch in proxy.micro_batches(documents.windows, max_batch_tokens):
                weights = passes.token_weights(batch, torch.ones_like(counts), proxy)
                sums = passes.window_losses(proxy, batch, weights)
                totals.index_add_(0, batch.documents, sums.double().cpu())
            return totals

        means = (passes.with_halving(proxy, compute) / counts).numpy()[:, None]
        return np.where(np.isfinite(means), means, np.nan)
