"""`--plan`: what a run would read, do, shuffle and store, printed before anything is started; what pipelines share."""

import dataclasses
import itertools
import os
from typing import Any

from beam_quad.corpus.batches import Columns, RowBatch
from beam_quad.corpus.rows import read_rows
from beam_quad.corpus.splits import InputPlan
from beam_quad.embedding import AnyEmbedderSpec, EmbedderSpec, embedder_costs
from beam_quad.gradients.proxy import ProxySpec, default_context_length, load_tokenizer
from beam_quad.gradients.tracked import find_blocks
from beam_quad.gradients.windows import tokenize
from beam_quad.records import Budget
from beam_quad.report.cost import CostPlan, Workload
from beam_quad.report.devices import Device
from beam_quad.report.formatting import size
from beam_quad.scoring import ScoringCosts
from beam_quad.scoring.query import NUM_PARTS
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.texts import NUM_GROUPS
from pipelines.builder import Chain
from pipelines.inputs import Inputs
from pipelines.run_options import RunOptions

# What a refresh finds made, by the names in the tables of costs.
_FITTED = ("fit centers", "curvature", "landmarks", "fit")
_SAMPLED_SPLITS = 8
_SAMPLED_ROWS = 128


def describe_input(inputs: Inputs, chain: Chain, policy: str) -> list[str]:
    """Says in a few lines what would be read, by which policy, in which stages."""
    plan = inputs.corpus
    exact = "" if plan.num_rows_exact else "about "
    return [
        f"input     {exact}{plan.num_rows:,} rows in {plan.num_shards:,} files, {len(plan.splits):,} splits",
        *_about_base(inputs),
        *(
            f"query     {name}: {p.num_rows:,} rows in {p.num_shards:,} files"
            for name, p in inputs.query.items()
        ),
        *([f"exclude   {inputs.excluded.num_ids:,} ids"] if inputs.excluded else []),
        f"policy    {policy}",
        f"stages    {', '.join(stage.name for stage in chain.stages)}",
    ]


def new_part(inputs: Inputs) -> InputPlan:
    """The part of the corpus that the base did not have, which is all of it without a base; rows may be estimated."""
    plan, base = inputs.corpus, inputs.base
    if base is None:
        return plan
    splits = tuple(split for split in plan.splits if not base.selection.has(split))
    size_bytes = sum(split.size_bytes for split in splits)
    rows = round(plan.num_rows * size_bytes / max(1, plan.size_bytes))
    if all(split.num_rows >= 0 for split in splits):
        rows = sum(split.num_rows for split in splits)
    return dataclasses.replace(
        plan, splits=splits, num_rows=rows, size_bytes=size_bytes, num_shards=len(splits)
    )


def without_fitted(costs: CostPlan, inputs: Inputs, options: RunOptions) -> CostPlan:
    """Leaves out what a refresh finds made."""
    if inputs.base is None or options.refit:
        return costs
    stages = tuple(stage for stage in costs.stages if stage.name not in _FITTED)
    return dataclasses.replace(costs, stages=stages)


def _about_base(inputs: Inputs) -> list[str]:
    base = inputs.base
    if base is None:
        return []
    plan, new = inputs.corpus, new_part(inputs)
    selected = base.manifest["tokens"]["selected"]
    return [
        f"base      {base.selection.output}: {selected:,} tokens selected",
        f"new       {len(new.splits):,} of {len(plan.splits):,} splits, about {new.num_rows:,} rows, "
        f"{size(new.size_bytes)}: only they are read, embedded and scored, for their share of the budget",
    ]


def device(options: RunOptions, dtype: str) -> Device:
    """Says what models are assumed to run on, at the rate of a dtype."""
    return Device.cpu(options.threads) if options.device == "cpu" else Device.hopper(dtype)


@dataclasses.dataclass(frozen=True)
class Models:
    """The models of a run that scores by influence.

    Attributes:
      proxy: The proxy model.
      skeleton: It, without its weights.
      embedder: The embedder.
    """

    proxy: ProxySpec
    skeleton: Any
    embedder: AnyEmbedderSpec

    @classmethod
    def of(cls, inputs: Inputs) -> "Models | None":
        """Reads the proxy's shapes; None where there is no proxy or nothing is embedded."""
        if inputs.proxy is None or inputs.skeleton is None or inputs.embedder is None:
            return None
        return cls(inputs.proxy, inputs.skeleton, inputs.embedder)


def shared_workload(
    options: RunOptions,
    inputs: Inputs,
    chain: Chain,
    budget: Budget,
    models: Models,
) -> Workload:
    """Measures what any pipeline's plan is computed from.

    Args:
      options: The flags.
      inputs: What was found.
      chain: The stages.
      budget: How much to select.
      models: The models.
    """
    proxy, embedder, skeleton = models.proxy, models.embedder, models.skeleton
    corpus = new_part(inputs)
    documents = max(1, corpus.num_rows)
    if inputs.base is not None:
        # As much of the budget as is new of the corpus: what was scored before is not scored again.
        share = documents / max(1, inputs.corpus.num_rows)
        budget = dataclasses.replace(budget, amount=max(1, round(share * budget.amount)))
    columns = Columns(options.text_column, None, options.tokens_column)
    tokenizer = load_tokenizer(proxy.path, proxy.revision)
    query_columns = Columns(options.query_text_column or options.text_column)
    query_tokens = sum(
        plan.num_rows * mean_tokens(plan, query_columns, tokenizer)
        for plan in inputs.query.values()
    )
    scoring = ScoringCosts.of(skeleton, find_blocks(skeleton, options.layers))
    context_length = default_context_length(skeleton.config, proxy)
    tokens_per_document = mean_tokens(inputs.corpus, columns, tokenizer)
    embedding = embedder_costs(embedder)
    return Workload(
        documents=documents,
        tokens=int(documents * tokens_per_document),
        input_bytes=corpus.size_bytes,
        budget=budget,
        reserve_examples=round(_reserve_rate(chain) * documents),
        scoring=scoring,
        context_length=context_length,
        max_windows=options.max_windows,
        curvature=options.curvature,
        embedding_dim=embedding.dim,
        embedder_flops=embedding.flops(tokens_per_document),
        embeds_in_float32=isinstance(embedder, EmbedderSpec) and embedder.dtype == "float32",
        curvature_examples=min(options.curvature_examples, documents),
        factor_bytes=_factor_bytes(options.curvature, scoring),
        query_tokens=int(query_tokens),
        num_query_vectors=len(inputs.query),
        vector_bytes=_vector_bytes(inputs, scoring),
        cores=os.cpu_count() or 1,
    )


def _reserve_rate(chain: Chain) -> float:
    """The share of texts to set aside."""
    return next(
        stage.corpus.reserve_rate for stage in chain.stages if isinstance(stage, EmbedExamples)
    )


def _factor_bytes(kind: str, scoring: ScoringCosts) -> int:
    """Adds up the factors that stay in files: every partial sum is as large as the whole."""
    if kind == "identity":
        return 0
    # The sum of the covariances is decomposed where it is made, that of the eigenvalues is kept.
    eigenvalues = (NUM_GROUPS + 1) * scoring.eigenvalue_bytes if kind == "ekfac" else 0
    return NUM_GROUPS * scoring.covariance_bytes + scoring.eigenbasis_bytes + eigenvalues


def _vector_bytes(inputs: Inputs, scoring: ScoringCosts) -> int:
    """Adds up the partial gradients of each query group, its vector, and those of its halves."""
    gradients = sum(2 * min(NUM_PARTS, len(plan.splits)) for plan in inputs.query.values())
    return (gradients + 3 * len(inputs.query)) * scoring.vector_bytes


def mean_tokens(plan: InputPlan, columns: Columns, tokenizer: object) -> float:
    """Estimates the tokens of a text from a few rows of a few splits."""
    step = max(1, len(plan.splits) // _SAMPLED_SPLITS)
    counts: list[int] = []
    for split in plan.splits[::step][:_SAMPLED_SPLITS]:
        for batch in itertools.islice(read_rows(split, columns, _SAMPLED_ROWS), 1):
            counts += _counts(batch, tokenizer)
    return sum(counts) / max(1, len(counts))


def _counts(batch: RowBatch, tokenizer: object) -> list[int]:
    if batch.tokens is not None:
        return [int(count) for count in batch.tokens if count >= 0]
    texts = [text for text in batch.texts if text is not None]
    return [len(ids) for ids in tokenize(tokenizer, texts)]
