"""How busy is a device that only takes the time that an H200 would?"""

import concurrent.futures
import dataclasses
import os
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad.embedding import EmbedderSpec
from beam_quad.embedding.sentence import Chunk, SentenceEmbedder
from beam_quad.embedding.sources import locate
from beam_quad.gradients import load_tokenizer
from beam_quad.plan.devices import Device, chip_named
from beam_quad.stages.base import list_work
from tests.benchmarks.embed.material import Material, timed

_SPINNING_S = 3.0
_NUM_SHARDS = 4
_TIMED = 1000
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Shape:
    """A sentence encoder, as far as its time on a device goes. All have MiniLM's tokenizer.

    Attributes:
      layers: Its layers.
      width: Of its states; the MLP is four times as wide.
      max_tokens: Tokens of a text that it reads.
    """

    layers: int
    width: int
    max_tokens: int

    def flops(self, num_texts: int, length: int) -> float:
        """Counts a padded micro-batch: products with weights, and attention."""
        products = 2 * 12 * self.width**2 + 4 * length * self.width
        return float(self.layers * products * num_texts * length)


SHAPES = {"all-MiniLM-L6": Shape(6, 384, 256), "bge-large": Shape(24, 1024, 512)}


class StandIn:
    """Reads texts with the real tokenizer, and sleeps for as long as a device would compute.

    Args:
      shape: What it stands in for.
      slower: How much slower than an H200 the device is.
    """

    dim = 384

    def __init__(self, shape: Shape, slower: float) -> None:
        spec = EmbedderSpec("minilm", num_threads=1, max_tokens=shape.max_tokens)
        self._encoder = SentenceEmbedder(locate(spec), spec)
        self._encoder._limit = self._encoder._model[0].max_seq_length = shape.max_tokens
        self._shape, self._slower = shape, slower
        self._device = Device.gpu(chip_named("H200"), "bfloat16")
        self.seconds = 0.0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.embed_prepared(self.prepare(texts))

    def prepare(self, texts: Sequence[str]) -> list[Chunk]:
        return self._encoder.prepare(texts)

    def embed_prepared(self, chunks: Sequence[Chunk]) -> np.ndarray:
        shapes = [chunk.features["attention_mask"].shape for chunk in chunks]
        flops = sum(self._shape.flops(*shape) for shape in shapes)
        seconds = self._slower * flops / self._device.flops_per_s
        time.sleep(seconds)
        self.seconds += seconds
        return np.full((sum(len(chunk.rows) for chunk in chunks), self.dim), 0.05, np.float32)


@dataclasses.dataclass(frozen=True)
class Busy:
    """How a device fared.

    Attributes:
      share: Of the time, in which it computed.
      bound: What it could be: 1, or what the cores feed it if they do nothing but read and tokenise.
      seconds: The time.
      spare_cores: Cores that a process gets here, which others may use too.
      cpu_over_least: CPU time, over that of nothing but tokenising.
    """

    share: float
    bound: float
    seconds: float
    spare_cores: float
    cpu_over_least: float


def measure(material: Material, shape: str, threads: int) -> Busy:
    """Runs the stage on a stand-in, two pieces at once as a worker does.

    Args:
      material: Its long texts are embedded.
      shape: Name of the encoder that the device computes.
      threads: CPU threads that one H200 has. What this machine spares stands for them: the device is slower by the ratio.
    """
    before = _spare_cores()
    device = StandIn(SHAPES[shape], threads / before)
    stage = material.stage(f"{shape}-{threads}", material.long, EmbedderSpec("minilm"), _NUM_SHARDS)
    least = _least_cpu_seconds(material, device)
    own = stage.load()._replace(embedder=device)
    work = list(list_work(stage))
    began, cpu_began = time.perf_counter(), time.process_time()
    with concurrent.futures.ThreadPoolExecutor(stage.pieces_at_once) as bundles:
        list(bundles.map(lambda piece: stage.do(piece, own), work))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    fed = least / statistics.fmean([before, _spare_cores()])
    bound = device.seconds / max(device.seconds, fed)
    return Busy(device.seconds / seconds, bound, seconds, before, cpu_seconds / least)


def _least_cpu_seconds(material: Material, device: StandIn) -> float:
    """Measures what tokenising takes at least, in a plain loop, by a part of the texts."""
    tokenizer = load_tokenizer(material.tokenizer, None).backend_tokenizer
    some = material.long[:_TIMED]

    def work() -> None:
        for start in range(0, len(some), _BATCH):
            batch = some[start : start + _BATCH]
            tokenizer.encode_batch_fast(batch)
            device.prepare(batch)

    return timed(time.process_time, work) * len(material.long) / len(some)


def _spare_cores() -> float:
    ends = time.perf_counter() + _SPINNING_S
    began, cpu_began = time.perf_counter(), time.process_time()

    def spin() -> None:
        while time.perf_counter() < ends:
            np.sort(np.arange(100_000)[::-1] % 977)

    spinning: list[Any] = [threading.Thread(target=spin) for _ in range(os.cpu_count() or 1)]
    for thread in spinning:
        thread.start()
    for thread in spinning:
        thread.join()
    return (time.process_time() - cpu_began) / (time.perf_counter() - began)
