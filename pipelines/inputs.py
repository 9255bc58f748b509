"""What a launcher looks at before anything is written: the corpus, the query set and the models."""

import dataclasses
import itertools
from typing import Any

from beam_quad.embedding import AnyEmbedderSpec, EmbedderSpec, JvpSpec, embedder_fingerprint
from beam_quad.embedding.jvp_costs import first_blocks
from beam_quad.embedding.spec import JVP_DIM
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import ProxySpec, content_fingerprint, load_skeleton, load_tokenizer
from beam_quad.gradients.tracked import find_blocks
from beam_quad.io import files
from beam_quad.io.finding import finder_of
from beam_quad.io.output import WEIGHT, written_names
from beam_quad.io.seen import SeenFiles
from beam_quad.io.splits import InputPlan, plan_input
from pipelines.query import QueryCounts, count_texts, flag_of, plan_query
from pipelines.run_options import RunOptions

# Names of artifacts as stages give them, relative to --artifacts.
_ARTIFACTS = ("rows/0/a.parquet", "corpus/0/totals.json", "corpus/0/plan.json.gz")

# Of --embedder=jvp the proxy's own flags say these.
_PROXY_FLAGS = {
    "embedder_max_tokens": "context_length",
    "embedder_revision": "proxy_revision",
}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the launcher has looked at and found good, before anything is written.

    Attributes:
      corpus: The plan of the corpus.
      query: The plan of each query group's files.
      query_counts: How many texts of each can be used.
      proxy: The proxy model, or None.
      proxy_fingerprint: Its content.
      embedder: The embedder, or None where nothing is embedded.
      embedder_fingerprint: Its content.
      seen: What is known of the corpus's files by their content.
    """

    corpus: InputPlan
    query: dict[str, InputPlan]
    query_counts: dict[str, QueryCounts]
    proxy: ProxySpec | None
    proxy_fingerprint: str
    embedder: AnyEmbedderSpec | None
    embedder_fingerprint: str
    seen: SeenFiles


def look(options: RunOptions) -> Inputs:
    """Looks at the input, the query set and the models.

    Raises:
      UsageError: One line, if anything is missing or cannot be used.
    """
    _check_apart(options)
    seen = SeenFiles(files.join(options.artifacts_root, "corpus", "seen"))
    corpus = plan_input(
        options.input,
        input_root=options.input_root,
        text_column=options.text_column,
        id_column=options.id_column,
        tokens_column=options.tokens_column,
        split_bytes=options.split_mb << 20,
        reject_bad_files=options.on_bad_file == "reject",
        version_of=seen.version,
    )
    if corpus.num_rows_exact and corpus.num_rows == 0:
        raise UsageError(f"the corpus {', '.join(options.input)} has no rows; check --input")
    if options.weighted and WEIGHT in corpus.schema.names:
        raise UsageError(
            f"the input has a column {WEIGHT!r}, the name of the one that --weighted adds; rename it"
        )
    query = plan_query(options) if options.needs_query else {}
    proxy, proxy_fingerprint = _proxy(options), ""
    skeleton = None
    if proxy is not None:
        proxy_fingerprint = content_fingerprint(proxy.path, proxy.revision)
        if options.needs_proxy or (options.needs_embeddings and options.embedder == "jvp"):
            skeleton = load_skeleton(proxy)
        if options.needs_proxy and options.needs_query:
            find_blocks(skeleton, options.layers)
    # Where no loss is computed, no text is too short for one.
    has_loss = proxy is not None and options.needs_proxy and options.needs_query
    tokenizer = load_tokenizer(proxy.path, proxy.revision) if proxy and has_loss else None
    counts = {name: count_texts(name, plan, options, tokenizer) for name, plan in query.items()}
    embedder, embedder_print = None, ""
    if options.needs_embeddings:
        is_jvp = options.embedder == "jvp"
        embedder = _jvp(options, proxy, skeleton) if is_jvp else _encoder(options)
        embedder_print = embedder_fingerprint(embedder, proxy_fingerprint)
    return Inputs(corpus, query, counts, proxy, proxy_fingerprint, embedder, embedder_print, seen)


def _check_apart(options: RunOptions) -> None:
    """Refuses to write where the next run of the same command would read."""
    places = (
        ("--output", options.output, written_names(options.output_format)),
        ("--artifacts", options.artifacts_root, _ARTIFACTS),
    )
    asked = {"--input": options.input}
    if options.needs_query:
        asked |= {flag_of(name): globs for name, globs in options.query.items()}
    for (flag, folder, names), (by, globs) in itertools.product(places, asked.items()):
        if (pattern := finder_of(globs, folder, names)) is not None:
            raise UsageError(
                f"{flag}={folder} lies where {by}={pattern} would read it; pass another folder for one of them"
            )


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


def _encoder(options: RunOptions) -> EmbedderSpec:
    return EmbedderSpec(
        name=options.embedder,
        revision=options.embedder_revision,
        device="cpu" if options.embedder == "hashing" else options.device,
        num_threads=options.threads,
        dim=options.embedder_dim,
        max_tokens=options.embedder_max_tokens,
    )


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
    first_blocks(skeleton, options.jvp_blocks)
    return JvpSpec(
        proxy,
        num_blocks=options.jvp_blocks,
        num_tangents=options.jvp_tangents,
        dim=options.embedder_dim or JVP_DIM,
        seed=options.seed,
    )
