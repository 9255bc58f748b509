"""A small world: texts of five planted kinds, a tiny random proxy, and how the pipeline is run on them."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers

from beam_quad.corpus.batches import Columns
from beam_quad.corpus.rows import read_rows, read_values
from beam_quad.corpus.splits import plan_input
from beam_quad.stages import run_in_process
from pipelines import (
    chain,
    distillation_chain,
    distillation_options,
    influence_distillation,
    quad,
    refresh,
)
from pipelines import options as quad_options
from pipelines.inputs import look

KINDS = ("biology", "law", "news", "code", "noise")
_WORDS_PER_KIND = 40
# Of these, runs keep near-duplicates unless a test asks for less: texts of few words are often alike, and the stages
# that find such texts take their time.
TAKES_BLOCKS = ("block", "instance", "cluster")


@dataclasses.dataclass(frozen=True)
class World:
    """Where the corpus, the query and the proxy lie."""

    root: pathlib.Path

    @property
    def corpus(self) -> str:
        return str(self.root / "corpus")

    @property
    def query(self) -> str:
        return str(self.root / "query")

    @property
    def proxy(self) -> str:
        return str(self.root / "proxy")

    def arguments(self, output: pathlib.Path, **flags: Any) -> list[str]:
        """Builds a command line; a flag of None is left out, a list is repeated, True has no value."""
        defaults = {
            "input": self.corpus,
            "query": self.query,
            "output": output,
            "proxy_model": self.proxy,
            "budget_tokens": 3000,
            "embedder": "hashing",
            "num_clusters": 12,
            "num_rounds": 4,
            "blocks_per_cluster": 4,
            "curvature_examples": 48,
            "threads": 1,
            "max_cluster_share": 0.5,
            "acceptance": "block",
        }
        given = defaults | flags
        if given["acceptance"] in TAKES_BLOCKS and "policy" not in flags:
            given = {"near_duplicates": "keep"} | given
        built = []
        for name, value in given.items():
            if value is True:
                built.append(f"--{name}")
            elif value is not None:
                values = value if isinstance(value, list) else [value]
                built += [f"--{name}={item}" for item in values]
        return built

    def distillation_arguments(self, output: pathlib.Path, **flags: Any) -> list[str]:
        """Builds a command line of Influence Distillation."""
        quads_own = dict.fromkeys(
            ("num_clusters", "num_rounds", "blocks_per_cluster", "max_cluster_share", "acceptance")
        )
        return self.arguments(output, **(quads_own | {"num_landmarks": 200} | flags))

    def distill(self, output: pathlib.Path, **flags: Any) -> dict[str, Any]:
        """Runs the stages of Influence Distillation in a plain loop and returns the manifest."""
        options, _ = distillation_options.parse(self.distillation_arguments(output, **flags))
        options = refresh.resolved(options)
        return _run(distillation_chain.build(options, look(options)), output)

    def launch_distillation(self, output: pathlib.Path, *beam: str, **flags: Any) -> dict[str, Any]:
        """Runs Influence Distillation as its command does, on Beam, and returns the manifest."""
        arguments = [*self.distillation_arguments(output, **flags), *beam]
        assert influence_distillation.main(arguments) == 0
        return manifest_of(output)

    def query_of(self, kind: str) -> str:
        """Writes, once, a query set of one kind; returns its folder."""
        folder = self.root / "queries" / kind
        if not folder.exists():
            rng = np.random.default_rng(KINDS.index(kind) + 100)
            folder.mkdir(parents=True)
            lines = [json.dumps({"text": text_of(rng, kind)}) for _ in range(24)]
            (folder / "query.jsonl").write_text("\n".join(lines))
        return str(folder)

    def run(self, output: pathlib.Path, **flags: Any) -> dict[str, Any]:
        """Runs the stages of Quad, or of a baseline, in a plain loop and returns the manifest."""
        options, _ = quad_options.parse(self.arguments(output, **flags))
        options = refresh.resolved(options)
        return _run(chain.build(options, look(options)), output)

    def launch(self, output: pathlib.Path, *beam: str, **flags: Any) -> dict[str, Any]:
        """Runs the pipeline as its command does, on Beam, and returns the manifest."""
        assert quad.main([*self.arguments(output, **flags), *beam]) == 0
        return manifest_of(output)


def _run(built: chain.Chain, output: pathlib.Path) -> dict[str, Any]:
    built.write_plans()
    run_in_process(built.stages)
    return manifest_of(output)


def read_texts(folder: str, is_query: bool = False) -> tuple[list[str], list[str]]:
    """Reads the usable texts of a folder and their ids, as a pipeline does."""
    plan = plan_input([folder], is_query=is_query)
    batches = [
        batch
        for split in plan.splits
        for batch in read_rows(split, Columns("text"), batch_rows=256)
    ]
    rows = [row for batch in batches for row in zip(batch.texts, batch.ids, strict=True)]
    usable = [(text, own) for text, own in rows if text is not None]
    return [text for text, _ in usable], [own for _, own in usable]


def read_columns(folder: str, *names: str) -> dict[str, list[Any]]:
    """Reads columns of the texts of `read_texts`, in their order."""
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for split in plan_input([folder]).splits:
        texts = [
            text
            for batch in read_rows(split, Columns("text"), batch_rows=256)
            for text in batch.texts
        ]
        for name in names:
            values = [value for run in read_values(split, name, 256) for value in run]
            columns[name] += [v for v, text in zip(values, texts, strict=True) if text is not None]
    return columns


def manifest_of(output: pathlib.Path) -> dict[str, Any]:
    return json.loads((output / "manifest.json").read_text())


def selected(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads why each row was selected, in order."""
    return [row["beam_quad"] for row in selected_rows(output)]


def selected_rows(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the selected rows, in order."""
    tables = [pq.read_table(p) for p in sorted((output / "selected").glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def selected_ids(output: pathlib.Path) -> list[str]:
    return sorted(row["example_id"] for row in selected(output))


def output_bytes(output: pathlib.Path) -> dict[str, bytes]:
    """Reads everything of an output that must be the same on every run."""
    paths = [*output.glob("selected/*"), *output.glob("rejected/*"), output / "manifest.json"]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def make_world(root: pathlib.Path, num_documents: int = 900) -> World:
    """Writes the world: two Parquet and two JSON Lines shards, twelve broken rows, a query and a proxy."""
    rng = np.random.default_rng(0)
    documents = [
        {"text": text_of(rng, KINDS[i % len(KINDS)]), "kind": KINDS[i % len(KINDS)], "n": i}
        for i in range(num_documents)
    ]
    corpus = root / "corpus"
    corpus.mkdir(parents=True)
    for shard in range(2):
        rows = documents[shard::4]
        pq.write_table(
            pa.Table.from_pylist(rows), corpus / f"part-{shard}.parquet", row_group_size=40
        )
    broken = [
        b'{"text": "cut off',
        b'["no", "object"]',
        b'{"text": null, "kind": "law", "n": 1}',
        b'{"text": "", "kind": "law", "n": 1}',
        b'{"text": 17, "kind": "law", "n": 1}',
        b'{"text": "bad \xff byte", "kind": "law", "n": 1}',
    ]
    for shard in range(2, 4):
        lines = [json.dumps(row).encode() for row in documents[shard::4]]
        for at, line in enumerate(broken):
            lines.insert(10 * at + shard, line)
        (corpus / f"part-{shard}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    query = root / "query"
    query.mkdir()
    texts = [json.dumps({"text": text_of(rng, "biology")}) for _ in range(24)]
    (query / "query.jsonl").write_text("\n".join(texts))
    (query / "note.txt").write_text(text_of(rng, "biology"))
    _make_proxy(root / "proxy", [row["text"] for row in documents[: num_documents // 3]])
    return World(root)


def text_of(rng: np.random.Generator, kind: str) -> str:
    """Makes a text of 12 to 40 words, two thirds of them its kind's own."""
    words = np.where(
        rng.random(rng.integers(12, 40)) < 0.66,
        f"{kind}",
        "common",
    )
    return " ".join(f"{word}{rng.integers(_WORDS_PER_KIND)}" for word in words)


def _make_proxy(folder: pathlib.Path, texts: list[str]) -> None:
    words = [f"{kind}{i}" for kind in (*KINDS, "common") for i in range(_WORDS_PER_KIND)]
    vocabulary = {word: i for i, word in enumerate(["<unk>", *words])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=32,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    _train(model, fast(texts, padding=True, return_tensors="pt"))
    model.save_pretrained(folder)


def _train(model: Any, batch: Any) -> None:
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
