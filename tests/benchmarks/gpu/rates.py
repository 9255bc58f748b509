"""How fast are embedding, scoring and the fit of the curvature on a device, and how busy is it meanwhile?"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import transformers
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from beam_quad.embedding import EmbedderSpec, embedder_costs
from beam_quad.embedding.sentence import SentenceEmbedder
from beam_quad.embedding.sources import locate
from beam_quad.gradients import Proxy, find_blocks
from beam_quad.scoring import (
    InfluenceScorer,
    ScoringCosts,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
)
from tests.gradients import tiny

_ROUNDS = 3
_CONTEXT_LENGTH = 1024


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
      config: Of the proxy, whose weights are random.
      layers: Its tracked layers.
      micro_batch: Padded tokens of a micro-batch.
      scored: Documents of a call that scores.
      fitted: Documents that the curvature is fitted on, in a call.
      embedded: Documents of a call that embeds.
      mean_tokens: Tokens of a document, about; lengths are log-normal, as those of web pages are.
    """

    config: transformers.PretrainedConfig
    layers: str
    micro_batch: int
    scored: int
    fitted: int
    embedded: int
    mean_tokens: int

    def texts(self, count: int) -> list[str]:
        """Draws texts of random tokens."""
        drawn = np.random.default_rng(0).lognormal(-0.32, 0.8, count) * self.mean_tokens
        lengths = drawn.clip(2, _CONTEXT_LENGTH).astype(int).tolist()
        return tiny.texts(lengths, vocabulary=self.config.vocab_size)


@dataclasses.dataclass(frozen=True)
class Work:
    """Something that a device does.

    Attributes:
      name: What it is.
      tokens: Tokens that it reads.
      flops: FLOPs, by the formulas that `--plan` prices it by.
      call: Does it.
    """

    name: str
    tokens: int
    flops: float
    call: Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a call launched.

    Attributes:
      kernels: Kernels and copies on the device; on a CPU, operations.
      synchronisations: How often the CPU waited for the device.
      device_s: Seconds in which the device had something to do.
    """

    kernels: int
    synchronisations: int
    device_s: float

    @classmethod
    def of(cls, events: Iterable[object], device_type: DeviceType) -> "Profile":
        """Reads the events of torch's profiler; of operations within others only the innermost are counted."""
        own, synchronisations = [], 0
        for event in events:
            name = str(event.name)  # type: ignore[attr-defined]
            synchronisations += name.startswith("cuda") and name.endswith("Synchronize")
            is_leaf = not event.cpu_children  # type: ignore[attr-defined]
            if event.device_type == device_type and is_leaf and not name.startswith("cuda"):  # type: ignore[attr-defined]
                span = event.time_range  # type: ignore[attr-defined]
                own.append((span.start, span.end))
        return cls(len(own), synchronisations, _covered(own) / 1e6)


@dataclasses.dataclass(frozen=True)
class Rate:
    """How fast some work is.

    Attributes:
      name: The work.
      tokens_per_s: Tokens a second, the median of rounds.
      flops_per_s: FLOPs a second.
      share_of_rate: The same over the chip's dense bfloat16 matrix rate; None for a device whose rate is not known.
      busy: Share of the time in which the device had something to do.
      profile: What one call launched.
    """

    name: str
    tokens_per_s: float
    flops_per_s: float
    share_of_rate: float | None
    busy: float
    profile: Profile


def works(device: torch.device, dtype: torch.dtype, size: Size) -> Iterator[Work]:
    """Lists what is measured, each prepared when it is its turn: tokenising is not part of it."""
    yield _embedding(device, dtype, size)
    yield from _of_proxy(device, dtype, size)


def _embedding(device: torch.device, dtype: torch.dtype, size: Size) -> Work:
    spec = EmbedderSpec("minilm", device=str(device), dtype=str(dtype).removeprefix("torch."))
    embedder, costs = SentenceEmbedder(locate(spec), spec), embedder_costs(spec)
    chunks = embedder.prepare(size.texts(size.embedded))
    tokens = [int(n) for chunk in chunks for n in np.asarray(chunk.num_tokens)]
    flops = sum(map(costs.flops, tokens))
    return Work("embedding", sum(tokens), flops, lambda: embedder.embed_prepared(chunks))


def _of_proxy(device: torch.device, dtype: torch.dtype, size: Size) -> Iterator[Work]:
    proxy = _random_proxy(device, dtype, size)
    blocks = find_blocks(proxy.model, size.layers)
    costs = ScoringCosts.of(proxy.model, blocks)
    vector = {b.name: torch.randn(b.shape, generator=torch.Generator().manual_seed(0)) for b in blocks}  # fmt: skip
    scorer = InfluenceScorer(proxy, blocks, {"query": vector})
    documents = proxy.read(size.texts(size.scored))
    lengths = [len(window.tokens) for window in documents.windows]
    flops = sum(length * costs.exact_flops(length) for length in lengths)
    yield Work("scoring", sum(lengths), flops, lambda: scorer.score(documents))

    texts = size.texts(size.fitted)
    sample = [str(i) for i in range(len(texts))], texts, 0
    sums = covariance_sums(proxy, blocks, *sample)
    bases = {name: eigenbasis(total) for name, total in sums.items()}

    def fit() -> None:
        covariance_sums(proxy, blocks, *sample)
        eigenvalue_sums(proxy, blocks, bases, *sample)

    fitted = [len(window.tokens) for window in proxy.read(texts).windows]
    each = (n * (costs.covariance_flops(n) + costs.eigenvalue_flops(n)) for n in fitted)
    yield Work("curvature fit", sum(fitted), sum(each), fit)


def _random_proxy(device: torch.device, dtype: torch.dtype, size: Size) -> Proxy:
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(size.config, dtype=dtype)
    tokenizer = tiny.tokenizer(size.config.vocab_size)
    return Proxy(model, tokenizer, _CONTEXT_LENGTH, 4, size.micro_batch)


def measure(work: Work, device: torch.device, peak: float | None) -> Rate:
    """Times some work, then does it once more under the profiler.

    Args:
      work: The work.
      device: Where it is done.
      peak: The chip's dense bfloat16 matrix rate, FLOPs a second.
    """
    _seconds(work, device)  # kernels are chosen and memory is taken in the first call
    seconds = statistics.median(_seconds(work, device) for _ in range(_ROUNDS))
    found = profiled(work, device)
    rate = work.flops / seconds
    return Rate(
        work.name,
        work.tokens / seconds,
        rate,
        None if peak is None else rate / peak,
        min(1.0, found.device_s / seconds),
        found,
    )


def profiled(work: Work, device: torch.device) -> Profile:
    """Does some work under the profiler."""
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * is_cuda]
    with profile(activities=activities) as found:
        _seconds(work, device)
    return Profile.of(found.events(), DeviceType.CUDA if is_cuda else DeviceType.CPU)


def _seconds(work: Work, device: torch.device) -> float:
    began = time.perf_counter()
    work.call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals: kernels of several streams overlap."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
