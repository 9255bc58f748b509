"""Are planted leaks found, and what does looking for them cost? `python -m tests.benchmarks.leaks [--quick]`.

Half of the demo's documents are the items of a benchmark: their first 20 to 80 words. Each is planted, changed in several
ways, in the middle of a document of the other half. `false` counts documents without a planted text that are flagged,
among those that share no run of eight words with an item. The last line is one JSON object.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from beam_quad.gradients import load_tokenizer
from beam_quad.gradients.windows import TokenCounter
from beam_quad.selection.leaks import FEWEST_WORDS, NUM_WORDS, THRESHOLD, LeakIndex, Words
from pipelines.demo import corpus

_CACHE = pathlib.Path.home() / ".cache" / "beam_quad" / "counterfactual"
Change = Callable[[list[str], np.random.Generator], list[str]]


def _exact(words: list[str], rng: np.random.Generator) -> list[str]:
    return words


def _dressed(words: list[str], rng: np.random.Generator) -> list[str]:
    """Other case, punctuation and white space."""
    return [f"{word.upper()},\n" if rng.random() < 0.5 else f"“{word}” " for word in words]


def _changed(share: float) -> Change:
    def change(words: list[str], rng: np.random.Generator) -> list[str]:
        return [f"{word}x" if rng.random() < share else word for word in words]

    return change


def _cut(words: list[str], rng: np.random.Generator) -> list[str]:
    """Three quarters, from any word on."""
    length = max(FEWEST_WORDS, -(-3 * len(words) // 4))
    start = int(rng.integers(len(words) - length + 1))
    return words[start : start + length]


def _shuffled(words: list[str], rng: np.random.Generator) -> list[str]:
    """Sentences of about eight words, in another order."""
    parts = [words[i : i + 8] for i in range(0, len(words), 8)]
    return [word for at in rng.permutation(len(parts)) for word in parts[at]]


CHANGES: dict[str, Change] = {
    "exact": _exact,
    "case, punctuation, space": _dressed,
    "three quarters": _cut,
    "2 % of the words": _changed(0.02),
    "5 % of the words": _changed(0.05),
    "10 % of the words": _changed(0.1),
    "sentences in another order": _shuffled,
}


def measure(texts: Sequence[str], tokenizer: object, seed: int) -> dict[str, object]:
    """Plants and looks; returns the shares that are found, false flags, and CPU time over that of tokenising."""
    rng = np.random.default_rng(seed)
    half = len(texts) // 2
    items = []
    for text in texts[:half]:
        words = text.split()[: int(rng.integers(20, 81))]
        if len(Words(" ".join(words)).words) > 20:
            items.append(words)
    index = LeakIndex.of([" ".join(item) for item in items], NUM_WORDS, THRESHOLD)
    findable = [item for item, num in zip(items, index.num_words, strict=True) if num]
    phrases = {own for item in items for own in _phrases(" ".join(item))}
    hosts = [text for text in texts[half:] if not phrases & _phrases(text)]
    found: dict[str, float] = {}
    for name, change in CHANGES.items():
        planted = []
        for at, item in enumerate(findable):
            host = hosts[at % len(hosts)].split()
            middle = len(host) // 2
            planted.append(" ".join([*host[:middle], *change(item, rng), *host[middle:]]))
        found[name] = float(np.mean([leak is not None for leak in index.find(planted)]))
    start = time.process_time()
    false = sum(leak is not None for leak in index.find(hosts))
    looking = time.process_time() - start
    counter = TokenCounter(tokenizer)
    start = time.process_time()
    counter.count(hosts)
    return {
        "items": len(findable),
        "documents": len(hosts),
        "found": found,
        "false": false,
        "seconds_over_tokenising": looking / (time.process_time() - start),
    }


def _phrases(text: str) -> set[tuple[bytes, ...]]:
    words = Words(text).words[:-1]
    return {tuple(words[i : i + FEWEST_WORDS]) for i in range(len(words) - FEWEST_WORDS + 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.leaks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="600 documents")
    parser.add_argument(
        "--tokenizer", help="folder or hub id of the proxy's tokenizer", required=True
    )
    parser.add_argument("--models", type=pathlib.Path, default=_CACHE, help="keeps the corpus")
    options = parser.parse_args()
    num_documents = 600 if options.quick else 4500
    folder = options.models.expanduser() / f"corpus-{num_documents}"
    made = corpus.Corpus(folder, num_documents)
    corpus.make_corpus(made)
    texts = [document.text for document in corpus.read_documents(made)]
    tokenizer = load_tokenizer(options.tokenizer, None)
    figures = measure(texts, tokenizer, 0)
    print(f"{figures['items']:,} items, {figures['documents']:,} documents without any of them")
    for name, share in figures["found"].items():
        print(f"  {name:<28} {share:7.2%} found")
    print(f"  {figures['false']} false; {figures['seconds_over_tokenising']:.3f} of tokenising")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
