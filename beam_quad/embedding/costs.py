"""What embedding costs, for plans."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class EmbedderCosts:
    """Costs of an embedder, in FLOPs: products of matrices, 2 FLOPs a multiply-add, and nothing else.

    Attributes:
      dim: Dimension of the vectors.
      max_tokens: Tokens that are read of a text at most; None for all.
      token_flops: For each token that is read.
      pair_flops: For each pair of them.
      text_flops: For each text.
    """

    dim: int
    max_tokens: int | None = None
    token_flops: float = 0.0
    pair_flops: float = 0.0
    text_flops: float = 0.0

    def flops(self, num_tokens: float) -> float:
        """Counts a text of `num_tokens` tokens."""
        read = self.read_tokens(num_tokens)
        return self.token_flops * read + self.pair_flops * read**2 + self.text_flops

    def read_tokens(self, num_tokens: float) -> float:
        """Counts the tokens that are read of a text of `num_tokens`."""
        return num_tokens if self.max_tokens is None else min(num_tokens, self.max_tokens)
