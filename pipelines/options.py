"""Flags of the pipelines: parsed strictly, ours here and Beam's by Beam."""

import argparse
import dataclasses
import datetime
import difflib
import os
import re
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from apache_beam.options.pipeline_options import PipelineOptions

from beam_quad.errors import UsageError
from beam_quad.io.output import OUTPUT_FORMATS

POLICIES = ("quad", "random", "perplexity", "influence_top_k", "cluster_uniform", "dsir")
ACCEPTANCES = ("block", "instance")
CURVATURES = ("ekfac", "kfac", "identity")
SCORINGS = ("auto", "exact", "two_forwards")

# Options that Beam's Flink job server knows and the Python SDK passes on without knowing.
_JOB_SERVER_FLAGS = frozenset(
    {
        "--parallelism",
        "--max_parallelism",
        "--checkpointing_interval",
        "--checkpointing_mode",
        "--state_backend",
        "--state_backend_storage_path",
        "--object_reuse",
        "--execution_mode_for_batch",
        "--number_of_execution_retries",
    }
)
_GROUP_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


# `--flag`, and `--flag=true`: the parameters of a Flex Template are a map of strings.
_SWITCH: dict[str, Any] = {"nargs": "?", "const": True, "type": _switch, "default": False}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


@dataclasses.dataclass(frozen=True)
class QuadOptions:
    """The flags of `pipelines.quad`, checked one by one; see `parser` for what each means."""

    input: tuple[str, ...]
    query: dict[str, tuple[str, ...]]
    query_weights: dict[str, float]
    output: str
    budget_tokens: int
    proxy_model: str | None
    proxy_revision: str | None
    embedder: str
    embedder_revision: str | None
    embedder_dim: int | None
    embedder_max_tokens: int | None
    artifacts: str | None
    policy: str
    num_clusters: int | None
    max_cluster_share: float
    num_rounds: int
    arms_per_round: int | None
    samples_per_pull: int | None
    blocks_per_cluster: int
    acceptance: Literal["block", "instance"]
    tau: float | None
    alpha: float
    max_share_per_cluster: float
    curvature: Literal["ekfac", "kfac", "identity"]
    curvature_examples: int
    curvature_labels: Literal["sampled", "empirical"]
    damping: float
    layers: str
    normalize: bool
    scoring: Literal["auto", "exact", "two_forwards"]
    context_length: int | None
    max_windows: int
    max_batch_tokens: int
    device: str
    dtype: str
    threads: int
    seed: int
    text_column: str
    query_text_column: str | None
    id_column: str | None
    tokens_column: str | None
    input_root: str | None
    split_mb: int
    reserve_examples: int
    output_format: str
    on_bad_file: str
    plan: bool
    take_over: bool
    accelerator: str | None


def parse(argv: Sequence[str]) -> tuple[QuadOptions, list[str]]:
    """Parses a command line.

    Args:
      argv: Arguments without the program's name.

    Returns:
      Our options, and the arguments for Beam, each of which Beam or its job server knows.

    Raises:
      UsageError: If a flag is unknown, lacks its value, or has one that cannot be.
    """
    namespace, rest = parser().parse_known_args(list(argv))
    refuse_unknown(rest)
    values = vars(namespace)
    groups = _query_groups(values.pop("query"), values.pop("query_group"))
    weights = _query_weights(values.pop("query_weight"), groups)
    values["input"] = tuple(values["input"])
    today = datetime.datetime.now(datetime.UTC).date()
    values["output"] = values["output"].replace("{date}", today.isoformat())
    options = QuadOptions(query=groups, query_weights=weights, **values)
    _check(options)
    return options, rest


def parser() -> argparse.ArgumentParser:
    """Makes the parser of `pipelines.quad`; every default is the recommended one."""
    result = _Parser(
        prog="python -m pipelines.quad",
        description="Selects pre-training data by influence and diversity (Quad).",
        epilog="Any other option goes to Beam, such as --runner; see the README.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_data(result.add_argument_group("data"))
    _add_models(result.add_argument_group("models"))
    _add_selection(result.add_argument_group("selection"))
    _add_running(result.add_argument_group("running"))
    return result


def _add_data(group: Any) -> None:
    add = group.add_argument
    add(
        "--input",
        action="append",
        required=True,
        help="glob of the corpus; may be repeated, or a list with commas",
    )
    add("--query", action="append", default=[], help="glob of the texts to become good at")
    add("--query_group", action="append", default=[], help="NAME=GLOB: a named part of the query")
    add("--query_weight", action="append", default=[], help="NAME=W: its relative weight")
    add(
        "--output",
        required=True,
        help="directory of the selection; new, or of the same run; {date} is today, for schedulers",
    )
    add("--artifacts", help="directory of what is reused; default OUTPUT/_run")
    add("--text_column", default="text", help="column of the text")
    add("--query_text_column", help="column of the text in query files; default as the corpus")
    add("--id_column", help="column of the id; default <shard>#<row>")
    add(
        "--tokens_column", help="column of token counts; default counted with the proxy's tokenizer"
    )
    add("--input_root", help="folder that shards are named relative to; default their common one")
    add("--split_mb", type=int, default=256, help="Parquet files above this are cut into splits")
    add("--output_format", choices=OUTPUT_FORMATS, default="parquet", help="of the selection")
    add(
        "--on_bad_file",
        choices=("fail", "reject"),
        default="fail",
        help="what a truncated file does",
    )


def _add_models(group: Any) -> None:
    add = group.add_argument
    add("--proxy_model", help="causal language model whose gradients count: folder or hub id")
    add("--proxy_revision", help="its revision on the hub")
    add("--embedder", default="minilm", help="minilm, hashing, a folder or a hub id")
    add("--embedder_revision", help="its revision on the hub")
    add("--embedder_dim", type=int, help="dimension to keep; hashing: buckets (512)")
    add("--embedder_max_tokens", type=int, help="tokens of a text to embed; default the encoder's")
    add("--layers", default="attention", help="attention, mlp, all, last:N or regex:R")
    add("--curvature", choices=CURVATURES, default="ekfac", help="approximation of the Fisher")
    add("--curvature_examples", type=int, default=1024, help="corpus texts it is fitted on")
    add(
        "--curvature_labels",
        choices=("sampled", "empirical"),
        default="sampled",
        help="labels of the Fisher: from the model, or the text's own",
    )
    add("--damping", type=float, default=1.0, help="over the mean eigenvalue of each block")
    add("--normalize", **_SWITCH, help="divide influence by the gradient's norm")
    add(
        "--scoring",
        choices=SCORINGS,
        default="auto",
        help="influence by one forward and backward, by two forwards (float32), or what is cheaper",
    )
    add("--context_length", type=int, help="tokens of a window; default the proxy's, at most 1024")
    add("--max_windows", type=int, default=4, help="windows of a text that are scored")
    add("--max_batch_tokens", type=int, default=8192, help="padded tokens of a micro-batch")
    add("--device", default="cpu", help="cpu, cuda or cuda:N; there is no fallback")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the proxy")
    add("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of a model")


def _add_selection(group: Any) -> None:
    add = group.add_argument
    add("--budget_tokens", type=int, required=True, help="tokens to select")
    add("--policy", choices=POLICIES, default="quad", help="quad, or a baseline")
    add("--num_clusters", type=int, help="K; default sqrt(examples / 2), 8 to 10000")
    add("--max_cluster_share", type=float, default=0.05, help="a larger cluster is split again")
    add("--num_rounds", type=int, default=16, help="rounds after the pilot, at most 50")
    add("--arms_per_round", type=int, help="arms to pull; default as many as the budget asks for")
    add("--samples_per_pull", type=int, help="examples scored in a pull; default 4 to 10 by size")
    add("--blocks_per_cluster", type=int, default=16, help="most blocks of a cluster, a power of 2")
    add("--acceptance", choices=ACCEPTANCES, default="block", help="what a good pull gives")
    add("--tau", type=float, help="fixed threshold on influence; default the water level")
    add("--alpha", type=float, default=0.5, help="exploration, in errors of one pull")
    add(
        "--max_share_per_cluster", type=float, default=1.0, help="most of the budget from a cluster"
    )
    add("--reserve_examples", type=int, default=1_000_000, help="least texts set aside for scoring")
    add("--seed", type=int, default=0, help="of every draw")


def _add_running(group: Any) -> None:
    add = group.add_argument
    add("--plan", **_SWITCH, help="check everything, print the plan, start nothing")
    add("--take_over", **_SWITCH, help="take the lock of a run on another host")
    add(
        "--accelerator", help="resource hint of stages with a model, such as type:nvidia-l4;count:1"
    )


def refuse_unknown(arguments: Sequence[str]) -> None:
    """Refuses arguments that neither Beam nor its job server knows.

    Raises:
      UsageError: Naming the first of them.
    """
    beam = _Parser(add_help=False, allow_abbrev=False)
    for options in [PipelineOptions, *_subclasses(PipelineOptions)]:
        options._add_argparse_args(_Tolerant(beam))
    _, unknown = beam.parse_known_args(list(arguments))
    for argument in unknown:
        name = argument.split("=", 1)[0]
        if argument.startswith("--") and name not in _JOB_SERVER_FLAGS:
            close = difflib.get_close_matches(name, parser()._option_string_actions, n=1)
            hint = f"did you mean {close[0]}?" if close else "see --help"
            raise UsageError(f"unknown flag {name}: neither ours nor Beam's; {hint}")
        if argument.startswith("-") and not argument.startswith("--"):
            raise UsageError(f"unknown flag {name}; flags are written --name=value, see --help")
        if not argument.startswith("-") and not any(a in _JOB_SERVER_FLAGS for a in arguments):
            raise UsageError(f"unexpected argument {argument!r}; flags are written --name=value")


class _Tolerant:
    """Lets the option classes of Beam be added to one parser, though some share a flag."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser

    def add_argument(self, *names: str, **settings: Any) -> None:
        known = self._parser._option_string_actions
        fresh = [name for name in names if name not in known]
        if fresh:
            settings.pop("required", None)
            self._parser.add_argument(*fresh, **settings)

    def add_mutually_exclusive_group(self, **_: Any) -> "_Tolerant":
        return self


def _subclasses(base: type) -> list[Any]:
    direct: list[Any] = base.__subclasses__()
    return direct + [deeper for child in direct for deeper in _subclasses(child)]


def _split_named(texts: list[str]) -> list[str]:
    """Splits NAME=A,B,OTHER=C before every name: one parameter of a template holds what flags repeat."""
    before_name = re.compile(rf",(?={_GROUP_NAME.pattern}=)")
    return [part for text in texts for part in before_name.split(text)]


def _query_groups(plain: list[str], named: list[str]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {"query": list(plain)} if plain else {}
    for text in _split_named(named):
        name, separator, glob = text.partition("=")
        if not separator or not glob or not _GROUP_NAME.fullmatch(name):
            raise UsageError(
                f"--query_group={text} must be NAME=GLOB, NAME of letters, digits, _.-"
            )
        groups.setdefault(name, []).append(glob)
    return {name: tuple(globs) for name, globs in groups.items()}


def _query_weights(texts: list[str], groups: dict[str, tuple[str, ...]]) -> dict[str, float]:
    weights = dict.fromkeys(groups, 1.0)
    for text in _split_named(texts):
        name, _, value = text.partition("=")
        if name not in groups:
            raise UsageError(f"--query_weight={text}: no query group {name}; pass --query_group")
        try:
            weights[name] = float(value)
        except ValueError:
            raise UsageError(f"--query_weight={text} must be NAME=W, W a number") from None
        if not 0 < weights[name] < float("inf"):
            raise UsageError(f"--query_weight={text}: the weight must be positive")
    return weights


def needs_query(policy: str) -> bool:
    """Whether a policy looks at the query set."""
    return policy in ("quad", "influence_top_k", "dsir")


def needs_proxy(policy: str) -> bool:
    """Whether a policy passes texts through the proxy model."""
    return policy in ("quad", "influence_top_k", "perplexity")


def needs_clusters(policy: str) -> bool:
    """Whether a policy looks at clusters."""
    return policy in ("quad", "cluster_uniform")


def why_exact(options: QuadOptions) -> str | None:
    """Says in a sentence why two forwards are out of the question; None where they are not."""
    if options.scoring == "exact":
        return "Exact scores were asked for."
    if options.policy != "quad":
        return "Without a pilot there is nothing to calibrate two forwards on."
    if options.normalize:
        return "Normalised scores need the gradient's norm, which two forwards do not give."
    if options.dtype != "float32":
        return f"In {options.dtype} the difference of two losses is rounding."
    return None


def _check(options: QuadOptions) -> None:
    if options.budget_tokens < 1:
        raise UsageError(
            f"--budget_tokens must be at least 1, got {options.budget_tokens}; it is how much to select"
        )
    if needs_query(options.policy) and not options.query:
        raise UsageError(f"--policy={options.policy} needs --query: the texts to become good at")
    if options.proxy_model is None:
        if needs_proxy(options.policy):
            raise UsageError(f"--policy={options.policy} needs --proxy_model: a folder or hub id")
        if options.tokens_column is None:
            raise UsageError(
                "tokens are counted with --proxy_model's tokenizer; or --tokens_column"
            )
    for name in (
        "num_clusters",
        "samples_per_pull",
        "arms_per_round",
        "curvature_examples",
        "split_mb",
        "reserve_examples",
        "threads",
        "max_windows",
        "max_batch_tokens",
        "embedder_dim",
        "embedder_max_tokens",
    ):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if not 0 < options.max_cluster_share <= 1:
        raise UsageError(f"--max_cluster_share must lie in (0, 1], got {options.max_cluster_share}")
    if not 0 < options.damping < float("inf"):
        raise UsageError(f"--damping must be positive, got {options.damping}")
    if options.context_length is not None and options.context_length < 2:
        raise UsageError(
            f"--context_length must be at least 2, got {options.context_length}: the first token is never predicted"
        )
    if options.accelerator is not None and options.device == "cpu":
        raise UsageError("--accelerator is for models on a GPU; pass --device=cuda with it")
    if options.scoring == "two_forwards" and (why := why_exact(options)):
        raise UsageError(f"--scoring=two_forwards cannot be: {why} Pass --scoring=auto.")
    blocks = options.blocks_per_cluster
    if blocks < 1 or blocks & (blocks - 1):
        raise UsageError(f"--blocks_per_cluster must be a power of 2, got {blocks}")
