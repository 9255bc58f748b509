"""Of planted near-duplicates, how many are left out; how many others are; what is lost of influence, and what it costs.

    python -m tests.benchmarks.twins [--documents 4500] [--families 300] [--threshold 0.6]

The demo's documents, with families planted among them: 2 to 50 copies of a document, each in another case, with other white
space, with a header and a footer, without its ends, or with 2 to 10 % of its words replaced by words of other documents. The
true families are the planted ones and, of documents that were there before, those whose exact Jaccard similarity reaches the threshold.

First all documents are compared. Then `beam-quad select --policy=ngram` runs with the copies kept and left out: the influence of a
selection, by n-grams, is the sum over the best document of each true family in it, and is compared with that of a selection from one
document of each family. Bytes are those of the shuffles as packed, seconds those of one core.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import pathlib
import tempfile
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.gradients import load_tokenizer, tokenize
from beam_quad.selection.near_duplicates import (
    SHINGLE_WORDS,
    THRESHOLD,
    components,
    find_twins,
    sign,
)
from beam_quad.stages import run_in_process
from beam_quad.stages.base import GroupedStage, RegroupedStage
from beam_quad.stages.influence.score import ScoreExamples
from pipelines import chain, options
from pipelines.demo import corpus as demo
from pipelines.demo import proxy
from pipelines.inputs import look

KINDS = ("case", "white space", "boilerplate", "cut ends", "words")
SIZES = (2, 3, 5, 10, 20, 50)
NUM_SHARDS = 8
BUDGET_SHARE = 0.05
_BATCH = 1024
_MOST_HOLDERS = 200
_OWN_STAGES = (
    "SignTexts", "CutCompared0", "CutCompared1", "LinkCandidates", "FindNearDuplicates", "LinkAllCandidates",
    "FindAllNearDuplicates",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Planted:
    """Documents, some of them copies.

    Attributes:
      texts: The documents.
      families: The true family of each, int64 [n].
      kinds: How each copy was made; an empty string for what was there before.
    """

    texts: list[str]
    families: np.ndarray
    kinds: list[str]


def plant(texts: Sequence[str], num_families: int, threshold: float) -> Planted:
    """Plants families among documents, and shuffles them."""
    rng = np.random.default_rng(0)
    words = [word for text in texts for word in text.split()]
    header, footer = (
        " ".join(words[i] for i in rng.integers(len(words), size=number)) for number in (12, 8)
    )
    made, origins, kinds = list(texts), list(range(len(texts))), [""] * len(texts)
    for origin in rng.choice(len(texts), num_families, replace=False).tolist():
        for _ in range(int(rng.choice(SIZES)) - 1):
            kind = str(rng.choice(KINDS))
            made.append(_copy(texts[origin], kind, words, header, footer, rng))
            origins.append(origin)
            kinds.append(kind)
    natural = _natural_families(texts, threshold)
    order = rng.permutation(len(made))
    return Planted(
        [made[i] for i in order],
        np.array([natural[origins[i]] for i in order]),
        [kinds[i] for i in order],
    )


def _copy(
    text: str, kind: str, words: Sequence[str], header: str, footer: str, rng: np.random.Generator
) -> str:
    if kind == "case":
        return text.upper() if rng.random() < 0.5 else text.title()
    if kind == "white space":
        return ("\n" if rng.random() < 0.5 else "  ").join(text.split()) + "\n"
    if kind == "boilerplate":
        return f"{header}\n{text}\n{footer}"
    own = text.split()
    if kind == "cut ends":
        first, last = rng.integers(0, len(own) // 10 + 1, 2)
        return " ".join(own[first : len(own) - last])
    number = round(rng.uniform(0.02, 0.1) * len(own))
    for i in rng.choice(len(own), number, replace=False):
        own[i] = words[rng.integers(len(words))]
    return " ".join(own)


def _natural_families(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Families by exact similarities of all pairs that share one of a sixteenth of the shingles, few of them common, int64 [n]."""
    sets = [_shingles(text) for text in texts]
    holders = collections.defaultdict(list)
    for i, own in enumerate(sets):
        for shingle in own:
            if zlib.crc32(" ".join(shingle).encode()) % 16 == 0:
                holders[shingle].append(i)
    pairs = {
        pair
        for own in holders.values()
        if len(own) <= _MOST_HOLDERS
        for pair in itertools.combinations(own, 2)
    }
    left, right = [], []
    for i, j in sorted(pairs):
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold:
            left.append(i)
            right.append(j)
    families = np.arange(len(texts))
    if left:
        rows, labels = components(np.array(left), np.array(right))
        families[rows] = rows[np.unique(labels, return_index=True)[1]][labels]
    return families


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text.casefold()).split()
    return set(zip(*(words[i:] for i in range(SHINGLE_WORDS)), strict=False))


def compare_all(planted: Planted, threshold: float) -> dict[str, Any]:
    """Compares all documents, each of which is worth more than all after it."""
    start = time.process_time()
    runs = range(0, len(planted.texts), _BATCH)
    signatures = np.concatenate([sign(planted.texts[i : i + _BATCH]) for i in runs])
    signed = time.process_time()
    number = len(planted.texts)
    priorities = np.arange(number, 0, -1).astype(np.uint64)
    twins = find_twins(signatures, priorities, np.zeros(number, bool), threshold)
    found = time.process_time()
    is_left = twins == np.arange(number)
    is_false = planted.families[twins] != planted.families
    is_copy = np.array([bool(kind) for kind in planted.kinds])
    stays = collections.Counter(planted.families[is_left].tolist())
    of_copies = set(planted.families[is_copy].tolist())
    sizes = collections.Counter(planted.families.tolist())
    surplus = {
        kind: [
            stays[planted.families[i]] > 1 and bool(is_left[i])
            for i in range(number)
            if planted.kinds[i] == kind
        ]
        for kind in KINDS
    }
    return {
        "documents": number,
        "copies": int(is_copy.sum()),
        "families": len(of_copies),
        "reduced_to_one": float(np.mean([stays[f] == 1 for f in of_copies])),
        "left_out": 1 - sum(stays[f] - 1 for f in of_copies) / sum(sizes[f] - 1 for f in of_copies),
        "stay_beside_another": {kind: float(np.mean(own)) for kind, own in surplus.items()},
        "natural_families": sum(n > 1 for f, n in sizes.items() if f not in of_copies),
        "false_drops": int(is_false.sum()),
        "false_drops_per_thousand": 1000 * float(is_false.mean()),
        "signing_us_per_document": 1e6 * (signed - start) / number,
        "signing_mb_per_s": sum(map(len, planted.texts)) / 1e6 / (signed - start),
        "comparing_us_per_document": 1e6 * (found - signed) / number,
    }


@dataclasses.dataclass(frozen=True)
class Selected:
    """A selection.

    Attributes:
      is_selected: Which documents are selected, bool [n].
      influence: Influence of each by n-grams, float64 [n].
      tokens: int64 [n].
      costs: CPU seconds and shuffled bytes of each stage, by its name.
      manifest: The manifest.
    """

    is_selected: np.ndarray
    influence: np.ndarray
    tokens: np.ndarray
    costs: dict[str, tuple[float, int]]
    manifest: dict[str, Any]


def select(
    planted: Planted, query: pathlib.Path, model: pathlib.Path, folder: pathlib.Path, *flags: str
) -> "Selected":
    """Selects by n-grams."""
    shards = folder / "corpus"
    shards.mkdir(parents=True)
    numbers = np.array_split(np.arange(len(planted.texts)), NUM_SHARDS)
    for shard, own in enumerate(numbers):
        table = pa.table({"text": [planted.texts[i] for i in own], "number": own})
        pq.write_table(table, shards / f"{shard}.parquet")
    output = folder / "out"
    parsed, _ = options.parse(
        [
            f"--input={shards}", f"--query={query}", f"--output={output}", f"--proxy_model={model}",
            "--policy=ngram", *flags,
        ]
    )  # fmt: skip
    built = chain.build(parsed, look(parsed))
    built.write_plans()
    costs = {}
    for stage in built.stages:
        start = time.process_time()
        run_in_process([stage])
        costs[stage.name] = (time.process_time() - start, _shuffled(stage))
    scores = next(stage for stage in built.stages if isinstance(stage, ScoreExamples))
    corpus = scores.corpus
    splits = corpus.splits()
    tables = [pq.read_table(path) for path in sorted((output / "selected").glob("*.parquet"))]
    is_selected = np.zeros(len(planted.texts), bool)
    is_selected[[n for table in tables for n in table.column("number").to_pylist()]] = True
    return Selected(
        is_selected,
        np.concatenate([scores.read(split) for split in splits]),
        np.concatenate([corpus.rows(split).tokens for split in splits]),
        costs,
        json.loads((output / "manifest.json").read_text()),
    )


def _shuffled(stage: Any) -> int:
    """The bytes that a stage, once more, sends between workers; its files are there already."""
    if not isinstance(stage, GroupedStage) or stage.name not in _OWN_STAGES:
        return 0
    pieces: Iterable[Any] = stage.pieces()
    drawn = [part for piece in pieces for part in stage.draw(piece)]
    size = sum(len(part) for _, part in drawn)
    if isinstance(stage, RegroupedStage):
        groups = collections.defaultdict(list)
        for group, part in drawn:
            groups[group].append(part)
        again = (part for g, own in groups.items() for part in stage.regroup(g, own))
        size += sum(len(part) for _, part in again)
    return size


def worth(selected: np.ndarray, influence: np.ndarray, families: np.ndarray) -> float:
    """Sums the influence of the best document of each family among those selected, bool [n]."""
    best = np.full(families.max() + 1, -np.inf)
    np.maximum.at(best, families[selected], influence[selected])
    return float(best[np.isfinite(best)].sum())


def ideal(found: Selected, families: np.ndarray, budget: int) -> np.ndarray:
    """Selects the best document of each true family until the budget is met, bool [n]."""
    order = np.argsort(-found.influence, kind="stable")
    first = order[np.sort(np.unique(families[order], return_index=True)[1])]
    number = int(np.searchsorted(np.cumsum(found.tokens[first]), budget)) + 1
    result = np.zeros(len(order), bool)
    result[first[:number]] = True
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=4500)
    parser.add_argument("--families", type=int, default=300)
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        made = demo.Corpus(folder / "demo", arguments.documents)
        demo.make_corpus(made)
        texts = [document.text for document in demo.read_documents(made)]
        planted = plant(texts, arguments.families, arguments.threshold)
        report = compare_all(planted, arguments.threshold)
        model = folder / "proxy"
        proxy.train_tokenizer(texts[:2000]).save_pretrained(model)
        # N-grams need its vocabulary alone.
        proxy.new_model(0).save_pretrained(model)
        runs = {}
        for kind in ("keep", "drop"):
            budget = round(BUDGET_SHARE * _tokens(planted, model))
            runs[kind] = select(
                planted, made.query_file, model, folder / kind, f"--budget_tokens={budget}",
                f"--near_duplicates={kind}", f"--near_duplicate_threshold={arguments.threshold}",
            )  # fmt: skip
    report |= _about(planted, runs["keep"], runs["drop"], budget)
    for key, value in report.items():
        print(f"{key:32} {value}")
    print(json.dumps(report))


def _tokens(planted: Planted, model: pathlib.Path) -> int:
    tokenizer = load_tokenizer(str(model))
    return sum(len(own) for own in tokenize(tokenizer, planted.texts))


def _about(planted: Planted, kept: Selected, dropped: Selected, budget: int) -> dict[str, Any]:
    families, number = planted.families, len(planted.texts)
    best = worth(ideal(dropped, families, budget), dropped.influence, families)
    costs = {name: own for name, own in dropped.costs.items() if name in _OWN_STAGES}
    seconds = sum(own for own, _ in costs.values())
    # Texts are signed while they are read.
    reading = [own.costs["EmbedExamples"][0] for own in (dropped, kept)]
    size = sum(own for _, own in costs.values())
    per_million = 1e6 / number
    return {
        "budget_tokens": budget,
        "selected_tokens": dropped.manifest["tokens"]["selected"],
        "selected_if_kept": int(kept.is_selected.sum()),
        "families_if_kept": len(set(families[kept.is_selected].tolist())),
        "selected": int(dropped.is_selected.sum()),
        "families_selected": len(set(families[dropped.is_selected].tolist())),
        "near_duplicates": dropped.manifest["near_duplicates"]["documents"],
        "influence_lost": 1 - worth(dropped.is_selected, dropped.influence, families) / best,
        "influence_lost_if_kept": 1 - worth(kept.is_selected, kept.influence, families) / best,
        "shuffled_mb_per_million": size / 1e6 * per_million,
        "stages_s_per_million": seconds * per_million,
        "signing_s_per_million": (reading[0] - reading[1]) * per_million,
        "shuffled_bytes": {name: own for name, (_, own) in costs.items()},
    }


if __name__ == "__main__":
    main()
