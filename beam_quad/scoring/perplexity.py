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
        """Scores texts, forward only; a score does not depend on the texts beside it.

        Args:
          texts: The documents, as texts or prepared.

        Returns:
          Mean loss over the tokens that a text's windows predict, in nats, float64 [num_texts, 1]; nan for a text
          with fewer than 2 tokens, or whose loss is not finite.
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
        totals.index_add_(0, of_window, losses[order.argsort()].double())
        means = (totals / counts).numpy()[:, None]
        return np.where(np.isfinite(means), means, np.nan)
