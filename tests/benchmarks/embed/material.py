"""The texts that are embedded, in shards, and the tokenizer that counts their tokens."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.corpus.batches import Columns
from beam_quad.corpus.plan import write_plan
from beam_quad.corpus.splits import plan_input
from beam_quad.embedding import AnyEmbedderSpec
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.embed import EmbedExamples
from pipelines.demo import corpus as demo
from pipelines.demo import proxy

_GROUP_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class Material:
    """Documents of the demo, of many domains, and their joins, as long as pages of the web.

    Attributes:
      folder: Where everything is written.
      texts: The documents.
      labels: Their domains, str [n].
      long: Documents of one domain joined, of about `length` characters, in another order.
      tokenizer: Folder of the tokenizer of a proxy, trained on the documents.
    """

    folder: pathlib.Path
    texts: list[str]
    labels: np.ndarray
    long: list[str]
    tokenizer: str

    def stage(
        self, name: str, texts: Sequence[str], embedder: AnyEmbedderSpec, num_shards: int = 1
    ) -> EmbedExamples:
        """Writes texts to shards of their own, and makes the stage that embeds them."""
        shards = self.folder / name / "corpus"
        shards.mkdir(parents=True)
        for number, some in enumerate(np.array_split(np.arange(len(texts)), num_shards)):
            table = pa.table({"text": [texts[i] for i in some]})
            pq.write_table(table, shards / f"{number}.parquet", row_group_size=_GROUP_ROWS)
        corpus = Corpus(
            root=str(self.folder / name / "artifacts"),
            plan_path=str(self.folder / name / "plan.json.gz"),
            seen_dir=str(self.folder / name / "seen"),
            layout=name,
            columns=Columns("text", None, None),
            tokenizer=name,
            embedder=embedder,
            embedder_fingerprint=name,
            on_bad_file="fail",
            seed=0,
            reserve_rate=0.01,
        )
        write_plan(corpus.plan_path, plan_input((str(shards),)))
        return EmbedExamples(corpus, self.tokenizer, None)


def prepare(folder: pathlib.Path, num_documents: int, length: int, num_long: int) -> Material:
    """Makes texts and tokenizer; equal arguments give equal texts."""
    made = demo.Corpus(folder / "demo", num_documents)
    demo.make_corpus(made)
    documents = demo.read_documents(made)
    texts, labels = [d.text for d in documents], np.array([d.source for d in documents])
    tokenizer = folder / "tokenizer"
    proxy.train_tokenizer(texts[:2000]).save_pretrained(tokenizer)
    endless = _joined(texts, labels, length)
    long = list(itertools.islice(endless, num_long))
    return Material(folder, texts, labels, long, str(tokenizer))


def _joined(texts: Sequence[str], labels: np.ndarray, length: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    by_label = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    while True:
        own = by_label[rng.integers(len(by_label))]
        # Lengths of web pages are about log-normal.
        wanted = int(length * rng.lognormal(-0.32, 0.8))
        parts: list[str] = []
        while sum(map(len, parts)) < wanted:
            parts.append(texts[rng.choice(own)])
        yield "\n\n".join(parts)[:wanted]


def timed(clock: Callable[[], float], work: Callable[[], object]) -> float:
    """Measures what some work takes on a clock."""
    began = clock()
    work()
    return clock() - began
