"""The flags shared by all pipelines: input, models, and where the run goes."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

from beam_quad.errors import UsageError
from beam_quad.records import OUTPUT_FORMATS, PLAIN_QUERY
from beam_quad.selection import leaks
from beam_quad.selection.near_duplicates import COMPARED_BUDGETS, THRESHOLD
from beam_quad.selection.shares import parse_bounds
from pipelines import command_line, flags, parsing
from pipelines.flags import Flag, flag

# Quad's defaults for blocks and for texts per pull; all pipelines set aside enough texts for them.
BLOCKS_PER_CLUSTER = 16
SAMPLES_PER_PULL = 10
LAYERS = "`last:N` is the attention of the last N layers; `head` is the matrix that makes the logits, tied or not."

_data = functools.partial(flag, group="data")
_models = functools.partial(flag, group="models")
_selection = functools.partial(flag, group="selection")
_refresh = functools.partial(flag, group="refresh")
_running = functools.partial(flag, group="running")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(flags.Options):
    """The shared flags, checked one by one."""

    input: tuple[str, ...] = _data(
        "glob of the corpus, {1,2} and {00..31} too; may be repeated, or a list with commas",
        is_required=True,
        is_repeated=True,
        is_common=True,
        pattern=flags.URLS,
    )
    query: dict[str, tuple[str, ...]] = flag(
        "glob of the texts to become good at",
        others=(
            Flag(
                "NAME=GLOB: a named part of the query",
                group="data",
                name="query_group",
                is_repeated=True,
                is_common=True,
                pattern=flags.NAMED_URLS,
            ),
        ),
        group="data",
        is_repeated=True,
        is_common=True,
        pattern=flags.URLS,
    )
    query_weights: dict[str, float] = flag(
        "NAME=W: relative weight of a query group; for Influence Distillation, its relative share of the budget",
        name="query_weight",
        group="data",
        is_repeated=True,
        pattern=flags.NAMED_NUMBERS,
        more="A group without one has 1.",
    )
    output: str = _data(
        "directory of the selection; new, or of the same run; {date} is today, for schedulers",
        is_required=True,
        is_common=True,
        pattern=flags.URL,
    )
    artifacts: str | None = _data(
        "directory of what is reused; default OUTPUT/_run, or that of --base",
        is_common=True,
        pattern=flags.URL,
    )
    text_column: str = _data(
        "column of the text, or field of a struct, as meta.text",
        "text",
        more="Strings, or bytes in UTF-8. The columns of ids and of tokens may be fields, too.",
    )
    query_text_column: str | None = _data(
        "column of the text in query files; default as the corpus"
    )
    prompt_column: str | None = _data(
        "column of a prompt, which the text answers: the loss is the answer's tokens; default none"
    )
    query_prompt_column: str | None = _data(
        "column of the prompt in query files; default as the corpus, empty for none"
    )
    messages_column: str | None = _data(
        "column of conversations, lists of {role, content}, in place of the text: the loss is the assistant's"
    )
    query_messages_column: str | None = _data(
        "column of conversations in query files; default as the corpus, empty for none"
    )
    prove: bool = _data(
        "set a fifth of the query aside, by hash of the text, for beam-quad prove to measure on",
        False,
    )
    id_column: str | None = _data(
        "column of the id; default <shard>#<row>", more="A repeated id is rejected."
    )
    tokens_column: str | None = _data(
        "column of token counts; default counted with the proxy's tokenizer"
    )
    columns: str | None = _data(
        "columns to carry to the output, with commas, as 'id,meta*', or to leave out, as '!raw_html'; default all",
        more="Columns that the run itself reads are always carried. Columns of Parquet that are left out are not read.",
    )
    input_root: str | None = _data(
        "folder that shards are named relative to; default their common one", pattern=flags.URL
    )
    split_mb: int = _data(
        "size of a piece of work in MB: larger files are cut, and small ones are joined if there are more than 1,000",
        256,
        at_least=1,
    )
    output_format: str = _data(
        "format of the selection: ids has only ids and scores, mds is for mosaicml-streaming, megatron is tokens in .bin and .idx",
        "parquet",
        choices=lambda: OUTPUT_FORMATS,
        more="Both forms of JSON Lines carry rows of JSON Lines as they were. `ids` is Parquet of `example_id` and `score` (influence, known "
        'or predicted), to filter the original with any other tool. `StreamingDataset(local="OUTPUT/selected")` reads `mds`, the text as '
        "`str` and all other columns as `json`. `megatron` is a `.bin` and an `.idx` per part, with each document's tokens and the end-of-text token.",
    )
    output_tokenizer: str | None = _data(
        "with --output_format=megatron: the trainer's tokenizer, a folder or hub id; default the proxy's"
    )
    weighted: bool = _data(
        "add a column weight to the selection: the optimal weights of its examples",
        False,
        more="They are optimal for the step, positive, and sum to the number of documents of the corpus.",
    )
    decisions: bool = _data(
        "write what became of every row that was read, and why, to decisions/",
        False,
        more="A row has its id, the decision, the reason, cluster, block, round, influence, its rank and the rank "
        "at the cut, the near-duplicate that stays and the text that it leaks.",
    )
    on_bad_file: str = _data(
        "what to do about a file that is truncated or is not data",
        "fail",
        choices=("fail", "reject"),
        more="`reject` leaves it out, as well as a file without a usable row (a pointer of git-lfs, a page of HTML, an object over "
        "many lines): it has a line in `rejected/`, and a count of its own.",
    )
    share: tuple[str, ...] = _selection(
        "share of the budget for documents that meet a condition on a column: 'language=de >= 0.1', 'license in (nc, unknown) = 0', "
        "'score > 3 >= 0.5'; may be repeated, or a list with semicolons",
        is_repeated=True,
        pattern=r"[^\r\n]+",
        more="A field of a struct is written `meta.source`. Every bound holds to within one document, as does the budget; `manifest.json` "
        "(`shares`) and the report say what each costs. A bound that the documents cannot meet is refused by name before anything is scored. "
        "A missing value meets no condition, and its document counts in the budget. With a bandit, each group that a bound asks for "
        "gets scores of its own.",
    )
    share_by: tuple[str, ...] = _selection(
        "COLUMN=FILE: the share of each value of a column, JSON of numbers by value, or lines of VALUE,SHARE",
        is_repeated=True,
        pattern=flags.NAMED_URLS,
        more="The rest of the budget is free.",
    )
    exclude: tuple[str, ...] = _data(
        "glob of lists of ids that no run may select (near-copies have other ids, and stay): .txt with one per line, or Parquet or JSON Lines with them in --id_column or example_id",
        is_repeated=True,
        pattern=flags.URLS,
    )
    decontaminate: tuple[str, ...] = _data(
        "glob of texts that no selected document may contain, such as benchmarks: .txt, Parquet or JSON Lines, in the "
        "query's text column",
        is_repeated=True,
        pattern=flags.URLS,
    )
    decontaminate_words: int = _data(
        "words per n-gram, by which these texts and those of the query set are found; 8 or 5 for shorter texts",
        leaks.NUM_WORDS,
        at_least=leaks.FEWEST_WORDS,
        why="; shorter n-grams are phrases that anybody writes",
    )
    decontaminate_threshold: float = _data(
        "a document is rejected if it contains more than this share of a text's words in such n-grams",
        leaks.THRESHOLD,
    )
    keep_query_copies: bool = _data(
        "select documents even if they contain a text of the query set", False
    )
    proxy_model: str | None = _models(
        "causal language model whose gradients count: folder, here or in a store, or hub id",
        is_common=True,
    )
    proxy_revision: str | None = _models("revision of --proxy_model on the hub")
    embedder: str = _models(
        "minilm, static or static:X (token vectors of minilm or X), hashing, jvp (of the proxy's first blocks), "
        "a folder, here or in a store, or a hub id",
        "minilm",
    )
    embedder_revision: str | None = _models("revision of --embedder on the hub")
    embedder_dim: int | None = _models("dimension to keep; hashing: buckets (512)", at_least=1)
    embedder_max_tokens: int | None = _models(
        "tokens of a text to embed; default the encoder's", at_least=1
    )
    embedder_prompt: str | None = _models(
        "put before every text that is embedded, as 'query: '; default the encoder's own"
    )
    embedder_dtype: str | None = _models(
        "dtype of a sentence encoder; default float32 on a CPU, bfloat16 on a GPU",
        choices=("float32", "bfloat16"),
    )
    jvp_blocks: int = _models(
        "with --embedder=jvp: blocks of the proxy that a text passes through", 4, at_least=1
    )
    jvp_tangents: int = _models(
        "with --embedder=jvp: number of products, which are concatenated", 2, at_least=1
    )
    layers: str = _models(
        "layers whose gradients count: attention, mlp, all, last:N or head, one of them and the head (all+head), or regex:R",
        "attention",
        pattern=r"(attention|mlp|all|last:[0-9]+)(\+head)?|head|regex:.+",
        more=LAYERS,
    )
    curvature: Literal["ekfac", "kfac", "identity"] = _models(
        "approximation of the Fisher",
        "ekfac",
        more="`identity` is a plain dot product of gradients.",
    )
    curvature_examples: int = _models(
        "corpus texts to which the curvature is fitted", 1024, reads=parsing.count, at_least=1
    )
    curvature_labels: Literal["sampled", "empirical"] = _models(
        "labels of the Fisher: from the model, or the text's own", "sampled"
    )
    damping: float = _models(
        "damping of the curvature, relative to the mean eigenvalue of each block",
        1.0,
        is_positive=True,
        more="With more damping, influence is closer to a plain dot product of gradients.",
    )
    context_length: int | None = _models(
        "tokens of a window; default the proxy's, at most 1024",
        at_least=2,
        why=": the first token is never predicted",
    )
    max_windows: int = _models("windows of a text that are scored", 4, at_least=1)
    max_batch_tokens: int = _models(
        "padded tokens of a micro-batch", 8192, reads=parsing.count, at_least=1
    )
    device: str = _models(
        "cpu, cuda or cuda:N; there is no fallback",
        "cpu",
        is_common=True,
        pattern=r"cpu|cuda(:[0-9]+)?",
    )
    dtype: str = _models(
        "dtype of the proxy; default float32 on a CPU, bfloat16 on a GPU",
        choices=("float32", "bfloat16"),
    )
    threads: int | None = _models(
        "CPU threads of a model; default all cores of a worker, over the number of local worker processes",
        at_least=1,
    )
    near_duplicates: Literal["keep", "drop"] = _selection(
        "drop: of documents that are nearly the same, at most the highest-ranked is selected",
        "drop",
        more="Such documents differ only in case, white space, punctuation, a header, a cut end or one word in ten. "
        "The budget is filled up from the ranking; with a bandit first by what it accepted, then by the highest estimated influence "
        "(with `--acceptance=instance` only among scored documents). The others count as not selected, and `rejected/` names the "
        "document that ranks higher, with the reason `near_duplicate`. What "
        f"`--base` selected stays, and new copies of it are not selected. The best {COMPARED_BUDGETS} budgets of documents are compared and, if "
        "these do not fill one, all; with `--share`, or a bandit's `--max_share_per_cluster`, all are compared at once.",
    )
    near_duplicate_threshold: float = _selection(
        "with --near_duplicates=drop: least Jaccard similarity of two documents' pairs of words, case and punctuation aside; "
        "with one word in seven replaced it is 0.6",
        THRESHOLD,
        is_share=True,
        more="It is about .68 with one word in ten replaced, and below .3 for documents of different origin. At 1 only "
        "copies are left out.",
    )
    reserve_examples: int = _selection(
        "minimum number of texts set aside for scoring", 1_000_000, reads=parsing.count, at_least=1
    )
    seed: int = _selection("seed of every draw", 0, pattern=r"-?[0-9]+")
    base: str | None = _refresh(
        "finished output to go on from, or a folder of dated ones, of which the newest before this run's date is taken: "
        "only new shards are read and scored, and what was selected stays",
        is_common=True,
        pattern=flags.URL,
        more="The flags, the models and the query set must be the base's.",
    )
    reselect: bool = _refresh(
        "with --base: choose anew among all examples, with every score that is known",
        False,
        more="Nothing is embedded again.",
    )
    refit: bool = _refresh(
        "with --base: fit clusters, curvature and vectors anew",
        False,
        more="What was selected stays.",
    )
    grow_clusters: bool = _refresh(
        "with --base: open clusters for new documents that are far from all; old ones keep their ids",
        False,
    )
    config: str | None = _running(
        "YAML or JSON of flags by name, or the manifest.json of a run to replay; flags of the command line win",
        is_common=True,
        pattern=flags.URL,
        more="A list gives a flag several times, and `query_group`, `query_weight` and `heldout_group` may be objects of names.",
    )
    plan: bool = _running(
        "check everything that needs no weights, print the plan, start nothing",
        False,
        is_common=True,
    )
    prices: str | None = _running(
        "JSON of what cores, memory, GPUs, shuffles and stores cost, for --plan; Google Cloud's list prices by default",
        pattern=flags.URL,
        more="Any of `core_hour`, `memory_gb_hour`, `shuffled_gb`, `stored_gb_month`, `thousand_reads`, `thousand_writes`, and "
        '`device_hour`, an object of GPUs (`{"L4": 0.56}`).',
    )
    take_over: bool = _running(
        "take the lock of a run on another host, or of a job that is gone", False
    )
    accelerator: str | None = _running(
        "resource hint of stages with a model, such as type:nvidia-l4;count:1",
        pattern=r"type:[a-z0-9-]+;count:[0-9]+(;[a-z0-9:_-]+)*",
    )

    @property
    def artifacts_root(self) -> str:
        """Where artifacts go, absolute."""
        # Imported late, because Beam takes seconds and an invalid flag should fail at once.
        from beam_quad.artifacts import files

        return files.absolute(self.artifacts or files.join(files.absolute(self.output), "_run"))

    @property
    def needs_query(self) -> bool:
        """Whether the run uses the query set."""
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

    def described(self, num_documents: int) -> str:
        """Describes the policy and the budget for a corpus of so many documents, for `--plan`."""
        return self.COMMAND

    @property
    def ranking_column(self) -> str | None:
        """The column of numbers for ranking, or None."""
        return None

    def check(self) -> None:
        """Refuses invalid options.

        Raises:
          UsageError: With the flag and a remedy.
        """
        super().check()
        if self.proxy_model is None and self.tokens_column is None:
            raise UsageError(
                "pass --proxy_model, whose tokenizer counts tokens, or --tokens_column, which holds their counts"
            )
        if self.prove and not self.query:
            raise UsageError(
                "--prove sets query texts aside; pass --query or --query_group with it"
            )
        if self.prompt_column and self.messages_column:
            raise UsageError(
                "--messages_column holds prompts and answers; leave --prompt_column out, or pass it with --text_column"
            )
        parse_bounds(self.share, "--share")
        self._check_output()
        if not 0 <= self.decontaminate_threshold < 1:
            raise UsageError(
                f"--decontaminate_threshold must be at least 0 and below 1, got {self.decontaminate_threshold}"
            )
        for name in ("reselect", "refit", "grow_clusters"):
            if self.base is not None or not getattr(self, name):
                continue
            raise UsageError(f"--{name} says how to go on from a selection; pass --base with it")
        if self.base is not None and self.weighted and not self.reselect:
            raise UsageError(
                "--weighted weighs a selection as a whole; pass --reselect with --base, or leave it out"
            )
        if self.accelerator is not None and self.device == "cpu":
            raise UsageError("--accelerator is for models on a GPU; pass --device=cuda with it")

    def _check_output(self) -> None:
        if self.output_format != "megatron":
            if self.output_tokenizer is not None:
                raise UsageError(
                    "--output_tokenizer makes the tokens of --output_format=megatron; leave it out"
                )
            return
        if self.output_tokenizer is None and self.proxy_model is None:
            raise UsageError(
                "--output_format=megatron needs --output_tokenizer: the trainer's, a folder or hub id"
            )
        for name in ("prompt_column", "messages_column", "weighted"):
            if getattr(self, name):
                raise UsageError(
                    f"--output_format=megatron holds tokens alone, and --{name} says more; write parquet, jsonl or mds"
                )


# Options of the start of a run, without effect on its selection, with their defaults.
HOW_STARTED = {
    each.field: each.default for each in flags.declared(RunOptions) if each.group == "running"
}


def parse(options: type[RunOptions], argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Parses a command line; see `command_line.parse`.

    Returns:
      The values of the options by field, and the remaining arguments, all known to Beam or its job server.

    Raises:
      UsageError: If a flag is unknown, or its value is missing or invalid.
    """
    values, rest = command_line.parse(options, argv)
    plain, named = values["query"], values.pop("query_group")
    values["query"] = {PLAIN_QUERY: tuple(plain)} if plain else {}
    for name, globs in parsing.named_globs(named, "--query_group").items():
        values["query"][name] = (*values["query"].get(name, ()), *globs)
    values["query_weights"] = parsing.query_weights(values.pop("query_weight"), values["query"])
    for name in ("input", "exclude", "decontaminate"):
        values[name] = tuple(values[name])
    values["share"] = tuple(bound for text in values["share"] for bound in parsing.bounds_in(text))
    values["share_by"] = tuple(parsing.split_named(values["share_by"]))
    values["output"] = parsing.dated(values["output"])
    values["threads"] = values["threads"] or parsing.threads_of_a_process(rest)
    if values["dtype"] is None:
        values["dtype"] = parsing.default_dtype(values["device"])
    return values, rest
