"""What the benchmark works on: a corpus and a proxy model made once, and what each seed draws from them."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Sequence

import numpy as np

from beam_quad import seeding
from beam_quad.gradients import Proxy, ProxySpec, load_proxy
from pipelines.demo import corpus, proxy, smollm2
from pipelines.demo.texts import Document
from tests.benchmarks.counterfactual.sizes import Size


@dataclasses.dataclass(frozen=True)
class Draw:
    """What one seed draws.

    Attributes:
      candidates: The documents that are scored, domain after domain.
      groups: Positions of each group's documents among them, all of one domain, int64 [num_groups, group_size].
      domains: Domain of each group, as a number, int64 [num_groups].
      queries: Texts of each query, by domain.
      factor_ids: Ids of the documents that curvature is fitted on; a smaller sample is their beginning.
      factor_texts: Their texts.
      seed: The seed.
    """

    candidates: tuple[Document, ...]
    groups: np.ndarray
    domains: np.ndarray
    queries: dict[str, list[str]]
    factor_ids: list[str]
    factor_texts: list[str]
    seed: int

    @property
    def texts(self) -> list[str]:
        """Texts of the candidates."""
        return [document.text for document in self.candidates]

    @property
    def sources(self) -> np.ndarray:
        """Domain of each candidate, str [num_candidates]."""
        return np.array([document.source for document in self.candidates])


def prepare(name: str, size: Size, models: pathlib.Path) -> tuple[Proxy, list[Document]]:
    """Makes corpus and model, or takes those in `models`.

    Args:
      name: "scratch" or "smollm2".
      size: How large they are.
      models: The folder that keeps them.

    Returns:
      The proxy, and the half of the corpus that the proxy from scratch has not been trained on.
    """
    made = corpus.Corpus(models / f"corpus-{size.num_documents}", size.num_documents)
    corpus.make_corpus(made)
    documents = corpus.read_documents(made)
    num_threads = None
    if name == "scratch":
        num_threads = 1  # on such small matrices threads that share an operation mostly wait
        folder = models / f"scratch-{size.num_documents}-{size.proxy_tokens}"
        recipe = proxy.Recipe(num_tokens=size.proxy_tokens)
        seen = [d.text for d in documents[::2]]
        make_once(folder, lambda path: proxy.train_proxy(seen, path, recipe, 0, print))
    else:
        folder = models / name
        make_once(folder, smollm2.smollm2_proxy)
    spec = ProxySpec(
        str(folder), num_threads=num_threads, context_length=size.context_length, max_windows=1
    )
    return load_proxy(spec), documents[1::2]


def make_once(folder: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
    """Makes a folder, unless it is there; an interrupted one is made again."""
    if not folder.exists():
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        unfinished.rename(folder)


def draw(size: Size, documents: Sequence[Document], seed: int) -> Draw:
    """Draws queries, candidates in groups of one domain, and the documents that curvature is fitted on.

    No query text is a candidate or in the factor sample; the factor sample is uniform otherwise.
    """
    order = seeding.generator(seed, "counterfactual").permutation(len(documents))
    shuffled = [documents[i] for i in order]
    queries = {
        domain: [d for d in shuffled if d.source == domain][: size.num_query]
        for domain in size.query_domains
    }
    asked = {d.text for query in queries.values() for d in query}
    rest = [d for d in shuffled if d.text not in asked]
    domains = sorted({d.source for d in documents})
    candidates = [d for domain in domains for d in _first(rest, domain, size.num_candidates)]
    factors = [rest[i] for i in seeding.generator(seed, "factors").permutation(len(rest))]
    factors = factors[: size.factor_samples[-1]]
    return Draw(
        candidates=tuple(candidates),
        groups=np.arange(len(candidates)).reshape(-1, size.group_size),
        domains=np.repeat(np.arange(len(domains)), size.groups_per_domain),
        queries={domain: [d.text for d in query] for domain, query in queries.items()},
        factor_ids=[seeding.digest(d.text) for d in factors],
        factor_texts=[d.text for d in factors],
        seed=seed,
    )


def _first(documents: Sequence[Document], domain: str, wanted: int) -> list[Document]:
    found = [d for d in documents if d.source == domain][:wanted]
    if len(found) < wanted:
        raise ValueError(f"the corpus has {len(found)} documents of {domain}, {wanted} are needed")
    return found
