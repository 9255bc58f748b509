"""The flags that all pipelines share: what is read, which models, where it runs."""

import argparse
import dataclasses
from typing import Any, Literal

from beam_quad.errors import UsageError
from beam_quad.records import OUTPUT_FORMATS
from beam_quad.selection import leaks, near_duplicates
from pipelines import parsing
from pipelines.parsing import SWITCH

CURVATURES = ("ekfac", "kfac", "identity")
# Quad's default, and the most that a pull scores by default: all pipelines set aside what these want.
BLOCKS_PER_CLUSTER = 16
SAMPLES_PER_PULL = 10


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The shared flags, checked one by one; see the functions below for what each means."""

    input: tuple[str, ...]
    query: dict[str, tuple[str, ...]]
    query_weights: dict[str, float]
    output: str
    proxy_model: str | None
    proxy_revision: str | None
    embedder: str
    embedder_revision: str | None
    embedder_dim: int | None
    embedder_max_tokens: int | None
    embedder_prompt: str | None
    embedder_dtype: str | None
    jvp_blocks: int
    jvp_tangents: int
    artifacts: str | None
    curvature: Literal["ekfac", "kfac", "identity"]
    curvature_examples: int
    curvature_labels: Literal["sampled", "empirical"]
    damping: float
    layers: str
    context_length: int | None
    max_windows: int
    max_batch_tokens: int
    device: str
    dtype: str
    threads: int | None
    seed: int
    text_column: str
    query_text_column: str | None
    prompt_column: str | None
    query_prompt_column: str | None
    messages_column: str | None
    query_messages_column: str | None
    prove: bool
    id_column: str | None
    tokens_column: str | None
    columns: str | None
    input_root: str | None
    split_mb: int
    reserve_examples: int
    output_format: str
    weighted: bool
    on_bad_file: str
    exclude: tuple[str, ...]
    decontaminate: tuple[str, ...]
    decontaminate_words: int
    decontaminate_threshold: float
    keep_query_copies: bool
    near_duplicates: Literal["keep", "drop"]
    near_duplicate_threshold: float
    plan: bool
    prices: str | None
    take_over: bool
    accelerator: str | None
    base: str | None
    reselect: bool
    refit: bool
    grow_clusters: bool

    @property
    def artifacts_root(self) -> str:
        """Where artifacts go, absolute."""
        # Only now: Beam takes seconds to import, for which a wrong flag shall not wait.
        from beam_quad.artifacts import files

        return files.absolute(self.artifacts or files.join(files.absolute(self.output), "_run"))

    @property
    def needs_query(self) -> bool:
        """Whether the run looks at the query set."""
        return True

    @property
    def needs_proxy(self) -> bool:
        """Whether it passes texts through the proxy model."""
        return True

    @property
    def needs_embeddings(self) -> bool:
        """Whether it embeds texts."""
        return True

    @property
    def needs_influence(self) -> bool:
        """Whether it takes gradients of the proxy's layers, for influence on the query set."""
        return True

    @property
    def ranking_column(self) -> str | None:
        """The column of numbers that it ranks by, or None."""
        return None

    def check(self) -> None:
        """Refuses what cannot be.

        Raises:
          UsageError: Naming the flag, and what to do.
        """
        if self.proxy_model is None and self.tokens_column is None:
            raise UsageError(
                "tokens are counted with --proxy_model's tokenizer; or --tokens_column"
            )
        if self.prove and not self.query:
            raise UsageError(
                "--prove sets query texts aside; pass --query or --query_group with it"
            )
        if self.prompt_column and self.messages_column:
            raise UsageError(
                "--messages_column holds prompts and answers; leave --prompt_column out, or pass it with --text_column"
            )
        for name in _AT_LEAST_ONE:
            self.check_at_least_one(name)
        if self.decontaminate_words < leaks.FEWEST_WORDS:
            raise UsageError(
                f"--decontaminate_words must be at least {leaks.FEWEST_WORDS}, got {self.decontaminate_words}; shorter n-grams are "
                "phrases that anybody writes"
            )
        if not 0 <= self.decontaminate_threshold < 1:
            raise UsageError(
                f"--decontaminate_threshold must be at least 0 and below 1, got {self.decontaminate_threshold}"
            )
        if not 0 < self.near_duplicate_threshold <= 1:
            raise UsageError(
                f"--near_duplicate_threshold must lie in (0, 1], got {self.near_duplicate_threshold}"
            )
        if not 0 < self.damping < float("inf"):
            raise UsageError(f"--damping must be positive, got {self.damping}")
        if self.context_length is not None and self.context_length < 2:
            raise UsageError(
                f"--context_length must be at least 2, got {self.context_length}: the first token is never predicted"
            )
        for flag in ("reselect", "refit", "grow_clusters"):
            if self.base is not None or not getattr(self, flag):
                continue
            raise UsageError(f"--{flag} says how to go on from a selection; pass --base with it")
        if self.base is not None and self.weighted and not self.reselect:
            raise UsageError(
                "--weighted weighs a selection as a whole; pass --reselect with --base, or leave it out"
            )
        if self.accelerator is not None and self.device == "cpu":
            raise UsageError("--accelerator is for models on a GPU; pass --device=cuda with it")

    def check_at_least_one(self, name: str) -> None:
        """Refuses a number below 1; None, for a default that the corpus decides, is fine."""
        value = getattr(self, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")


_AT_LEAST_ONE = (
    "curvature_examples", "split_mb", "reserve_examples", "threads", "max_windows", "max_batch_tokens",
    "embedder_dim", "embedder_max_tokens", "jvp_blocks", "jvp_tangents",
)  # fmt: skip


def add_data(result: argparse.ArgumentParser) -> Any:
    """Adds what is read and written; returns the group."""
    group: Any = result.add_argument_group("data")
    add = group.add_argument
    add(
        "--input",
        action="append",
        required=True,
        help="glob of the corpus, {1,2} and {00..31} too; may be repeated, or a list with commas",
    )
    add("--query", action="append", default=[], help="glob of the texts to become good at")
    add("--query_group", action="append", default=[], help="NAME=GLOB: a named part of the query")
    add(
        "--query_weight",
        action="append",
        default=[],
        help="NAME=W: its relative weight; of Influence Distillation its share of the budget",
    )
    add(
        "--output",
        required=True,
        help="directory of the selection; new, or of the same run; {date} is today, for schedulers",
    )
    add("--artifacts", help="directory of what is reused; default OUTPUT/_run, or that of --base")
    add(
        "--text_column",
        default="text",
        help="column of the text, or field of a struct, as meta.text",
    )
    add("--query_text_column", help="column of the text in query files; default as the corpus")
    add(
        "--prompt_column",
        help="column of a prompt, which the text answers: the loss is the answer's tokens; default none",
    )
    add(
        "--query_prompt_column",
        help="column of the prompt in query files; default as the corpus, empty for none",
    )
    add(
        "--messages_column",
        help="column of conversations, lists of {role, content}, in place of the text: the loss is the assistant's",
    )
    add(
        "--query_messages_column",
        help="column of conversations in query files; default as the corpus, empty for none",
    )
    add(
        "--prove",
        **SWITCH,
        help="set a fifth of the query aside, by hash of the text, for beam-quad prove to measure on",
    )
    add("--id_column", help="column of the id; default <shard>#<row>")
    add(
        "--tokens_column", help="column of token counts; default counted with the proxy's tokenizer"
    )
    add(
        "--columns",
        help="columns to carry to the output, with commas, as 'id,meta*', or to leave out, as '!raw_html'; default all",
    )
    add("--input_root", help="folder that shards are named relative to; default their common one")
    add(
        "--split_mb",
        type=int,
        default=256,
        help="size of a piece of work: larger files are cut, and of more than 1,000 small ones several are joined",
    )
    add("--output_format", choices=OUTPUT_FORMATS, default="parquet", help="of the selection")
    add(
        "--weighted",
        **SWITCH,
        help="add a column weight to the selection: the optimal weights of its examples",
    )
    add(
        "--on_bad_file",
        choices=("fail", "reject"),
        default="fail",
        help="what a file that is truncated or no data does",
    )
    add(
        "--exclude",
        action="append",
        default=[],
        help="glob of ids whose rows no run may select (near-copies have other ids, and stay): .txt, one a line, or Parquet or "
        "JSON Lines with them in --id_column or example_id",
    )
    add(
        "--decontaminate",
        action="append",
        default=[],
        help="glob of texts that no selected document may hold, such as benchmarks: .txt, Parquet or JSON Lines, in the "
        "query's text column",
    )
    add(
        "--decontaminate_words",
        type=int,
        default=leaks.NUM_WORDS,
        help="words of the n-grams by which such texts, and those of the query set, are found; of shorter texts 8 or 5",
    )
    add(
        "--decontaminate_threshold",
        type=float,
        default=leaks.THRESHOLD,
        help="a document that holds more than this share of a text's words, in such n-grams, is rejected",
    )
    add(
        "--keep_query_copies",
        **SWITCH,
        help="select documents that hold a text of the query set, too",
    )
    return group


def add_models(
    result: argparse.ArgumentParser,
    embedder: str | None,
    curvature: str,
    layers: str | None = "attention",
) -> Any:
    """Adds the models and how influence is computed, with the defaults of a pipeline; returns the group."""
    group: Any = result.add_argument_group("models")
    add = group.add_argument
    add("--proxy_model", help="causal language model whose gradients count: folder or hub id")
    add("--proxy_revision", help="its revision on the hub")
    add(
        "--embedder",
        default=embedder,
        help="minilm, static or static:X (token vectors of minilm or X), hashing, jvp (of the proxy's first blocks), "
        "a folder or a hub id",
    )
    add("--embedder_revision", help="its revision on the hub")
    add("--embedder_dim", type=int, help="dimension to keep; hashing: buckets (512)")
    add("--embedder_max_tokens", type=int, help="tokens of a text to embed; default the encoder's")
    add(
        "--embedder_prompt",
        help="put before every text that is embedded, as 'query: '; default the encoder's own",
    )
    add(
        "--embedder_dtype",
        choices=("float32", "bfloat16"),
        help="of a sentence encoder; default float32 on a CPU, bfloat16 on a GPU",
    )
    add("--jvp_blocks", type=int, default=4, help="of --embedder=jvp: blocks of the proxy passed")
    add("--jvp_tangents", type=int, default=2, help="of --embedder=jvp: products, concatenated")
    add(
        "--layers",
        default=layers,
        help="attention, mlp, all, last:N or head, a sum with the head (all+head), or regex:R",
    )
    add("--curvature", choices=CURVATURES, default=curvature, help="approximation of the Fisher")
    add(
        "--curvature_examples",
        type=parsing.count,
        default=1024,
        help="corpus texts it is fitted on",
    )
    add(
        "--curvature_labels",
        choices=("sampled", "empirical"),
        default="sampled",
        help="labels of the Fisher: from the model, or the text's own",
    )
    add("--damping", type=float, default=1.0, help="over the mean eigenvalue of each block")
    add("--context_length", type=int, help="tokens of a window; default the proxy's, at most 1024")
    add("--max_windows", type=int, default=4, help="windows of a text that are scored")
    add(
        "--max_batch_tokens",
        type=parsing.count,
        default=8192,
        help="padded tokens of a micro-batch",
    )
    add("--device", default="cpu", help="cpu, cuda or cuda:N; there is no fallback")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the proxy; default float32 on a CPU, bfloat16 on a GPU",
    )
    add(
        "--threads",
        type=int,
        help="CPU threads of a model; default all cores of a worker, over the number of local worker processes",
    )
    return group


def add_refresh(result: argparse.ArgumentParser) -> None:
    """Adds how a run goes on from an earlier one."""
    add = result.add_argument_group("refresh").add_argument
    add(
        "--base",
        help="finished output to go on from, or a folder of dated ones, of which the newest before this one's date counts: "
        "only new shards are read and scored, and what was selected stays",
    )
    add(
        "--reselect",
        **SWITCH,
        help="of --base: choose anew among all examples, with every score that is known",
    )
    add("--refit", **SWITCH, help="of --base: fit clusters, curvature and vectors anew")
    add(
        "--grow_clusters",
        **SWITCH,
        help="of --base: open clusters for new documents that are far from all; old ones keep their ids",
    )


def add_near_duplicates(group: Any, default: str | None, but: str = "") -> None:
    """Adds what becomes of near-duplicates; `but` says where the default is another."""
    group.add_argument(
        "--near_duplicates",
        choices=("keep", "drop"),
        default=default,
        help=f"drop: of documents that are nearly the same, the one that ranks highest is selected at most{but}",
    )
    group.add_argument(
        "--near_duplicate_threshold",
        type=float,
        default=near_duplicates.THRESHOLD,
        help="of --near_duplicates=drop: least Jaccard similarity of two documents' pairs of words, case and punctuation aside; "
        "with one word in seven replaced it is 0.6",
    )


def add_reserve(group: Any) -> None:
    """Adds what every draw and every selection needs."""
    group.add_argument(
        "--reserve_examples",
        type=parsing.count,
        default=1_000_000,
        help="least texts set aside for scoring",
    )
    group.add_argument("--seed", type=int, default=0, help="of every draw")


def add_running(result: argparse.ArgumentParser) -> None:
    """Adds how the run is started."""
    add = result.add_argument_group("running").add_argument
    add(
        "--plan",
        **SWITCH,
        help="check everything that needs no weights, print the plan, start nothing",
    )
    add(
        "--prices",
        help="JSON of what cores, memory, GPUs, shuffles and stores cost, for --plan; Google Cloud's list prices by default",
    )
    add(
        "--take_over",
        **SWITCH,
        help="take the lock of a run on another host, or of a job that is gone",
    )
    add(
        "--accelerator", help="resource hint of stages with a model, such as type:nvidia-l4;count:1"
    )
