"""Checks by the launcher before anything is written: the corpus, the query set and the models."""

import dataclasses
import functools
import itertools
import re
from typing import Any, NamedTuple

import torch

from beam_quad.answers import ChatTemplate
from beam_quad.artifacts import files
from beam_quad.artifacts.cache import cached_proxy
from beam_quad.corpus.finding import finder_of
from beam_quad.corpus.joining import Joins
from beam_quad.corpus.kept import KeptSummaries
from beam_quad.corpus.parts import written_names
from beam_quad.corpus.seen import SeenFiles
from beam_quad.corpus.splits import InputPlan, plan_input
from beam_quad.embedding import (
    AnyEmbedderSpec,
    EmbedderSpec,
    JvpSpec,
    StaticSpec,
    embedder_costs,
    embedder_fingerprint,
)
from beam_quad.embedding.jvp_costs import first_blocks
from beam_quad.embedding.sources import is_static, locate
from beam_quad.embedding.spec import JVP_DIM, STATIC_TOKENS, static_source
from beam_quad.errors import UsageError
from beam_quad.gradients.checkpoints import OUTPUT_TOKENIZER
from beam_quad.gradients.proxy import (
    ProxySpec,
    content_fingerprint,
    default_context_length,
    load_proxy,
    load_skeleton,
    load_tokenizer,
    require_tokens,
)
from beam_quad.gradients.tracked import find_blocks
from beam_quad.gradients.windows import TokenEncoder, without_loss
from beam_quad.selection.shares import Bound
from beam_quad.stages.read.distil import DistilTokens
from pipelines import refresh
from pipelines.columns import corpus_columns, query_columns
from pipelines.decontaminate import LeakItems, read_items
from pipelines.exclude import ExcludedIds, read_excluded
from pipelines.parsing import default_dtype
from pipelines.query import QueryCounts, WithoutLoss, count_texts, flag_of, plan_query
from pipelines.run_options import RunOptions
from pipelines.shares import check_columns, read_shares

# Examples of the names that stages give artifacts, relative to --artifacts.
_ARTIFACTS = ("rows/0/a.parquet", "corpus/0/totals.json", "corpus/0/plan.json.gz")

# Flags that --embedder=jvp refuses, and the proxy's flags that it obeys in their place.
_PROXY_FLAGS = {
    "embedder_dtype": "dtype",
    "embedder_max_tokens": "context_length",
    "embedder_revision": "proxy_revision",
}


class OutputTokenizer(NamedTuple):
    """A tokenizer of a trainer.

    Attributes:
      name: A folder, or a hub id.
      revision: The commit of a hub id.
      fingerprint: Its content.
    """

    name: str
    revision: str | None
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The inputs, checked by the launcher before anything is written.

    Attributes:
      corpus: The plan of the corpus.
      query: The plan of each query group's files.
      query_counts: Number of usable texts of each query group.
      proxy: The proxy model, or None; a hub id is resolved to a commit.
      proxy_fingerprint: Its content.
      skeleton: The proxy's model without weights, or None if no text passes through it.
      embedder: The embedder, or None if nothing is embedded.
      embedder_fingerprint: Its content.
      seen: Records of the corpus's files by content.
      template: The proxy's chat template; None if it has none, or no conversations are read.
      context_length: Tokens of the proxy's window, which limits the length of answers; None if the corpus has no answers.
      base: The selection to go on from, or None.
      excluded: The ids of `--exclude`; None without the flag.
      leaks: The forbidden texts, which no selected document may contain; None if there are none.
      output_tokenizer: Tokenizer of the output, a hub id with its commit; None if no tokens are written.
      planned: Records of the corpus's files and joins for later runs, by path.
      bounds: The bounds of `--share` and `--share_by`.
    """

    corpus: InputPlan
    query: dict[str, InputPlan]
    query_counts: dict[str, QueryCounts]
    proxy: ProxySpec | None
    proxy_fingerprint: str
    skeleton: Any
    embedder: AnyEmbedderSpec | None
    embedder_fingerprint: str
    seen: SeenFiles
    template: ChatTemplate | None = None
    context_length: int | None = None
    base: refresh.Found | None = None
    excluded: ExcludedIds | None = None
    leaks: LeakItems | None = None
    output_tokenizer: OutputTokenizer | None = None
    planned: dict[str, bytes] = dataclasses.field(default_factory=dict)
    bounds: tuple[Bound, ...] = ()

    @property
    def unwritten(self) -> dict[str, bytes]:
        """Files of planning to write before the job starts, by path."""
        found = self.seen.unwritten | self.planned
        for listed in (self.excluded, self.leaks):
            found = found | (listed.unwritten if listed is not None else {})
        return found


def look(options: RunOptions) -> Inputs:
    """Checks the input, the query set and the models; the proxy without its weights, see `try_proxy`.

    Raises:
      UsageError: With one line, if anything is missing or unusable.
    """
    _check_apart(options)
    found = refresh.read(options)
    excluded = read_excluded(options)
    bounds = read_shares(options)
    read = dataclasses.replace(corpus_columns(options), score=options.ranking_column)
    names = list(dict.fromkeys([*read.names, *(bound.condition.column for bound in bounds)]))
    seen = SeenFiles(files.join(options.artifacts_root, "corpus", "seen"), names)
    kept = KeptSummaries(files.join(options.artifacts_root, "corpus", "summaries"), read)
    joins = Joins(
        files.join(options.artifacts_root, "corpus", "joins"),
        found.selection.splits().values() if found else (),
    )
    corpus = plan_input(
        options.input,
        input_root=options.input_root,
        text_column=options.text_column,
        prompt_column=options.prompt_column,
        messages_column=options.messages_column,
        id_column=options.id_column,
        tokens_column=options.tokens_column,
        score_column=options.ranking_column,
        columns=[name.strip() for name in (options.columns or "").split(",") if name.strip()],
        split_bytes=options.split_mb << 20,
        reject_bad_files=options.on_bad_file == "reject",
        version_of=seen.version,
        kept=kept,
        joins=joins,
    )
    if corpus.num_rows_exact and corpus.num_rows == 0:
        raise UsageError(f"the corpus {', '.join(options.input)} has no rows; check --input")
    # The schema lacks columns unless they are carried.
    if not options.columns:
        check_columns(bounds, corpus)
    query = plan_query(options) if options.needs_query else {}
    proxy, proxy_fingerprint = _proxy(options), ""
    skeleton: Any = None
    tokenizer: Any = None
    template: ChatTemplate | None = None
    context_length: int | None = None
    if proxy is not None:
        proxy_fingerprint = content_fingerprint(proxy.path, proxy.revision)
        # Workers load the commit that was checked here, even if the branch has moved on.
        proxy = dataclasses.replace(proxy, revision=_commit(proxy_fingerprint))
        tokenizer = load_tokenizer(proxy.path, proxy.revision)
        if options.needs_proxy or (options.needs_embeddings and options.embedder == "jvp"):
            skeleton = load_skeleton(proxy)
            require_tokens(tokenizer, skeleton, proxy)
        if options.needs_influence:
            find_blocks(skeleton, options.layers)
        if options.messages_column or query_columns(options).messages:
            template = ChatTemplate.of(tokenizer)
        if read.has_answers:
            config = (skeleton or load_skeleton(proxy)).config
            context_length = default_context_length(config, proxy)
    # Without a loss no text is too short.
    counts_losses: WithoutLoss | None = None
    if proxy is not None and options.needs_proxy and options.needs_query:
        counts_losses = functools.partial(
            without_loss, tokenizer, context_length=default_context_length(skeleton.config, proxy)
        )
    counts = {
        name: count_texts(name, plan, options, query_columns(options, template), counts_losses)
        for name, plan in query.items()
    }
    leaks = read_items(options, query, query_columns(options, template))
    embedder, embedder_print = _embedder(options, proxy, proxy_fingerprint, skeleton)
    if found is not None:
        contents = {
            "proxy": proxy_fingerprint,
            "embedder": embedder_print,
            "query": {name: plan.snapshot for name, plan in query.items()},
        }
        refresh.check_contents(found, contents)
        refresh.check_splits(found, corpus)
    return Inputs(
        corpus,
        query,
        counts,
        proxy,
        proxy_fingerprint,
        skeleton,
        embedder,
        embedder_print,
        seen,
        template,
        context_length,
        found,
        excluded,
        leaks,
        _output_tokenizer(options),
        kept.unwritten | joins.unwritten,
        bounds,
    )


def _check_apart(options: RunOptions) -> None:
    """Refuses to write files if the next run of the same command would read them as input."""
    places = (
        ("--output", options.output, written_names(options.output_format)),
        ("--artifacts", options.artifacts_root, _ARTIFACTS),
    )
    asked = {"--input": options.input}
    for flag in ("exclude", "decontaminate"):
        if globs := getattr(options, flag):
            asked[f"--{flag}"] = globs
    if options.needs_query:
        asked |= {flag_of(name): globs for name, globs in options.query.items()}
    for (flag, folder, names), (by, globs) in itertools.product(places, asked.items()):
        if (pattern := finder_of(globs, folder, names)) is not None:
            raise UsageError(
                f"{flag}={folder} is where {by}={pattern} would read it; pass another folder for one of them"
            )


def try_proxy(inputs: Inputs, keep: bool) -> None:
    """Loads the proxy, if texts pass through it, and tries it on a few tokens.

    Only this reveals whether a model sees the tokens it should predict. If other processes do the work, the model is loaded
    just for this check and dropped; otherwise a worker would refuse it only after files are written.

    Args:
      inputs: The inputs found by `look`.
      keep: Whether this process keeps the model, because it also does the work.

    Raises:
      UsageError: If the model is unusable; see `load_proxy`.
    """
    if inputs.proxy is None or inputs.skeleton is None:
        return
    if keep:
        cached_proxy(inputs.proxy)
        return
    load_proxy(inputs.proxy)
    # Releases torch's cached memory in this process, because the workers need it.
    torch.cuda.empty_cache()


def _commit(fingerprint: str) -> str | None:
    """The commit of a hub id; None for a folder."""
    found = re.search(r"hub:[^@]*@(\w+)", fingerprint)
    return found[1] if found else None


def _output_tokenizer(options: RunOptions) -> OutputTokenizer | None:
    """Checks the tokenizer of the output, if tokens are written."""
    if options.output_format != "megatron":
        return None
    name, revision = options.output_tokenizer, None
    if name is None:
        name, revision = str(options.proxy_model), options.proxy_revision
    TokenEncoder(load_tokenizer(name, revision, OUTPUT_TOKENIZER), name)
    fingerprint = content_fingerprint(name, revision)
    return OutputTokenizer(name, _commit(fingerprint), fingerprint)


def _proxy(options: RunOptions) -> ProxySpec | None:
    if options.proxy_model is None:
        return None
    return ProxySpec(
        path=options.proxy_model,
        revision=options.proxy_revision,
        device=options.device,
        dtype=options.dtype,
        num_threads=options.threads,
        context_length=options.context_length,
        max_windows=options.max_windows,
        max_batch_tokens=options.max_batch_tokens,
    )


def _embedder(
    options: RunOptions, proxy: ProxySpec | None, proxy_fingerprint: str, skeleton: Any
) -> tuple[AnyEmbedderSpec | None, str]:
    """Checks the embedder; returns it, with the commit of a hub id, and its content."""
    if not options.needs_embeddings:
        return None, ""
    if options.embedder == "jvp":
        products = _jvp(options, proxy, skeleton)
        return products, embedder_fingerprint(products, proxy_fingerprint)
    if (source := static_source(options.embedder)) is not None:
        return _static(options, source)
    encoder = _encoder(options)
    fingerprint = embedder_fingerprint(encoder)
    encoder = dataclasses.replace(encoder, revision=_commit(fingerprint))
    embedder_costs(encoder)
    return encoder, fingerprint


def _encoder(options: RunOptions) -> EmbedderSpec:
    is_hashing = options.embedder == "hashing"
    for flag in ("embedder_prompt", "embedder_dtype"):
        if is_hashing and getattr(options, flag) is not None:
            raise UsageError(
                f"--{flag} is for sentence encoders, and --embedder=hashing counts words; leave it out"
            )
    device = "cpu" if is_hashing else options.device
    return EmbedderSpec(
        name=options.embedder,
        revision=options.embedder_revision,
        device=device,
        num_threads=options.threads,
        dim=options.embedder_dim,
        max_tokens=options.embedder_max_tokens,
        prompt=options.embedder_prompt,
        dtype=options.embedder_dtype or default_dtype(device),
    )


def _static(options: RunOptions, source: str) -> tuple[StaticSpec, str]:
    if options.embedder_prompt is not None:
        raise UsageError(
            "--embedder_prompt is for sentence encoders, and --embedder=static averages tokens; leave it out"
        )
    encoder = EmbedderSpec(
        name=source,
        revision=options.embedder_revision,
        device=options.device,
        num_threads=options.threads,
        dtype=options.embedder_dtype or default_dtype(options.device),
    )
    spec = StaticSpec(
        encoder, dim=options.embedder_dim, max_tokens=options.embedder_max_tokens or STATIC_TOKENS
    )
    fingerprint = embedder_fingerprint(spec)
    spec = dataclasses.replace(
        spec, encoder=dataclasses.replace(encoder, revision=_commit(fingerprint))
    )
    embedder_costs(spec)
    if not is_static(locate(spec.encoder)):
        stage = DistilTokens(options.artifacts_root, spec, fingerprint)
        spec = dataclasses.replace(spec, table=stage.artifact)
    return spec, fingerprint


def _jvp(options: RunOptions, proxy: ProxySpec | None, skeleton: Any) -> JvpSpec:
    if proxy is None:
        raise UsageError(
            "--embedder=jvp passes texts through the proxy's first blocks: "
            "pass --proxy_model, a folder or hub id, or take another --embedder"
        )
    for flag, instead in _PROXY_FLAGS.items():
        if getattr(options, flag) is not None:
            raise UsageError(
                f"--{flag} is not for --embedder=jvp, which reads one window with the proxy: pass --{instead}"
            )
    if options.embedder_prompt is not None:
        raise UsageError(
            "--embedder_prompt is for sentence encoders, not --embedder=jvp; leave it out"
        )
    first_blocks(skeleton, options.jvp_blocks)
    return JvpSpec(
        proxy,
        num_blocks=options.jvp_blocks,
        num_tangents=options.jvp_tangents,
        dim=options.embedder_dim or JVP_DIM,
        seed=options.seed,
    )
