"""`--plan`: the estimated reading, work, shuffles and storage of a run; shared by all pipelines."""

import dataclasses
import itertools
import os
from collections.abc import Iterable
from typing import Any

from beam_quad.artifacts import files
from beam_quad.corpus import formats
from beam_quad.corpus.batches import Columns, RowBatch
from beam_quad.corpus.joining import parts_of
from beam_quad.corpus.rows import read_rows
from beam_quad.corpus.splits import InputPlan
from beam_quad.embedding import AnyEmbedderSpec, EmbedderSpec, embedder_costs
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import ProxySpec, default_context_length, load_tokenizer
from beam_quad.gradients.tracked import find_blocks
from beam_quad.gradients.windows import tokenize
from beam_quad.plan import cost, near_duplicates
from beam_quad.plan.cost import CostPlan, Machines, Workload
from beam_quad.plan.devices import HOPPER, Device, chip_named
from beam_quad.plan.prices import LIST_PRICES, Prices
from beam_quad.records import Budget
from beam_quad.report.formatting import size
from beam_quad.scoring import ScoringCosts
from beam_quad.scoring.query import NUM_PARTS
from beam_quad.selection.paraphrases import MOST_ITEMS
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.texts import NUM_GROUPS
from pipelines.builder import Chain
from pipelines.columns import corpus_columns, query_columns
from pipelines.inputs import Inputs
from pipelines.run_options import RunOptions

# Passes over the rows of old and new files.
_COMPARED = ("CompareWithBase", "MeasureDrift", "MeasureReference")
_SAMPLED_SPLITS = 8
_SAMPLED_ROWS = 128


def describe_input(inputs: Inputs, chain: Chain, policy: str) -> list[str]:
    """Describes in a few lines the input, the policy and the stages."""
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
        *([f"leaks     {inputs.leaks.line()}"] if inputs.leaks else []),
        f"policy    {policy}",
        f"stages    {', '.join(stage.name for stage in chain.stages)}",
    ]


def new_part(inputs: Inputs) -> InputPlan:
    """Returns the part of the corpus that the base did not have, all of it without a base; rows may be estimated."""
    plan, base = inputs.corpus, inputs.base
    if base is None:
        return plan
    splits = tuple(split for split in plan.splits if not base.selection.has(split))
    size_bytes = sum(split.size_bytes for split in splits)
    rows = round(plan.num_rows * size_bytes / max(1, plan.size_bytes))
    num_shards = len({part.shard for split in splits for part in parts_of(split)})
    if all(split.num_rows >= 0 for split in splits):
        rows = sum(split.num_rows for split in splits)
    return dataclasses.replace(
        plan, splits=splits, num_rows=rows, size_bytes=size_bytes, num_shards=num_shards
    )


def table(costs: CostPlan, chain: Chain) -> str:
    """Formats the cost of a chain as a table, without finished stages."""
    names = [stage.name for stage in chain.stages]
    left = {stage.name for stage in chain.stages if not files.exists(stage.artifact)}
    return cost.format_plan(costs.without_made(names, set(names) - left))


def refreshed(costs: CostPlan, inputs: Inputs) -> CostPlan:
    """Adds the cost of a refresh's comparisons with its base."""
    if inputs.base is None:
        return costs
    documents, splits = inputs.corpus.num_rows, len(inputs.corpus.splits)
    compared = cost.passes_stage("compare", _COMPARED, len(_COMPARED), documents, splits)
    *stages, written = costs.stages
    return dataclasses.replace(
        costs, stages=(*stages, costs.machines.price(compared, splits), written)
    )


def with_paraphrases(costs: CostPlan, workload: Workload, inputs: Inputs) -> CostPlan:
    """Adds the cost of comparing the selection with forbidden texts, if there are any and they are embedded."""
    if inputs.leaks is None or inputs.embedder is None:
        return costs
    num_items = min(MOST_ITEMS, sum(inputs.leaks.counts.values()))
    work = cost.paraphrases_stage(workload, num_items)
    *stages, written = costs.stages
    line = costs.machines.price(work, workload.splits)
    return dataclasses.replace(costs, stages=(*stages, line, written))


def with_shares(costs: CostPlan, workload: Workload, inputs: Inputs) -> CostPlan:
    """Adds the cost of reading which rows meet which share, if there are shares."""
    if not inputs.bounds:
        return costs
    line = costs.machines.price(cost.shares_stage(workload), workload.splits)
    first, *others = costs.stages
    return dataclasses.replace(costs, stages=(first, line, *others))


def with_near_duplicates(
    costs: CostPlan, workload: Workload, options: RunOptions, budgets: float = 1.0
) -> CostPlan:
    """Adds the cost of finding near-duplicates, if they are dropped; see `plan.near_duplicates`."""
    if options.near_duplicates == "keep":
        return costs
    return near_duplicates.with_near_duplicates(
        costs, workload, options.near_duplicate_threshold, budgets
    )


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
        "leaves    what leaves the selection is known only at the run; where new files do not make up for it, documents of old "
        "ones are read and scored too, which is not in this plan",
    ]


def device(options: RunOptions, dtype: str) -> Device:
    """Returns the assumed device of models, at the rate of a dtype: the requested accelerator, or an H100."""
    if options.device == "cpu":
        # The cores of a cluster's workers are unknown here, so those of this machine are assumed.
        return Device.cpu(options.threads or os.cpu_count() or 1)
    return Device.gpu(chip_named(options.accelerator or "") or HOPPER, dtype)


def machines(options: RunOptions) -> Machines:
    """Returns the assumed machines: one device, and the cores of this machine.

    Raises:
      UsageError: If there are no such prices.
    """
    cores = os.cpu_count() or 1
    own, float32 = (device(options, dtype) for dtype in (options.dtype, "float32"))
    prices = LIST_PRICES if options.prices is None else read_prices(options.prices)
    return Machines(own, float32, cores, cores, prices=prices)


def read_prices(path: str) -> Prices:
    """Reads a file of prices.

    Raises:
      UsageError: If there is none, or it holds no prices.
    """
    if files.stat(path) is None:
        raise UsageError(f"--prices={path} is not there")
    try:
        return Prices.from_json(files.read_bytes(path).decode(errors="replace"))
    except (UsageError, IsADirectoryError) as error:
        raise UsageError(f"--prices={path}: {error}") from error


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
        """Reads the proxy's shapes; None if there is no proxy or nothing is embedded."""
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
      inputs: The checked inputs.
      chain: The stages.
      budget: How much to select.
      models: The models.
    """
    proxy, embedder, skeleton = models.proxy, models.embedder, models.skeleton
    corpus = new_part(inputs)
    documents = max(1, corpus.num_rows)
    if inputs.base is not None:
        # The budget is scaled by the new share of the corpus, because old examples are not scored again.
        share = documents / max(1, inputs.corpus.num_rows)
        budget = dataclasses.replace(budget, amount=max(1, round(share * budget.amount)))
    columns = corpus_columns(options, inputs.template)
    tokenizer = load_tokenizer(proxy.path, proxy.revision)
    query_tokens = sum(
        plan.num_rows
        * text_lengths(plan, query_columns(options, inputs.template), tokenizer).tokens
        for plan in inputs.query.values()
    )
    scoring = ScoringCosts.of(skeleton, find_blocks(skeleton, options.layers))
    context_length = default_context_length(skeleton.config, proxy)
    lengths = text_lengths(inputs.corpus, columns, tokenizer)
    embedding = embedder_costs(embedder)
    is_hashing = isinstance(embedder, EmbedderSpec) and embedder.name == "hashing"
    return Workload(
        documents=documents,
        tokens=int(documents * lengths.tokens),
        input_bytes=corpus.size_bytes,
        text_bytes=round(documents * lengths.text_bytes),
        splits=len(corpus.splits),
        budget=budget,
        reserve_examples=round(_reserve_rate(chain) * documents),
        scoring=scoring,
        context_length=context_length,
        max_windows=options.max_windows,
        curvature=options.curvature,
        embedding_dim=embedding.dim,
        embedder_flops=embedding.flops(lengths.tokens),
        embedder_tokens=0.0 if is_hashing else embedding.read_tokens(lengths.tokens),
        counts_tokens=options.tokens_column is None,
        embeds_in_float32=isinstance(embedder, EmbedderSpec) and embedder.dtype == "float32",
        curvature_examples=min(options.curvature_examples, documents),
        factor_bytes=factor_bytes(options.curvature, scoring),
        query_tokens=int(query_tokens),
        num_query_vectors=len(inputs.query),
        vector_bytes=vector_bytes([len(p.splits) for p in inputs.query.values()], scoring),
    )


def _reserve_rate(chain: Chain) -> float:
    """The share of texts to set aside."""
    return next(
        stage.corpus.reserve_rate for stage in chain.stages if isinstance(stage, EmbedExamples)
    )


def factor_bytes(kind: str, scoring: ScoringCosts) -> int:
    """Computes the stored bytes of factors; every partial sum is as large as the total."""
    if kind == "identity":
        return 0
    # The sum of covariances is decomposed in memory, while the sum of eigenvalues is stored.
    eigenvalues = (NUM_GROUPS + 1) * scoring.eigenvalue_bytes if kind == "ekfac" else 0
    return NUM_GROUPS * scoring.covariance_bytes + scoring.eigenbasis_bytes + eigenvalues


def vector_bytes(splits: Iterable[int], scoring: ScoringCosts) -> int:
    """Adds up the partial gradients of each query group, its vector, and those of its halves.

    Args:
      splits: In how many pieces each query group is read.
      scoring: Costs of the proxy.
    """
    return sum(2 * min(NUM_PARTS, own) + 3 for own in splits) * scoring.vector_bytes


@dataclasses.dataclass(frozen=True)
class TextLengths:
    """The mean length of a text, estimated from a few rows of a few splits.

    Attributes:
      tokens: Its tokens.
      text_bytes: Its bytes.
    """

    tokens: float
    text_bytes: float


def text_lengths(plan: InputPlan, columns: Columns, tokenizer: object) -> TextLengths:
    """Estimates tokens and bytes of a text."""
    # Later parts of a large file are left out, because the launcher would have to skip the rows before them.
    splits = [s for s in plan.splits if s.first_row == 0 or not formats.is_jsonl(s.path)]
    step = max(1, len(splits) // _SAMPLED_SPLITS)
    counts: list[int] = []
    sizes: list[int] = []
    for split in splits[::step][:_SAMPLED_SPLITS]:
        for batch in itertools.islice(read_rows(split, columns, _SAMPLED_ROWS), 1):
            counts += _counts(batch, tokenizer)
            sizes += [
                len(text.encode(errors="replace")) for text in batch.texts if text is not None
            ]
    return TextLengths(sum(counts) / max(1, len(counts)), sum(sizes) / max(1, len(sizes)))


def _counts(batch: RowBatch, tokenizer: object) -> list[int]:
    if batch.tokens is not None:
        return [int(count) for count in batch.tokens if count >= 0]
    texts = [text for text in batch.texts if text is not None]
    return [len(ids) for ids in tokenize(tokenizer, texts)]
