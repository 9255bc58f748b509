"""What is compared: each method scores documents in micro-batches of a given size."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch

from beam_quad.gradients.windows import Documents
from tests.benchmarks.influence import clocks
from tests.benchmarks.influence.clocks import Cost

# Takes documents and the tokens of a micro-batch; gives float64 [num_documents], or None where it scores nothing.
Score = Callable[[Documents, int], np.ndarray | None]


class Method(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str: ...

    def score(self, documents: Documents, micro_batch: int) -> np.ndarray | None: ...

    def measure(self, documents: Documents, micro_batch: int) -> Cost: ...

    def memory(self, documents: Documents, micro_batch: int) -> float: ...


@dataclasses.dataclass(frozen=True)
class Function:
    """A method that is one function, all of whose time counts.

    Attributes:
      name: In the table.
      function: What scores.
      device: Where.
      held_bytes: Of the tensors that it holds from one call to the next, those of a model apart.
    """

    name: str
    function: Score
    device: torch.device
    held_bytes: int = 0

    def score(self, documents: Documents, micro_batch: int) -> np.ndarray | None:
        return self.function(documents, micro_batch)

    def measure(self, documents: Documents, micro_batch: int) -> Cost:
        _, cost = clocks.timed(lambda: self.function(documents, micro_batch), self.device)
        return cost

    def memory(self, documents: Documents, micro_batch: int) -> float:
        """Returns the most memory over the loaded model, in 10**6 bytes."""
        memory = clocks.Memory(self.device)
        self.function(documents, micro_batch)
        return self.held_bytes / 1e6 + memory.peak()


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Lifts the restriction to deterministic kernels, which only ours ask for."""
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True)
