"""`--plan`: the estimated time, work, shuffles, storage and price of a run, stage by stage; shared by all pipelines."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from beam_quad.artifacts import files
from beam_quad.corpus import formats
from beam_quad.corpus.batches import Columns, RowBatch
from beam_quad.corpus.rows import read_rows
from beam_quad.corpus.splits import InputPlan
from beam_quad.embedding import embedder_costs
from beam_quad.errors import BadFileError, UsageError
from beam_quad.gradients.attention import eager_attention
from beam_quad.gradients.proxy import default_context_length, load_tokenizer
from beam_quad.gradients.tracked import find_blocks
from beam_quad.gradients.windows import tokenize
from beam_quad.plan import cost
from beam_quad.plan.cost import CostPlan, Machines
from beam_quad.plan.devices import HOPPER, Device, chip_named
from beam_quad.plan.prices import LIST_PRICES, Prices
from beam_quad.plan.work import NO_EMBEDDER, NO_PROXY, Sizes, TextSizes
from beam_quad.records import Split
from beam_quad.report.formatting import compact, size
from beam_quad.scoring import ScoringCosts
from beam_quad.scoring.costs import TokenWork
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import expected_clusters
from beam_quad.stages.influence.score import ScoreExamples
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.splits import RowAlignedStage
from beam_quad.stages.read.text_stage import TextStage
from beam_quad.stages.write.selection import WriteSelection
from pipelines.builder import Chain
from pipelines.columns import corpus_columns, query_columns
from pipelines.inputs import Inputs
from pipelines.run_options import RunOptions

_SAMPLED_SPLITS = 8
_SAMPLED_ROWS = 128
# Without a tokenizer: bytes of a token of English under 32,000 to 128,000 tokens.
_BYTES_PER_TOKEN = 4
# The splits whose files are missing, by the number of their stage in the chain.
Missing = Mapping[int, Sequence[Split]]


def describe(options: RunOptions, inputs: Inputs, chain: Chain) -> str:
    """Describes the plan of a selection in words and a table."""
    plan, missing = inputs.corpus, missing_splits(inputs.corpus, chain)
    exact = "" if plan.num_rows_exact else "about "
    return "\n".join(
        [
            f"input     {exact}{plan.num_rows:,} rows in {plan.num_shards:,} files, {len(plan.splits):,} splits",
            *_about_base(inputs, chain, missing),
            *(
                f"query     {name}: {p.num_rows:,} rows in {p.num_shards:,} files"
                for name, p in inputs.query.items()
            ),
            *([f"exclude   {inputs.excluded.num_ids:,} ids"] if inputs.excluded else []),
            *([f"leaks     {inputs.leaks.line()}"] if inputs.leaks else []),
            f"policy    {options.described(plan.num_rows)}",
            f"stages    {', '.join(stage.name for stage in chain.stages)}",
            "",
            table(_price(options, inputs, chain, missing, machines_of(options)), chain),
        ]
    )


def price(
    options: RunOptions, inputs: Inputs, chain: Chain, machines: Machines | None = None
) -> CostPlan:
    """Estimates the cost of a run by stage.

    Args:
      options: The flags.
      inputs: The checked inputs.
      chain: The stages.
      machines: The machines of the run; by default those of the flags.
    """
    missing = missing_splits(inputs.corpus, chain)
    return _price(options, inputs, chain, missing, machines or machines_of(options))


def _price(
    options: RunOptions, inputs: Inputs, chain: Chain, missing: Missing, machines: Machines
) -> CostPlan:
    sizes = sizes_of(options, inputs, chain)
    costs = price_stages(sizes, inputs, chain, missing, machines)
    return dataclasses.replace(costs, notes=notes(chain, sizes, costs))


def price_stages(
    sizes: Sizes, inputs: Inputs, chain: Chain, missing: Missing, machines: Machines
) -> CostPlan:
    """Estimates the cost of every stage; one that writes a file per split makes only the files that are missing."""
    costs = []
    for number, stage in enumerate(chain.stages):
        own = sizes
        if number in missing:
            part = _part(inputs.corpus, sizes.corpus, missing[number])
            own = dataclasses.replace(sizes, missing=part)
        costs.append(machines.price(stage.name, stage.work(own), sizes.corpus.splits))
    return CostPlan(tuple(costs), machines)


def missing_splits(plan: InputPlan, chain: Chain) -> Missing:
    """Finds, for each stage that writes a file per split, the splits whose files are missing.

    Only the store can tell: some files outlive a crash, a new fit or another query set, others do not.
    """
    found: dict[int, Sequence[Split]] = {}
    stored: set[str] = set()
    for number, stage in enumerate(chain.stages):
        if not isinstance(stage, RowAlignedStage | TextStage | EmbedExamples):
            continue
        for prefix in stage.prefixes():
            stored.update(info.path for info in files.find(prefix))
        paths = [(split, stage.paths(split)) for split in plan.splits]
        found[number] = [split for split, own in paths if not stored.issuperset(own)]
        # The clusters of a part of the corpus are the same files as those of the whole, which is assigned first.
        stored.update(path for _, own in paths for path in own)
    return found


def table(costs: CostPlan, chain: Chain) -> str:
    """Formats the cost of a chain as a table; stages whose artifacts exist take nothing."""
    return cost.format_plan(left(costs, chain))


def left(costs: CostPlan, chain: Chain) -> CostPlan:
    """Takes off the stages of a chain whose artifacts exist."""
    is_made = files.in_parallel(files.exists, [stage.artifact for stage in chain.stages])
    return costs.without(list(is_made))


def notes(chain: Chain, sizes: Sizes, costs: CostPlan) -> tuple[str, ...]:
    """Describes the corpus and the budget, the work in passes over the corpus, and what would be cheaper."""
    texts, last = sizes.corpus, chain.stages[-1]
    if not isinstance(last, WriteSelection):
        return ()
    found = [
        f"corpus: {compact(texts.documents)} examples, {compact(texts.tokens)} tokens, {size(texts.stored_bytes)}; "
        f"budget: {compact(last.budget.amount)} {last.budget.unit}"
    ]
    forward, flops = texts.documents * sizes.forward_flops, costs.total.flops
    if forward and flops:
        words = f"selection: {flops:.1e} FLOPs in all, {flops / forward:.2g} x one forward pass of every example"
        if sizes.scoring.blocks:
            exact = texts.documents * sizes.exact_flops(max(1, len(sizes.query)))
            words += f", {flops / exact:.2g} x the exact influence of every example, which is {exact / forward:.2f} x a forward pass"
        found.append(words)
    lists = [s for s in chain.stages if isinstance(s, ScoreExamples) and s.among and not s.known]
    clusters = [s.centers for s in chain.stages if isinstance(s, AssignClusters)]
    if lists and clusters:
        found.append(_cheaper(lists[0], expected_clusters(clusters[0], sizes), sizes))
    return tuple(found)


def _cheaper(stage: ScoreExamples, num_clusters: int, sizes: Sizes) -> str:
    """Suggests settings that score fewer documents than this shortlist has."""
    listed = stage.work(sizes).documents
    # A bandit pulls every cluster at least once, and a pull scores 4 to 10 documents.
    if 8 * num_clusters >= listed:
        # With a budget that is small beside the corpus, a bandit would score no fewer.
        return "cheaper: lower --shortlist; or --policy=ngram scores no document by influence, and selects less well"
    return (
        f"cheaper: lower --shortlist, of {listed:,} documents; or --acceptance=block scores some {8 * num_clusters:,} "
        f"({sizes.exact_flops(len(stage.weights)):.1e} FLOPs each), and selects less well; --policy=ngram scores none"
    )


def _new_splits(inputs: Inputs) -> tuple[Split, ...]:
    """Returns the splits new since the base, all of them without a base."""
    base = inputs.base
    if base is None:
        return inputs.corpus.splits
    return tuple(split for split in inputs.corpus.splits if not base.selection.has(split))


def _part(plan: InputPlan, whole: TextSizes, splits: Sequence[Split]) -> TextSizes:
    """Estimates the size of some splits from that of the whole corpus, as if texts were alike everywhere."""
    if len(splits) == len(plan.splits):
        return whole
    stored = sum(split.size_bytes for split in splits)
    rows = round(whole.documents * stored / max(1, whole.stored_bytes))
    # The rows of JSON Lines are not counted before they are read.
    if all(split.num_rows >= 0 for split in splits):
        rows = sum(split.num_rows for split in splits)
    share = rows / max(1, whole.documents)
    tokens, text_bytes = round(share * whole.tokens), round(share * whole.text_bytes)
    return TextSizes(rows, tokens, stored, text_bytes, len(splits))


def _about_base(inputs: Inputs, chain: Chain, missing: Missing) -> list[str]:
    base, plan = inputs.base, inputs.corpus
    if base is None:
        return []
    new = _new_splits(inputs)
    whole = TextSizes(plan.num_rows, 0, plan.size_bytes, 0, len(plan.splits))
    part = _part(plan, whole, new)
    anew = _made_anew(chain, missing, set(plan.splits).difference(new))
    only = "only they are embedded" if anew else "only they are embedded and scored"
    lines = [
        f"base      {base.selection.output}: {base.manifest['tokens']['selected']:,} tokens selected",
        f"new       {len(new):,} of {len(plan.splits):,} splits, about {part.documents:,} rows, {size(part.stored_bytes)}: {only}",
    ]
    if anew:
        lines.append(
            f"anew      {', '.join(anew)}: for all splits, because what they are made from has changed since"
        )
    lines.append(
        "leaves    which documents leave the selection is known only at the run; what is read of the old splits to make up for "
        "them, and with --reselect scored, is not in this plan"
    )
    return lines


def _made_anew(chain: Chain, missing: Missing, old: set[Split]) -> list[str]:
    """Names the stages that have work on splits of the base."""
    names = dict.fromkeys(
        chain.stages[number].name for number, splits in missing.items() if old.intersection(splits)
    )
    # A shortlist's files are always new, but for splits of the base they copy known scores.
    known = {s.name for s in chain.stages if isinstance(s, ScoreExamples) and s.known is not None}
    return [name for name in names if name not in known]


def device(options: RunOptions, dtype: str) -> Device:
    """Returns the assumed device of models, at the rate of a dtype: the requested accelerator, or an H100."""
    if options.device == "cpu":
        # The cores of a cluster's workers are unknown here, so those of this machine are assumed.
        return Device.cpu(options.threads or os.cpu_count() or 1)
    return Device.gpu(chip_named(options.accelerator or "") or HOPPER, dtype)


def machines_of(options: RunOptions) -> Machines:
    """Returns the assumed machines: one device, and the cores of this machine.

    Raises:
      UsageError: If the file of `--prices` is missing or holds no prices.
    """
    cores = os.cpu_count() or 1
    # One device of the requested kind: the runner decides how many workers a cluster has.
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


def sizes_of(options: RunOptions, inputs: Inputs, chain: Chain) -> Sizes:
    """Measures the sizes from which stages, with their own fields, compute their work."""
    proxy, skeleton = inputs.proxy, inputs.skeleton
    tokenizer = None if proxy is None else load_tokenizer(proxy.path, proxy.revision)
    columns = query_columns(options, inputs.template)
    corpus = text_sizes(inputs.corpus, corpus_columns(options, inputs.template), tokenizer)
    sizes = Sizes(
        corpus=corpus,
        new=_part(inputs.corpus, corpus, _new_splits(inputs)),
        missing=corpus,
        query=tuple(text_sizes(plan, columns, tokenizer) for plan in inputs.query.values()),
        num_items=sum(inputs.leaks.counts.values()) if inputs.leaks else 0,
        embedder=NO_EMBEDDER if inputs.embedder is None else embedder_costs(inputs.embedder),
        max_windows=options.max_windows,
        num_clusters=_fitted_clusters(chain),
    )
    if proxy is None or skeleton is None:
        return sizes
    sizes = dataclasses.replace(
        sizes,
        num_parameters=skeleton.num_parameters(),
        context_length=default_context_length(skeleton.config, proxy),
    )
    if not options.needs_influence:
        # Such policies run models of any architecture, so a pass is priced by its parameters alone.
        forward = TokenWork(entries=skeleton.num_parameters())
        return dataclasses.replace(sizes, scoring=dataclasses.replace(NO_PROXY, forward=forward))
    blocks = find_blocks(skeleton, options.layers)
    with eager_attention(skeleton):
        eager = ScoringCosts.of(skeleton, blocks)
    scoring = ScoringCosts.of(skeleton, blocks)
    return dataclasses.replace(sizes, scoring=scoring, eager_scoring=eager)


def _fitted_clusters(chain: Chain) -> int | None:
    """Reads the number of clusters if centers exist; how many `--grow_clusters` will open is unknown before the run."""
    # The last first, because centers with opened clusters come after those they were grown from.
    for stage in reversed(chain.stages):
        if isinstance(stage, AssignClusters) and files.exists(stage.centers.artifact):
            return stage.centers.load().num_clusters
    return None


def text_sizes(plan: InputPlan, columns: Columns, tokenizer: Any) -> TextSizes:
    """Estimates the tokens and bytes of files from a few rows of a few splits.

    Args:
      plan: The files.
      columns: Their columns.
      tokenizer: Counts the tokens, unless a column gives them; None if there is no tokenizer.
    """
    # Later parts of a large file are left out, because the launcher would have to skip the rows before them.
    splits = [s for s in plan.splits if s.first_row == 0 or not formats.is_jsonl(s.path)]
    # Evenly spaced, because neighbouring files are often of one source.
    step = max(1, len(splits) // _SAMPLED_SPLITS)
    counts: list[int] = []
    sizes: list[int] = []
    for split in splits[::step][:_SAMPLED_SPLITS]:
        # Whether a bad file ends the run is decided by the stage that reads it whole.
        with contextlib.suppress(BadFileError):
            batch = next(read_rows(split, columns, _SAMPLED_ROWS), None)
            if batch is not None:
                own = [
                    len(text.encode(errors="replace")) for text in batch.texts if text is not None
                ]
                counts += _counts(batch, tokenizer, own)
                sizes += own
    tokens, text_bytes = (
        round(plan.num_rows * sum(own) / max(1, len(own))) for own in (counts, sizes)
    )
    return TextSizes(plan.num_rows, tokens, plan.size_bytes, text_bytes, len(plan.splits))


def _counts(batch: RowBatch, tokenizer: Any, sizes: list[int]) -> list[int]:
    if batch.tokens is not None:
        return [int(count) for count in batch.tokens if count >= 0]
    if tokenizer is None:
        return [own // _BYTES_PER_TOKEN for own in sizes]
    texts = [text for text in batch.texts if text is not None]
    return [len(ids) for ids in tokenize(tokenizer, texts)]
