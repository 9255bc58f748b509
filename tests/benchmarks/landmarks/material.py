"""What is measured on: a pool of labelled documents, held-out documents of some of its domains, and a proxy model."""

import dataclasses
import pathlib

import numpy as np

from beam_quad import seeding
from beam_quad.gradients import Block, Proxy, find_blocks
from pipelines.demo.texts import Document
from tests.benchmarks.counterfactual import draws
from tests.benchmarks.counterfactual.sizes import SIZES as SOURCES
from tests.benchmarks.landmarks.sizes import Size


@dataclasses.dataclass(frozen=True)
class Material:
    """The pool, the targets and the model.

    Attributes:
      proxy: The model; it has been trained on none of the documents, where it was trained here.
      blocks: Its tracked layers, those of the attention.
      pool: The documents that are selected from, as they are in the corpus.
      texts: Their texts, cut.
      queries: Texts of each target by domain, cut; none of them is in the pool.
    """

    proxy: Proxy
    blocks: tuple[Block, ...]
    pool: tuple[Document, ...]
    texts: list[str]
    queries: dict[str, list[str]]

    @property
    def domains(self) -> np.ndarray:
        """Domain of each document of the pool, str [num_documents]."""
        return np.array([document.source for document in self.pool])

    @property
    def keys(self) -> np.ndarray:
        """Keys of the documents, which landmarks are drawn by, uint64 [num_documents]."""
        return seeding.keys(document.text for document in self.pool)


def prepare(size: Size, models: pathlib.Path) -> Material:
    """Makes corpus and model, or takes those in `models`; draws targets and pool.

    Args:
      size: How large they are.
      models: The folder that keeps them.

    Returns:
      What is measured on, the same in every run. Domains have their share of the corpus.
    """
    name = size.source.partition(",")[0]
    proxy, documents = draws.prepare(name, SOURCES[size.source], models)
    # A token is a character at least, or nearly always: one window holds a document.
    length = min(size.max_characters, proxy.model.config.max_position_embeddings)
    proxy = dataclasses.replace(proxy, context_length=length)
    distinct = list({document.text: document for document in documents}.values())
    hashes = seeding.mix(0, "landmarks benchmark", seeding.keys(d.text for d in distinct))
    shuffled = [distinct[i] for i in np.argsort(hashes)]
    queries = {
        domain: [d for d in shuffled if d.source == domain][: size.num_query]
        for domain in size.targets
    }
    asked = {d.text for own in queries.values() for d in own}
    pool = tuple(d for d in shuffled if d.text not in asked)[: size.num_documents]
    if lacking := set(size.targets) - {d.source for d in pool}:
        raise SystemExit(f"the pool has no document of {sorted(lacking)}: take a larger one")
    return Material(
        proxy=proxy,
        blocks=find_blocks(proxy.model, "attention"),
        pool=pool,
        texts=[d.text[: size.max_characters] for d in pool],
        queries={
            domain: [d.text[: size.max_characters] for d in own] for domain, own in queries.items()
        },
    )
