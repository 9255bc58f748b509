"""Costs of embedding, for plans."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class EmbedderCosts:
    """Costs of an embedder in FLOPs. Only matrix products count, at 2 FLOPs per multiply-add.

    Attributes:
      dim: Dimension of the vectors.
      max_tokens: Maximum number of tokens read from a text; None for all.
      token_flops: FLOPs for each token read.
      pair_flops: FLOPs for each pair of tokens read.
      text_flops: FLOPs for each text.
      fit_flops: FLOPs of making the embedder, once for all runs.
    """

    dim: int
    max_tokens: int | None = None
    token_flops: float = 0.0
    pair_flops: float = 0.0
    text_flops: float = 0.0
    fit_flops: float = 0.0

    def flops(self, num_tokens: float) -> float:
        """Counts the FLOPs of a text of `num_tokens` tokens."""
        read = self.read_tokens(num_tokens)
        return self.token_flops * read + self.pair_flops * read**2 + self.text_flops

    def read_tokens(self, num_tokens: float) -> float:
        """Counts the tokens read from a text of `num_tokens` tokens."""
        return num_tokens if self.max_tokens is None else min(num_tokens, self.max_tokens)
