"""The fall of a text's loss when the proxy is tuned on the query set: two forward passes, no backward pass.

References:
  Brandfonbrener, Zhang, Kirsch, Schwarz & Kakade, CoLoR-Filter: Conditional Loss Reduction Filtering for Targeted Language Model
  Pre-training, 2024, arXiv:2406.10670.
  Moore & Lewis, Intelligent Selection of Language Model Training Data, 2010 (the difference of cross-entropies).
"""

from collections.abc import Sequence

import numpy as np

from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import Documents
from beam_quad.scoring.perplexity import PerplexityScorer
from beam_quad.scoring.scorer import ProxyScorer


class LossDropScorer(ProxyScorer):
    """Scores texts by their loss under the proxy less their loss under the tuned proxy: higher is more like the query set.

    Args:
      proxy: The model.
      tuned: The same model, tuned on the query set (`gradients.tuning.tune`).

    Raises:
      ValueError: If the two cut texts in different ways.
    """

    def __init__(self, proxy: Proxy, tuned: Proxy) -> None:
        super().__init__(proxy)
        cuts = [(own.context_length, own.max_windows) for own in (proxy, tuned)]
        if cuts[0] != cuts[1]:
            raise ValueError(
                f"the proxy has (context_length, max_windows) {cuts[0]} and the tuned one {cuts[1]}; "
                "their losses are of different tokens"
            )
        self._before, self._after = PerplexityScorer(proxy), PerplexityScorer(tuned)

    @property
    def num_halvings(self) -> int:
        """As `ProxyScorer.num_halvings`, of both models."""
        return self._before.num_halvings + self._after.num_halvings

    def score(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts, forward only; one call is one batch.

        Args:
          texts: The documents, as texts or prepared.

        Returns:
          Fall of the mean loss over the tokens that a text's windows predict, in nats per token, float64 [num_texts, 1];
          nan for a text with fewer than 2 tokens, or with a loss that is not finite.
        """
        documents = self._proxy.read(texts)
        fall: np.ndarray = self._before.score(documents) - self._after.score(documents)
        return fall
