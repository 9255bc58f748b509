"""Are planted leaks found, and what does looking for them cost? `python -m tests.benchmarks.leaks --tokenizer T [--quick]`.

Half of the demo's documents are the items of a benchmark: their first 20 to 80 words. Each is planted, changed in several
ways, in the middle of a document of the other half. `false` counts documents without a planted text that are flagged,
among those that share no run of eight words with an item.

With `--embedder`, a quarter of the items is rewritten, too: in another order of words, with synonyms, or with both. A rewrite
is a document of its own; those are flagged, not rejected. `false` counts documents of the other half that are flagged and that no
n-gram rejects. Then all texts of the demo's packages that a person wrote are compared with 500 of them, three times: only those that
have most words of an item can be flagged, so that few are embedded. The last line is one JSON object.
"""

import argparse
import collections
import json
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from beam_quad.embedding import Embedder, EmbedderSpec, load_embedder
from beam_quad.gradients import load_tokenizer
from beam_quad.gradients.windows import TokenCounter
from beam_quad.selection.leaks import FEWEST_WORDS, NUM_WORDS, THRESHOLD, LeakIndex, Words
from beam_quad.selection.paraphrases import (
    LEAST_SHARE,
    Cosines,
    nearest_items,
    word_share,
    words_of,
)
from pipelines.demo import corpus
from pipelines.demo import texts as demo_texts

# Documents of which one half is rewritten: three minutes of a CPU with MiniLM.
_REWRITTEN = 2400
# Items that all written texts are compared with, and texts whose cosines set the threshold.
_ITEMS, _SAMPLED = 500, 2000
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


# Synonyms, by rule: of a pair, either word stands for the other.
_SYNONYMS = """
big large|small little|begin start|began started|buy purchase|bought purchased|help aid|show demonstrate|shows demonstrates
showed demonstrated|use employ|used employed|uses employs|make create|made created|makes creates|get obtain|got obtained|need require
needs requires|needed required|also additionally|however nevertheless|but yet|because since|about concerning|many numerous|few several
important significant|main principal|people persons|child kid|children kids|man fellow|woman lady|house home|city town|country nation
work labour|worked laboured|company firm|companies firms|car automobile|road street|job occupation|money funds|price cost|year twelvemonth
day date|time period|way manner|part portion|place location|area region|group team|number amount|end finish|ended finished|first initial
last final|new recent|old ancient|good fine|bad poor|great grand|high tall|low short|long lengthy|fast quick|slow sluggish|hard difficult
easy simple|true correct|false wrong|same identical|other different|said stated|say state|says states|told informed|ask inquire
asked inquired|answer reply|think believe|thought believed|know understand|known understood|see observe|saw observed|seen observed
look glance|find discover|found discovered|give provide|gave provided|given provided|take seize|took seized|went travelled|go travel
come arrive|came arrived|leave depart|left departed|live reside|lived resided|die perish|died perished|kill slay|killed slain
war conflict|law statute|court tribunal|case lawsuit|rule regulation|right entitlement|agreement contract|section clause|person individual
patient sufferer|patients sufferers|disease illness|diseases illnesses|doctor physician|study investigation|studies investigations
result outcome|results outcomes|method approach|methods approaches|effect influence|effects influences|cause reason|increase rise
increased risen|decrease fall|decreased fallen|between amid|under beneath|over above|near close|within inside|without lacking
before prior|after following|during throughout|until till|among amongst|while whilst|upon on|may might|shall will|must should
all every|any some|each every|only solely|very extremely|often frequently|usually generally|sometimes occasionally|always ever
was became|is remains|the this|a one|an one|of from|in at|to toward|and plus|or alternatively|that which|with alongside|for toward
"""
SYNONYMS = {
    own: other
    for pair in reversed(_SYNONYMS.replace("\n", "|").strip("|").split("|"))
    for own, other in (pair.split(), reversed(pair.split()))
}


def _reordered(words: list[str], rng: np.random.Generator) -> list[str]:
    """Words in another order, within runs of four."""
    runs = [words[i : i + 4] for i in range(0, len(words), 4)]
    return [run[at] for run in runs for at in rng.permutation(len(run))]


def _synonyms(words: list[str], rng: np.random.Generator) -> list[str]:
    """A synonym for half of the words that have one."""
    return [SYNONYMS.get(word.lower(), word) if rng.random() < 0.5 else word for word in words]


REWRITES: dict[str, Change] = {
    "words in another order": _reordered,
    "synonyms": _synonyms,
    "both": lambda words, rng: _reordered(_synonyms(words, rng), rng),
}


def measure_rewrites(texts: Sequence[str], embedder: Embedder, seed: int) -> dict[str, object]:
    """Rewrites and looks; returns the shares that are flagged, rejected or neither, and false flags."""
    rng = np.random.default_rng(seed)
    half = len(texts) // 2
    items = [
        words
        for text in texts[:half]
        if len(words := text.split()[: int(rng.integers(20, 81))]) >= 20
    ]
    joined, hosts = [" ".join(words) for words in items], list(texts[half:])
    index = LeakIndex.of(joined, NUM_WORDS, THRESHOLD)
    vectors = embedder.embed(joined)
    is_leak = np.array([leak is not None for leak in index.find(hosts)])
    documents = [text for text, own in zip(hosts, is_leak, strict=True) if not own]
    nearest, cosines = nearest_items(embedder.embed(documents), vectors)
    threshold = Cosines.of(cosines).threshold()

    def are_flagged(own: Sequence[str], nearest: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        is_close = cosines >= threshold
        shares = [word_share(text, joined[at]) for text, at in zip(own, nearest, strict=True)]
        return is_close & (np.array(shares) >= LEAST_SHARE)

    is_false = are_flagged(documents, nearest, cosines)
    found, kept = {}, {}
    for name, change in REWRITES.items():
        rewrites = [" ".join(change(words, rng)) for words in items[::4]]
        is_rejected = np.array([leak is not None for leak in index.find(rewrites)])
        is_flagged = are_flagged(rewrites, *nearest_items(embedder.embed(rewrites), vectors))
        found[name] = float((is_rejected | is_flagged).mean())
        kept[name] = float(is_flagged[~is_rejected].mean()) if not is_rejected.all() else 1.0
    return {
        "compared_documents": len(documents),
        "least_cosine": threshold,
        "found_rewrites": found,
        "flagged_of_not_rejected": kept,
        "false_flags": int(is_false.sum()),
        "falsely_flagged": [documents[at][:120] for at in np.flatnonzero(is_false)],
    }


def measure_false_flags(embedder: Embedder, seed: int) -> dict[str, object]:
    """Compares all written texts with items that none of them holds; returns how many are flagged."""
    rng = np.random.default_rng(seed)
    written = sorted(
        {
            piece
            for reader in demo_texts.PROSE.values()
            for text, _ in reader()
            for piece in demo_texts.pieces(text)
        }
    )
    mixed = [written[at] for at in rng.permutation(len(written))]
    items = [" ".join(text.split()[: int(rng.integers(20, 81))]) for text in mixed[:_ITEMS]]
    index = LeakIndex.of(items, NUM_WORDS, THRESHOLD)
    others = mixed[_ITEMS:]
    documents = [t for t, leak in zip(others, index.find(others), strict=True) if leak is None]
    vectors = embedder.embed(items)
    _, cosines = nearest_items(embedder.embed(documents[:_SAMPLED]), vectors)
    threshold = Cosines.of(cosines).threshold()
    # Only a document with most words of some item can be flagged.
    holders = collections.defaultdict(list)
    sizes = np.array([max(1, len(words_of(item))) for item in items])
    for at, item in enumerate(items):
        for word in words_of(item):
            holders[word].append(at)
    near = []
    for text in documents:
        held = [holders[word] for word in words_of(text) if word in holders]
        counts = np.bincount(np.concatenate(held).astype(int), minlength=_ITEMS) if held else 0
        if np.max(counts / sizes) >= LEAST_SHARE:
            near.append(text)
    nearest, cosines = nearest_items(embedder.embed(near), vectors)
    false = [
        (float(cosine), items[at][:120], text[:120])
        for text, at, cosine in zip(near, nearest.tolist(), cosines, strict=True)
        if cosine >= threshold and word_share(text, items[at]) >= LEAST_SHARE
    ]
    return {
        "texts": len(documents),
        "with_most_words": len(near),
        "least_cosine": threshold,
        "falsely_flagged": false,
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
    parser.add_argument(
        "--embedder", help="folder or hub id of a sentence encoder; looks for rewrites, too"
    )
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
    if options.embedder is not None:
        spec = EmbedderSpec(options.embedder, num_threads=1, max_tokens=128)
        mixed = [texts[at] for at in np.random.default_rng(0).permutation(len(texts))]
        rewrites = measure_rewrites(mixed[:_REWRITTEN], load_embedder(spec), 0)
        figures |= rewrites
        for name, share in rewrites["found_rewrites"].items():
            flagged = rewrites["flagged_of_not_rejected"][name]
            print(
                f"  {name:<28} {share:7.2%} found; {flagged:7.2%} of those not rejected are flagged"
            )
        print(f"  {rewrites['false_flags']} of {rewrites['compared_documents']:,} false flags")
        written = [measure_false_flags(load_embedder(spec), seed) for seed in range(3)]
        figures["written"] = written
        flagged = sum(len(own["falsely_flagged"]) for own in written)
        print(
            f"  {flagged} of {sum(own['texts'] for own in written):,} written texts falsely flagged"
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
