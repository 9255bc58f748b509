"""`--plan`: what a run would read, do, shuffle and store, printed before anything is started."""

import itertools
import os

from beam_quad.bandit import default_samples_per_pull
from beam_quad.clustering import default_num_clusters
from beam_quad.embedding import AnyEmbedderSpec, EmbedderCosts, JvpSpec, embedder_costs
from beam_quad.embedding.jvp_costs import jvp_costs
from beam_quad.gradients.proxy import ProxySpec, load_skeleton, load_tokenizer
from beam_quad.gradients.tracked import find_blocks
from beam_quad.gradients.windows import tokenize
from beam_quad.io.batches import Columns, RowBatch
from beam_quad.io.rows import read_rows
from beam_quad.io.splits import InputPlan
from beam_quad.reporting.cost import Device, Workload, format_plan, plan_cost
from beam_quad.scoring import ScoringCosts
from beam_quad.scoring.calibration import why_not_two_forwards
from beam_quad.transforms.texts import NUM_GROUPS
from pipelines.builder import Chain
from pipelines.chain import reserve_rate
from pipelines.inputs import Inputs
from pipelines.options import QuadOptions, why_exact

_SAMPLED_SPLITS = 8
_SAMPLED_ROWS = 128
_DEFAULT_CONTEXT = 1024


def embedding_costs(spec: AnyEmbedderSpec, skeleton: object, context_length: int) -> EmbedderCosts:
    """Reads embedding's costs off the proxy's skeleton and its windows' length, or off an encoder, which is loaded."""
    if isinstance(spec, JvpSpec):
        return jvp_costs(skeleton, spec, context_length)
    return embedder_costs(spec)


def describe_input(inputs: Inputs, chain: Chain, policy: str) -> list[str]:
    """Says in a few lines what would be read, by which policy, in which stages."""
    plan = inputs.corpus
    exact = "" if plan.num_rows_exact else "about "
    return [
        f"input     {exact}{plan.num_rows:,} rows in {plan.num_shards:,} files, {len(plan.splits):,} splits",
        *(
            f"query     {name}: {p.num_rows:,} rows in {p.num_shards:,} files"
            for name, p in inputs.query.items()
        ),
        f"policy    {policy}",
        f"stages    {', '.join(task.name for task in chain.tasks)}",
    ]


def describe(options: QuadOptions, inputs: Inputs, chain: Chain) -> str:
    """Puts the plan of a run in words and a table.

    Args:
      options: The flags.
      inputs: What was found.
      chain: The stages.
    """
    policy = f"{options.policy}, {options.budget_tokens:,} tokens"
    lines = describe_input(inputs, chain, policy)
    if options.policy == "quad" and inputs.proxy is not None and inputs.embedder is not None:
        workload = _workload(options, inputs, inputs.proxy, inputs.embedder)
        cost = plan_cost(workload, _device(options, options.dtype), _device(options, "float32"))
        lines += ["", format_plan(cost)]
    return "\n".join(lines)


def _device(options: QuadOptions, dtype: str) -> Device:
    return Device.cpu(options.threads) if options.device == "cpu" else Device.hopper(dtype)


def _workload(
    options: QuadOptions, inputs: Inputs, proxy: ProxySpec, embedder: AnyEmbedderSpec
) -> Workload:
    documents = max(1, inputs.corpus.num_rows)
    num_clusters = options.num_clusters or default_num_clusters(documents)
    samples = options.samples_per_pull or default_samples_per_pull(documents, num_clusters)
    columns = Columns(options.text_column, None, options.tokens_column)
    tokenizer = load_tokenizer(proxy.path, proxy.revision)
    query_columns = Columns(options.query_text_column or options.text_column)
    query_tokens = sum(
        plan.num_rows * _mean_tokens(plan, query_columns, tokenizer)
        for plan in inputs.query.values()
    )
    model = load_skeleton(proxy)
    blocks = find_blocks(model, options.layers)
    scoring = ScoringCosts.of(model, blocks)
    num_pilot = None if options.scoring == "two_forwards" else num_clusters * samples
    positions = getattr(model.config, "max_position_embeddings", None) or _DEFAULT_CONTEXT
    context_length = options.context_length or min(positions, _DEFAULT_CONTEXT)
    mean_tokens = _mean_tokens(inputs.corpus, columns, tokenizer)
    embedding = embedding_costs(embedder, model, context_length)
    return Workload(
        documents=documents,
        tokens=int(documents * mean_tokens),
        input_bytes=inputs.corpus.size_bytes,
        budget_tokens=options.budget_tokens,
        num_clusters=num_clusters,
        num_rounds=options.num_rounds,
        samples_per_pull=samples,
        blocks_per_cluster=options.blocks_per_cluster,
        reserve_examples=round(reserve_rate(options, inputs.corpus) * documents),
        scoring=scoring,
        context_length=context_length,
        max_windows=options.max_windows,
        normalize=options.normalize,
        is_two_forwards=not (why_exact(options) or why_not_two_forwards(model, blocks, num_pilot)),
        curvature=options.curvature,
        embedding_dim=embedding.dim,
        embedder_flops=embedding.flops(mean_tokens),
        embeds_with_proxy=isinstance(embedder, JvpSpec),
        curvature_examples=min(options.curvature_examples, documents),
        factor_bytes=_factor_bytes(options.curvature, scoring),
        query_tokens=int(query_tokens),
        num_query_vectors=len(inputs.query),
        vector_bytes=_vector_bytes(inputs, scoring),
        cores=os.cpu_count() or 1,
    )


def _factor_bytes(kind: str, scoring: ScoringCosts) -> int:
    """Adds up the factors that stay in files: every partial sum is as large as the whole."""
    if kind == "identity":
        return 0
    sums = scoring.covariance_bytes + (scoring.eigenvalue_bytes if kind == "ekfac" else 0)
    return NUM_GROUPS * sums + scoring.eigenbasis_bytes


def _vector_bytes(inputs: Inputs, scoring: ScoringCosts) -> int:
    """Adds up the partial gradients of each query group, its vector, those of its halves, and their combination."""
    gradients = sum(2 * min(NUM_GROUPS, len(plan.splits)) for plan in inputs.query.values())
    vectors = 3 * len(inputs.query) + (1 if len(inputs.query) > 1 else 0)
    return (gradients + vectors) * scoring.vector_bytes


def _mean_tokens(plan: InputPlan, columns: Columns, tokenizer: object) -> float:
    step = max(1, len(plan.splits) // _SAMPLED_SPLITS)
    counts: list[int] = []
    for split in plan.splits[::step][:_SAMPLED_SPLITS]:
        for batch in itertools.islice(read_rows(split, plan.schema, columns, _SAMPLED_ROWS), 1):
            counts += _counts(batch, tokenizer)
    return sum(counts) / max(1, len(counts))


def _counts(batch: RowBatch, tokenizer: object) -> list[int]:
    if batch.tokens is not None:
        return [int(count) for count in batch.tokens if count >= 0]
    texts = [text for text in batch.texts if text is not None]
    return [len(ids) for ids in tokenize(tokenizer, texts)]
