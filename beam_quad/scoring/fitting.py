"""Passes over a sample of the corpus, from which curvature is fitted."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from beam_quad import seeding
from beam_quad.gradients import losses, passes
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.windows import MicroBatch, Window

Labels = Literal["sampled", "empirical"]


class SumLossPasses:
    """Backward passes of the sum loss over a sample of the corpus.

    Args:
      proxy: The model.
      ids: Example ids, from which labels are drawn.
      texts: Texts of the examples; a text with fewer than 2 tokens is skipped.
      seed: The run's seed.
      labels: "sampled" draws labels from the model (the true Fisher), "empirical" uses the text's own tokens.

    Raises:
      ValueError: If `labels` is unknown, or ids and texts differ in number.
    """

    def __init__(
        self, proxy: Proxy, ids: Sequence[str], texts: Sequence[str], seed: int, labels: Labels
    ) -> None:
        if labels not in ("sampled", "empirical"):
            raise ValueError(f"labels must be sampled or empirical, got {labels!r}")
        if len(ids) != len(texts):
            raise ValueError(f"got {len(ids)} ids but {len(texts)} texts")
        self.proxy = proxy
        self.windows: list[Window] = proxy.read(texts).windows
        self._keys: np.ndarray = seeding.keys(ids)
        self._seed = seed
        self._is_sampled = labels == "sampled"

    @property
    def num_tokens(self) -> int:
        """Tokens of all windows, including the last of each."""
        return sum(len(window.tokens) for window in self.windows)

    def batches(self, max_batch_tokens: int) -> list[MicroBatch]:
        """Cuts the windows into micro-batches."""
        return list(self.proxy.micro_batches(self.windows, max_batch_tokens))

    def run(self, modules: Sequence[str], batch: MicroBatch, record: passes.Record) -> None:
        """Runs one micro-batch and passes the inputs and output gradients of each module to `record`."""
        # The sum loss, as in Grosse et al. and kronfluence, so factors can be compared number by number.
        weights = batch.loss_mask.to(dtype=self.proxy.sum_dtype, device=self.proxy.device)
        uniforms = None
        if self._is_sampled:
            uniforms = losses.label_uniforms(self._seed, self._keys, batch)
        with torch.no_grad():
            passes.backward(self.proxy, modules, batch, weights, record, uniforms)
