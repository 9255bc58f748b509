"""Perplexity, a baseline: the proxy's mean loss on a text."""

from collections.abc import Sequence

import numpy as np
import torch

from beam_quad.gradients import passes
from beam_quad.gradients.windows import Documents
from beam_quad.scoring.scorer import ProxyScorer


class PerplexityScorer(ProxyScorer):
    """Scores texts by their mean loss in nats per token; a lower loss means a likelier text.

    Args:
      proxy: The model.
    """

    def score(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts with forward passes only; a score does not depend on the other texts.

        Args:
          texts: The documents, as texts or prepared.

        Returns:
          Mean loss over the tokens predicted in a text's windows, in nats, float64 [num_texts, 1]; nan if a text has fewer
          than 2 tokens or its loss is not finite.
        """
        proxy = self._proxy
        documents = proxy.read(texts)
        counts = torch.from_numpy(documents.loss_tokens).double()

        windows = documents.windows
        if not windows:
            return np.full((len(counts), 1), np.nan)

        def compute(max_batch_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
            order, losses = [], []
            for batch, own in proxy.even_batches(windows, max_batch_tokens):
                weights = passes.token_weights(batch, torch.ones_like(counts), proxy)
                order.append(own)
                losses.append(passes.window_losses(proxy, batch, weights))
            return torch.cat(order), torch.cat(losses).cpu()

        order, losses = passes.with_halving(proxy, compute, self._fitting)
        totals = torch.zeros(len(counts), dtype=torch.float64)
        of_window = torch.tensor([window.document for window in windows])
        # In the order of the windows, so rounding does not depend on how they were batched.
        totals.index_add_(0, of_window, losses[order.argsort()].double())
        means = (totals / counts).numpy()[:, None]
        return np.where(np.isfinite(means), means, np.nan)
