"""What is selected from, what for, what is measured, and the proxy that goes on training."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import transformers

from beam_quad import seeding
from beam_quad.gradients import ProxySpec, content_fingerprint, load_tokenizer
from pipelines.demo import corpus, proxy, smollm2
from pipelines.demo.texts import PROSE, Document
from tests.benchmarks.counterfactual.draws import make_once
from tests.benchmarks.duel import manuals
from tests.benchmarks.duel.domains import DOMAINS, QueryDomain, Split, split
from tests.benchmarks.duel.sizes import SMALL, Size

GENERAL = "general"
# What the general mix and the longer training of the middle proxy are drawn from.
_NUM_ALL = 12_000


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a duel's texts come from: the demo's packages, or the manuals.

    Attributes:
      name: Stands in the names of what is kept.
      documents: Draws a corpus of as many documents.
      domains: Its query domains by name.
      general: The kinds of documents that the general mix has.
    """

    name: str
    documents: Callable[[int], list[Document]]
    domains: Mapping[str, QueryDomain]
    general: tuple[str, ...]

    @classmethod
    def demo(cls, models: pathlib.Path) -> "Source":
        """The corpus of the demo, kept in a folder."""
        documents = functools.partial(_documents, models)
        return cls("", functools.cache(documents), DOMAINS, tuple(PROSE))

    @classmethod
    def manuals(cls, folder: pathlib.Path) -> "Source":
        """The corpus of the packages unpacked in a folder."""
        documents = functools.partial(manuals.documents, folder)
        domains = manuals.query_domains(folder)
        return cls("manuals-", functools.cache(documents), domains, manuals.PROSE)


@dataclasses.dataclass(frozen=True)
class Material:
    """One proxy's duel.

    Attributes:
      size: How large it is.
      documents: The corpus.
      domains: The query domains.
      splits: Query and held-out texts by domain.
      general: Texts of all kinds of prose, none of them in the corpus or a query.
      model: The folder of the proxy.
    """

    size: Size
    documents: tuple[Document, ...]
    domains: Mapping[str, QueryDomain]
    splits: dict[str, Split]
    general: list[str]
    model: pathlib.Path

    @functools.cached_property
    def texts(self) -> list[str]:
        """Texts of the corpus."""
        return [document.text for document in self.documents]

    @functools.cached_property
    def sources(self) -> np.ndarray:
        """Label of each document, str [n]."""
        return np.array([document.source for document in self.documents])

    @property
    def queries(self) -> dict[str, list[str]]:
        """Texts that steer, by domain."""
        return {name: own.query for name, own in self.splits.items()}

    @functools.cached_property
    def tokens(self) -> list[list[int]]:
        """Tokens of each document."""
        return proxy.encode(load_tokenizer(str(self.model), None), self.texts)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64 [n]."""
        return np.array([len(own) for own in self.tokens])

    @property
    def keys(self) -> np.ndarray:
        """Keys of the documents, uint64 [n]."""
        return seeding.keys(self.texts)

    @property
    def spec(self) -> ProxySpec:
        """How the scores run the proxy: a document is its first tokens, as many as one window of the training holds."""
        return ProxySpec(
            str(self.model), context_length=self.size.recipe.window, max_windows=1, num_threads=1
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names the content of proxy and corpus."""
        spec = dataclasses.replace(self.spec, path="")
        return seeding.digest(content_fingerprint(str(self.model)), spec, *self.texts)

    def cut(self, order: Sequence[int] | np.ndarray) -> tuple[int, ...]:
        """Takes documents, best first, until they hold the budget; the last one ends beyond it."""
        order = np.asarray(order, np.int64)
        total = np.cumsum(self.lengths[order])
        return tuple(order[: int(np.searchsorted(total, self.size.budget_tokens)) + 1].tolist())


def prepare(
    name: str,
    size: Size,
    source: Source,
    wanted: Sequence[str],
    models: pathlib.Path,
    say: Callable[[str], None],
) -> Material:
    """Makes corpus, texts and model, or takes those in `models`.

    Args:
      name: "small", "middle" or "smollm2".
      size: How large they are.
      source: Where the texts come from.
      wanted: Query domains.
      models: The folder that keeps them.
      say: Takes progress.
    """
    few, everything = source.documents(size.num_documents), source.documents(_NUM_ALL)
    own = frozenset(d.text for d in few)
    splits = {
        domain: split(source.domains[domain], own, size.num_query, size.num_heldout, 0)
        for domain in source.domains  # of all, so that the general mix is the same for any choice
    }
    asked = {text for split in splits.values() for text in (*split.query, *split.heldout)}
    rest = [d for d in everything if d.text not in asked and d.text not in own]
    general = [
        d.text
        for kind in source.general
        for d in [d for d in rest if d.source == kind][: size.num_general]
    ]
    if name == "smollm2":
        folder = models / name
        make_once(folder, smollm2.smollm2_proxy)
    else:
        folder = _small(size if name == "small" else SMALL, source, models, say)
    if name == "middle":
        left_out = asked.union(general)
        read = [d.text for d in everything if d.text not in left_out]
        small, folder = folder, models / f"{source.name}middle-{size.proxy_tokens}"
        make_once(folder, lambda path: _train_middle(read, small, path, size.proxy_tokens, say))
    most = size.max_characters
    return Material(
        size,
        tuple(dataclasses.replace(d, text=d.text[:most]) for d in few),
        source.domains,
        {
            domain: Split(
                [t[:most] for t in splits[domain].query], [t[:most] for t in splits[domain].heldout]
            )
            for domain in wanted
        },
        [text[:most] for text in general],
        folder,
    )


def _documents(models: pathlib.Path, num_documents: int) -> list[Document]:
    made = corpus.Corpus(models / f"corpus-{num_documents}", num_documents)
    corpus.make_corpus(made)
    return corpus.read_documents(made)


def _small(
    size: Size, source: Source, models: pathlib.Path, say: Callable[[str], None]
) -> pathlib.Path:
    texts = [d.text for d in source.documents(size.num_documents)]
    folder = models / f"{source.name}small-{size.num_documents}-{size.proxy_tokens}"
    recipe = proxy.Recipe(num_tokens=size.proxy_tokens)
    make_once(folder, lambda path: proxy.train_proxy(texts, path, recipe, 0, say))
    return folder


def middle_model(seed: int) -> transformers.LlamaForCausalLM:
    """Makes a Llama of 5.6 M parameters: the demo's, twice as wide, and of six layers."""
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6}
    config = transformers.LlamaConfig(**proxy.new_model(seed).config.to_dict() | sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.integer(seed, "model"))
        return transformers.LlamaForCausalLM(config)


def _train_middle(
    texts: Sequence[str],
    small: pathlib.Path,
    folder: pathlib.Path,
    num_tokens: int,
    say: Callable[[str], None],
) -> None:
    """Trains it with the small proxy's tokenizer, so that both duels count the same tokens."""
    tokenizer = load_tokenizer(str(small), None)
    model = middle_model(0)
    recipe = proxy.Recipe(num_tokens=num_tokens, num_reports=10, learning_rate=1.5e-3)
    documents = proxy.encode(tokenizer, texts)
    say(f"training 5.6 M parameters on {num_tokens:,} of {sum(map(len, documents)):,} tokens")
    proxy.train(model, documents, recipe, 0, say)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
