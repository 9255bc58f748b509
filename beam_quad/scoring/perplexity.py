"""The baseline: how likely the proxy finds a text."""

from collections.abc import Sequence

import numpy as np
import torch

from beam_quad.gradients import passes, windows
from beam_quad.gradients.proxy import Proxy


class PerplexityScorer:
    """Scores texts by their mean loss in nats per token: lower is likelier.

    Args:
      proxy: The model.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Scores texts, forward only; one call is one batch.

        Args:
          texts: The documents.

        Returns:
          Mean loss over the tokens that a text's windows predict, in nats, float64 [num_texts, 1]; nan for a text
          with fewer than 2 tokens, or whose loss is not finite.
        """
        proxy = self._proxy
        documents = windows.tokenize(proxy.tokenizer, texts)
        pieces = windows.windows_of(documents, proxy.context_length, proxy.max_windows)
        counts = torch.from_numpy(windows.count_loss_tokens(pieces, len(texts))).double()

        def compute(max_batch_tokens: int) -> torch.Tensor:
            totals = torch.zeros(len(texts), dtype=torch.float64)
            for batch in windows.micro_batches(pieces, proxy.context_length, max_batch_tokens):
                weights = passes.token_weights(batch, torch.ones_like(counts), proxy)
                sums = passes.window_losses(proxy, batch, weights)
                totals.index_add_(0, batch.documents, sums.double().cpu())
            return totals

        means = (passes.with_halving(proxy, compute) / counts).numpy()[:, None]
        return np.where(np.isfinite(means), means, np.nan)
