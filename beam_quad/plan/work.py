"""The work of a stage, independent of machines, and the sizes it follows from.

Every stage states its own work (`Stage.work`). The statement is rough by design: floating-point operations by the usual rules,
and CPU time at the unit costs of `rates`.
"""

import dataclasses
from typing import NamedTuple

from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.plan import rates
from beam_quad.scoring.costs import ScoringCosts, TokenWork


class Requests(NamedTuple):
    """Requests to an object store.

    Attributes:
      reads: Those that read an object or ask for it; parts of a file that are read count as one.
      writes: Those that write or list.
    """

    reads: float
    writes: float


NO_REQUESTS = Requests(0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of a stage, independent of machines.

    Attributes:
      line: Name of the line of the plan that the stage belongs to.
      documents: Number of examples processed.
      flops: Floating-point operations of a model in the proxy's dtype.
      float32_flops: Floating-point operations of a model in float32, whatever the proxy's dtype.
      cpu_flops: Floating-point operations on CPUs, shared by all workers.
      core_s: Other CPU time shared by all workers, in core seconds.
      alone_flops: Floating-point operations on one core while all other workers wait.
      alone_s: Other CPU time on one core while all other workers wait, in seconds.
      flops_per_core_s: Rate at which a core does `cpu_flops` and `alone_flops`, per second.
      memory_bytes: Memory of the largest process, beyond the memory of any process.
      bytes_read: Compressed input read, without the run's own artifacts.
      bytes_shuffled: Bytes shuffled between workers.
      bytes_stored: Bytes stored in artifacts or the output.
      requests: Requests to an object store.
    """

    line: str
    documents: float = 0
    flops: float = 0.0
    float32_flops: float = 0.0
    cpu_flops: float = 0.0
    core_s: float = 0.0
    alone_flops: float = 0.0
    alone_s: float = 0.0
    flops_per_core_s: float = rates.CORE_FLOPS_PER_S
    memory_bytes: float = 0.0
    bytes_read: float = 0.0
    bytes_shuffled: float = 0.0
    bytes_stored: float = 0.0
    requests: Requests = NO_REQUESTS

    @property
    def is_model(self) -> bool:
        """Whether a model runs on the devices."""
        return self.flops + self.float32_flops > 0

    @property
    def total_flops(self) -> float:
        """Sum of all floating-point operations."""
        return self.flops + self.float32_flops + self.cpu_flops + self.alone_flops


@dataclasses.dataclass(frozen=True)
class TextSizes:
    """The size of some texts, estimated if they are not counted.

    Attributes:
      documents: Number of texts.
      tokens: Their tokens.
      stored_bytes: Compressed size of their files. Texts in artifacts and shuffles are assumed to compress like the input.
      text_bytes: Size of the texts.
      splits: Number of splits of their files.
    """

    documents: int
    tokens: int
    stored_bytes: int
    text_bytes: int
    splits: int

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of a text."""
        return self.tokens / max(self.documents, 1)

    @property
    def mean_stored_bytes(self) -> float:
        """Mean compressed bytes of a text."""
        return self.stored_bytes / max(self.documents, 1)

    @property
    def mean_text_bytes(self) -> float:
        """Mean bytes of a text."""
        return self.text_bytes / max(self.documents, 1)

    def requests(self, reads: int, writes: int = 0) -> Requests:
        """Returns the requests of a stage that makes so many for each split."""
        return Requests(float(reads * self.splits), float(writes * self.splits))


def pass_over(texts: TextSizes, line: str = "rank, cut", num_rankings: int = 1) -> Work:
    """States the work of a pass over a few numbers of every row, such as those of one or several rankings."""
    # Several targets' influence is packed and counted for each of them.
    each = rates.PASS_ROW_S if num_rankings == 1 else num_rankings * rates.PRIORITY_S
    return Work(line, texts.documents, core_s=texts.documents * each, requests=texts.requests(3))


NO_PROXY = ScoringCosts((), 0, TokenWork(), TokenWork(), ())
NO_EMBEDDER = EmbedderCosts(0)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes that the work of stages follows from, besides their own fields.

    Attributes:
      corpus: The corpus.
      new: The part of the corpus that the base did not have; all of it without a base.
      missing: The part whose files the stage at hand has to make; earlier runs have left the files of the rest.
      query: The query groups.
      held_out: The texts that a proof measures on, by group.
      num_items: Number of texts that no selected document may contain.
      embedder: Costs of the embedder.
      scoring: Costs of the proxy model and its tracked layers.
      eager_scoring: The same with eager attention, which second derivatives need.
      num_parameters: Parameters of the proxy model.
      context_length: Tokens of a window.
      max_windows: Maximum number of windows scored per example.
      num_clusters: Number of clusters, if the centers are fitted already; None before.
    """

    corpus: TextSizes
    new: TextSizes
    missing: TextSizes
    query: tuple[TextSizes, ...] = ()
    held_out: tuple[TextSizes, ...] = ()
    num_items: int = 0
    embedder: EmbedderCosts = NO_EMBEDDER
    scoring: ScoringCosts = NO_PROXY
    eager_scoring: ScoringCosts = NO_PROXY
    num_parameters: int = 0
    context_length: int = 0
    max_windows: int = 1
    num_clusters: int | None = None

    @property
    def query_documents(self) -> int:
        """Texts of all query groups."""
        return sum(group.documents for group in self.query)

    @property
    def query_tokens(self) -> int:
        """Tokens of all query groups."""
        return sum(group.tokens for group in self.query)

    @property
    def window_tokens(self) -> float:
        """Tokens of a window of a mean example."""
        return min(self.corpus.mean_tokens, self.context_length)

    @property
    def scored_tokens(self) -> float:
        """Scored tokens of a mean example."""
        return min(self.corpus.mean_tokens, self.context_length * self.max_windows)

    @property
    def forward_flops(self) -> float:
        """FLOPs of a forward pass of a mean example."""
        return self.scored_tokens * self.scoring.forward_flops(self.window_tokens)

    @property
    def gradient_flops(self) -> float:
        """FLOPs of the gradient of a mean example, both passes included."""
        return self.scored_tokens * self.scoring.query_flops(self.window_tokens)

    def exact_flops(self, num_vectors: int, normalize: bool = False) -> float:
        """Counts exact scoring of a mean example.

        Args:
          num_vectors: Number of query vectors.
          normalize: Whether scores are divided by the gradient's norm.
        """
        per_token = self.scoring.exact_flops(self.window_tokens, num_vectors, normalize)
        return self.scored_tokens * per_token
