"""The models and the texts: the demo's own, made once and kept; documents of one exact length."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from beam_quad.gradients import Proxy
from beam_quad.gradients.windows import Documents, Window
from pipelines.demo import command
from pipelines.demo.corpus import read_jsonl
from pipelines.demo.texts import Document

# Long texts are cut to one window: a little more than the window is enough.
_MARGIN = 1.05
SHORT = 64


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much of everything one model gets.

    Attributes:
      name: Of the model, in the table.
      folder: Its folder, under that of the demo's files.
      round_tokens: Tokens that every method works through in a round.
      micro_batches: Tokens of a micro-batch to try; each method takes its own best.
      num_documents: Documents over which scores are compared, by length.
      num_peer_documents: The same for the slow peers; None for all of them.
      num_sample: Documents that the curvature is fitted on.
      num_ranking: Whole documents that `ranking.upper_half` fits on, that it ranks, and that make one query.
      num_query: Documents of the query; its groups take turns, and there must be one for each of them.
      prepared_length: Tokens of the last three's documents.
    """

    name: str
    folder: str
    round_tokens: int
    micro_batches: tuple[int, ...]
    num_documents: dict[int, int]
    num_peer_documents: int | None
    num_sample: int
    num_ranking: tuple[int, int, int]
    num_query: int = 32
    prepared_length: int = 256


@dataclasses.dataclass(frozen=True)
class Texts:
    """Real texts of varied sources, and the models' folder.

    Attributes:
      folder: Holds a folder per model.
      documents: The corpus.
      query: The query set.
    """

    folder: pathlib.Path
    documents: list[Document]
    query: list[Document]


def prepare(
    folder: pathlib.Path, with_smollm2: bool, quick: bool, say: Callable[[str], None]
) -> Texts:
    """Makes what is not yet there: the demo's corpus, its trained proxy, and SmolLM2 if asked for."""
    demo = command.Demo(
        output=folder / ("quick" if quick else "full"),
        size=command.QUICK if quick else command.FULL,
        budget_tokens=0,
        query="medicine",
        proxy="smollm2" if with_smollm2 else "scratch",
        seed=0,
        say=say,  # type: ignore[arg-type]
    )
    documents = demo.prepare()
    query = [Document(text, "query", "") for text in read_jsonl(demo.corpus.query_file)]
    return Texts(demo.output, documents, query)


def long_texts(tokenizer: Any, documents: Sequence[Document], length: int, count: int) -> list[str]:
    """Joins texts of one source until they hold more than `length` tokens, sources taking turns.

    Raises:
      SystemExit: If the texts are too few.
    """
    by_source: dict[str, list[str]] = {}
    for document in documents:
        by_source.setdefault(document.source, []).append(document.text)
    piles = [_piles(tokenizer, texts, length) for texts in by_source.values()]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*piles))
    found = list(itertools.islice((text for text in turns if text is not None), count))
    if len(found) < count:
        raise SystemExit(
            f"only {len(found)} of {count} texts of {length} tokens: take a larger corpus"
        )
    return found


def _piles(tokenizer: Any, texts: Sequence[str], length: int) -> Iterator[str]:
    pile: list[str] = []
    for text in texts:
        pile.append(text)
        joined = "\n\n".join(pile)
        # A token is a character at least, so that short piles need no counting.
        if len(joined) > length and len(tokenizer(joined)["input_ids"]) > _MARGIN * length:
            yield joined
            pile = []


def read_exactly(proxy: Proxy, texts: Sequence[str]) -> Documents:
    """Cuts every text to one window of the context's length."""
    documents = proxy.read(texts)
    lengths = {len(window.tokens) for window in documents.windows}
    if lengths != {proxy.context_length} or len(documents.windows) != len(texts):
        raise ValueError(f"the texts must fill a window of {proxy.context_length}, got {lengths}")
    return documents


def first(documents: Documents, count: int) -> Documents:
    """Takes the first documents of one window each."""
    return Documents(documents.windows[:count], documents.loss_tokens[:count])


def repeated(documents: Documents) -> Documents:
    """Appends the same documents once more."""
    count = len(documents.loss_tokens)
    again = [dataclasses.replace(w, document=w.document + count) for w in documents.windows]
    return Documents([*documents.windows, *again], np.tile(documents.loss_tokens, 2))


def shortened(documents: Documents) -> Documents:
    """Cuts each window to a few tokens: enough to warm a method up."""
    windows = [Window(w.document, w.index, w.tokens[:SHORT]) for w in documents.windows]
    return Documents(windows, documents.loss_tokens.clip(max=SHORT - 1))
