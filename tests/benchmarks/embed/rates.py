"""How fast are the stage with a real encoder, a plain loop of the same encoder, and vectors of tokens?"""

import dataclasses
import statistics
import time

import numpy as np
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

from beam_quad.embedding import Embedder, EmbedderSpec
from beam_quad.embedding.sources import locate
from beam_quad.gradients import load_tokenizer, tokenize
from beam_quad.stages import run_in_process
from tests.benchmarks.embed.material import Material, timed

_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Rates:
    """Documents a second, the median of rounds.

    Attributes:
      stage: Of the stage that reads, counts tokens, embeds and writes.
      loop: Of a plain loop that reads, counts tokens and embeds the texts in order of length.
      over_loop: Of both the ratio, the median of rounds.
      cpu_over_loop: The same of documents by seconds of CPU time, which others on the machine disturb less.
    """

    stage: float
    loop: float
    over_loop: float
    cpu_over_loop: float


def stage_and_loop(material: Material, num_texts: int, threads: int) -> Rates:
    """Runs both by turns, on different texts each round."""
    spec = EmbedderSpec("minilm", num_threads=threads)
    encoder = SentenceTransformer(str(locate(spec)), device="cpu")
    tokenizer = load_tokenizer(material.tokenizer, None)
    rounds = []
    for number, some in enumerate(np.array_split(np.arange(num_texts), _ROUNDS)):
        stage = material.stage(f"real-{number}", [material.long[i] for i in some], spec)
        stage.model()  # its loading is not the question

        def loop(stage=stage) -> None:
            for split in stage.corpus.splits():
                texts = pq.read_table(split.path).column("text").to_pylist()
                for start in range(0, len(texts), 256):
                    tokenize(tokenizer, texts[start : start + 256])
            whole = [pq.read_table(split.path) for split in stage.corpus.splits()]
            texts = [text for table in whole for text in table.column("text").to_pylist()]
            encoder.encode(sorted(texts, key=len), batch_size=32, show_progress_bar=False)

        both = _clocked(lambda stage=stage: run_in_process([stage])), _clocked(loop)
        rounds.append((len(some), *both))
    return Rates(
        statistics.median(n / ours[0] for n, ours, _ in rounds),
        statistics.median(n / plain[0] for n, _, plain in rounds),
        statistics.median(plain[0] / ours[0] for _, ours, plain in rounds),
        statistics.median(plain[1] / ours[1] for _, ours, plain in rounds),
    )


def _clocked(work) -> tuple[float, float]:
    """Seconds of the clock, and of the CPU."""
    cpu_began = time.process_time()
    seconds = timed(time.perf_counter, work)
    return seconds, time.process_time() - cpu_began


def cpu_rate(embedder: Embedder, texts: list[str]) -> float:
    """Documents a second of CPU time."""
    return len(texts) / timed(time.process_time, lambda: embedder.embed(texts))
