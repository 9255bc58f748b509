"""Times methods in turns, so that what else the machine does meets them all alike."""

import contextlib
import dataclasses
import gc
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence

from torch.utils.flop_counter import FlopCounterMode

from beam_quad.gradients import Proxy
from beam_quad.gradients.windows import Documents
from tests.benchmarks.influence import material
from tests.benchmarks.influence.methods import Method

# Dense bfloat16 products of one H100 or H200, per second.
CHIP_RATE = 989e12


@dataclasses.dataclass(frozen=True)
class Rules:
    """How methods are timed.

    Attributes:
      micro_batches: Sizes to try, in tokens; a method's best one counts, and memory is compared at the largest.
      num_rounds: Rounds over all methods.
      by_cpu_time: Whether CPU time counts, or the clock.
      counts_flops: Whether to count operations too.
    """

    micro_batches: tuple[int, ...]
    num_rounds: int
    by_cpu_time: bool
    counts_flops: bool


@dataclasses.dataclass
class Outcome:
    """What one method took.

    Attributes:
      memory_mb: Peak memory over the loaded model, 10**6 bytes, at the largest micro-batch.
      rounds: Seconds of each round, by the clock that counts and by tokens of a micro-batch.
      flops: Operations of a round; 0 where not counted.
    """

    memory_mb: float
    rounds: dict[int, list[float]]
    flops: int = 0

    @property
    def micro_batch(self) -> int:
        """The size that did best."""
        return min(self.rounds, key=lambda size: statistics.median(self.rounds[size]))

    @property
    def seconds(self) -> float:
        """The median of the rounds at that size."""
        return statistics.median(self.rounds[self.micro_batch])

    def over(self, other: "Outcome") -> float:
        """Returns the median of the rounds' ratios, both at their best sizes."""
        pairs = zip(self.rounds[self.micro_batch], other.rounds[other.micro_batch], strict=True)
        return statistics.median(own / its for own, its in pairs)


def race(
    proxy: Proxy,
    methods: Sequence[Method],
    documents: Documents,
    rules: Rules,
    say: Callable[[str], None],
) -> dict[str, Outcome]:
    """Warms every method up, measures its memory and times it in rounds, at each size of micro-batch.

    Args:
      proxy: The model; its device is that of the methods.
      methods: The rows.
      documents: The same for all, as many tokens as fill the largest micro-batch at least.
      rules: How.
      say: Takes progress.

    Returns:
      Outcomes by name.
    """
    sizes = _distinct(rules.micro_batches, proxy.context_length)
    outcomes = {}
    with _frozen():
        for method in methods:
            outcomes[method.name] = _prepare(proxy, method, documents, sizes)
            say(f"warm: {method.name}")
        for number in range(rules.num_rounds):
            for size, method in itertools.product(sizes, methods):
                cost = method.measure(documents, size)
                seconds = cost.cpu_seconds if rules.by_cpu_time else cost.seconds
                outcomes[method.name].rounds[size].append(seconds)
            say(f"round {number + 1} of {rules.num_rounds}")
    if rules.counts_flops:
        for method in methods:
            outcomes[method.name].flops = _flops(method, documents, max(sizes))
    return outcomes


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Keeps the libraries' objects out of collections, which take a second each otherwise."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _prepare(proxy: Proxy, method: Method, documents: Documents, sizes: list[int]) -> Outcome:
    largest = max(sizes)
    method.measure(material.shortened(documents), largest)
    one_batch = material.first(documents, max(1, largest // proxy.context_length))
    # Two batches: what one leaves is there while the next is worked through.
    memory = method.memory(material.repeated(one_batch), largest)
    return Outcome(memory, {size: [] for size in sizes})


def _distinct(sizes: tuple[int, ...], length: int) -> list[int]:
    """Drops sizes that make the same micro-batches as another."""
    return list({max(1, size // length): size for size in sorted(sizes)}.values())


def _flops(method: Method, documents: Documents, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        method.score(documents, size)
    return int(counter.get_total_flops())
