"""The work that stages state, against what the code computes, counted, and against the formulas of their parts."""

import dataclasses
import math

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from beam_quad.embedding import EmbedderSpec
from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.gradients import find_blocks
from beam_quad.gradients.attention import eager_attention
from beam_quad.gradients.hessian import curvature_products
from beam_quad.gradients.sketches import GradientSketcher
from beam_quad.gradients.tracked import Block
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, TextSizes
from beam_quad.scoring import InfluenceScorer, ScoringCosts
from beam_quad.scoring.costs import TokenWork
from beam_quad.selection.shares import parse_bounds
from beam_quad.stages.distillation.interactions import product_flops
from pipelines import chain, distillation_chain, distillation_options, options
from tests.gradients import tiny
from tests.plan.unseen import unseen_inputs

BLOCK = Block("layer", "layer", 1000, 1000, has_bias=False, chunks=1, start=0, stop=1000)
# 50 M multiply-adds forward and 10 k for every token of the window, 40 M and 10 k backward.
SCORING = ScoringCosts(
    (BLOCK,),
    32_000,
    forward=TokenWork(50_000_000, 10_000),
    backward=TokenWork(40_000_000, 10_000),
    slice_backwards=(TokenWork(40_000_000, 10_000),),
)
TEXTS = TextSizes(1_000_000, 500_000_000, 10**9, 2 * 10**9, 100)
GROUP = TextSizes(100, 25_000, 10**5, 10**5, 1)
SIZES = Sizes(
    TEXTS,
    TEXTS,
    TEXTS,
    query=(GROUP, GROUP),
    embedder=EmbedderCosts(384, max_tokens=256, text_flops=1e10),
    scoring=SCORING,
    context_length=1024,
    max_windows=4,
)
FLAGS = {
    "num_clusters": 1000,
    "samples_per_pull": 10,
    "budget_tokens": 25_000_000,
    "acceptance": "block",
    "layers": "all",
}
REQUIRED = ["--input=i", "--output=o", "--proxy_model=p", "--query_group=a=q", "--query_group=b=q"]
LENGTH = 16
DOCUMENTS = tiny.texts([LENGTH] * 3)
TARGETS = 2
DIM = 64


def of_documents(**changes):
    texts = dataclasses.replace(TEXTS, **changes)
    return dataclasses.replace(SIZES, corpus=texts, new=texts, missing=texts)


def quad(sizes=SIZES, embedder=EmbedderSpec("minilm"), **flags):  # noqa: B008 (frozen)
    return _works(options, chain, sizes, embedder, FLAGS | flags)


def distill(sizes, **flags):
    defaults = {"budget_examples": 100, "num_landmarks": len(DOCUMENTS), "layers": "all"}
    embedder = EmbedderSpec("minilm")
    return _works(distillation_options, distillation_chain, sizes, embedder, defaults | flags)


def _works(flags_of, builder, sizes, embedder, flags, bounds=()):
    """The work of each stage of a chain, by name."""
    own = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    parsed, _ = flags_of.parse([*REQUIRED, *own])
    inputs = unseen_inputs(
        sizes.corpus.documents, {"a": 100, "b": 100}, embedder, sizes.context_length
    )
    inputs = dataclasses.replace(inputs, bounds=parse_bounds(bounds))
    return {stage.name: stage.work(sizes) for stage in builder.build(parsed, inputs).stages}


def test_scoring_costs_its_passes_and_one_product_a_token_however_many_the_query_vectors():
    works = quad()
    pilot, rounds = works["Pilot"], [works[f"Round{i}"] for i in range(1, 17)]
    passes = 2 * (90e6 + 20e3 * 500)
    assert pilot.documents == 10_000
    assert pilot.flops == pytest.approx(
        10_000 * 500 * (passes + 2 * 1000 * (1000 + 2 * 1000 / 500))
    )
    for each in rounds:
        assert each.flops == pytest.approx(each.documents * 500 * (passes + 2 * 1000 * 1000))


def test_each_group_that_a_share_asks_for_has_scores_of_its_own():
    bounds = ["kind=law >= 0.3", "kind=rare = 0.001", "kind=noise <= 0.2"]
    embedder = EmbedderSpec("minilm")
    works = _works(options, chain, SIZES, embedder, FLAGS, bounds)
    # Half of its share of the pilot's 10,000 documents, and at least 64.
    assert works["ScoreShareDraws"].documents == 1500 + 64


def test_long_examples_are_scored_by_window():
    long = of_documents(tokens=10_000_000_000)
    assert (long.window_tokens, long.scored_tokens) == (1024, 4096)
    expected = 10_000 * 4096 * SCORING.exact_flops(1024, num_vectors=2)
    assert quad(long)["Pilot"].flops == pytest.approx(expected)


@pytest.mark.parametrize(
    ("curvature", "fits"),
    [
        ("identity", ()),
        ("kfac", (SCORING.covariance_flops,)),
        ("ekfac", (SCORING.covariance_flops, SCORING.eigenvalue_flops)),
    ],
)
def test_every_curvature_has_its_passes_over_its_texts(curvature, fits):
    works = [
        w
        for w in quad(curvature=curvature, curvature_examples=4000).values()
        if w.line == "curvature"
    ]
    query = 50_000 * SCORING.query_flops(500)
    passes = [4000 * 500 * fit(500) for fit in fits]
    assert sum(work.total_flops for work in works) == pytest.approx(query + sum(passes))
    assert sum(work.documents for work in works if work.is_model) == (4000 if fits else 0)
    # Sums run in float32: factors, eigenvalues, and the gradients of the query.
    sums = [4000 * 500 * 2 * 2e6, 4000 * 500 * 2 * 3e6][: len(fits)]
    assert sum(work.float32_flops for work in works) == pytest.approx(sum(sums) + 50_000 * 2 * 1e6)


def test_what_the_fit_stores_is_its_parts_for_every_group_of_texts_and_their_sums():
    works, costs = quad(curvature_examples=4000), SCORING
    assert works["SampleTexts"].bytes_stored == works["SampleTexts"].bytes_shuffled == 4000 * 1000
    assert works["SumCovariances"].bytes_stored == 8 * costs.covariance_bytes
    assert works["Eigendecompose"].bytes_stored == costs.eigenbasis_bytes
    assert works["SumEigenvalues"].bytes_stored == 8 * costs.eigenvalue_bytes
    assert works["AddEigenvalues"].bytes_stored == costs.eigenvalue_bytes
    # Two halves of each group's only part; then the vector of each group, and those of its halves.
    assert works["SumQueryGradients"].bytes_stored == 2 * 2 * costs.vector_bytes
    assert works["FitQueryVectors"].bytes_stored == 2 * 3 * costs.vector_bytes


@pytest.mark.parametrize(
    ("budget", "pulls"),
    # 5 % of 1,000 clusters with 16 blocks each, twice; at least 8 a round; every block that the pilot left.
    [(25_000_000, 1600), (1, 8 * 16), (10**12, 15_000)],
)
def test_the_rounds_pull_blocks_worth_two_budgets(budget, pulls):
    works = quad(budget_tokens=budget)
    assert sum(works[f"Round{i}"].documents for i in range(1, 17)) == 10 * pulls


def test_more_candidates_cross_the_shuffle_than_are_kept_and_no_more_than_there_are():
    work = quad()["GatherCandidates"]
    assert (work.bytes_stored, work.documents) == (160_000 * 1000, 160_000)
    drawn = 16_000 * (14 + 4 * 10**0.5)
    assert work.bytes_shuffled == pytest.approx(drawn * 1000)
    few = quad(of_documents(documents=16_000, stored_bytes=16_000_000))["GatherCandidates"]
    assert few.bytes_shuffled == 16_000 * 1000


def test_embedding_reads_every_text_with_the_proxy_s_tokenizer_and_the_start_of_it_with_the_encoder_s():
    # The first 8 characters of each of 256 tokens.
    encoder_bytes = min(2e9, 1e6 * 256 * 8)
    core_s = 2e9 / 1.5e6 + encoder_bytes / 2.1e6 + 1e6 * rates.EMBED_ROW_S
    embed = quad(near_duplicates="keep")["EmbedExamples"]
    assert embed.core_s == pytest.approx(core_s)
    assert (embed.float32_flops, embed.flops) == (1e6 * 1e10, 0)
    assert quad(tokens_column="n", near_duplicates="keep")["EmbedExamples"].core_s == pytest.approx(
        core_s - 2e9 / 1.5e6
    )
    half = quad(embedder=EmbedderSpec("minilm", dtype="bfloat16"))["EmbedExamples"]
    assert (half.float32_flops, half.flops) == (0, 1e6 * 1e10)


def test_texts_are_signed_while_they_are_read_for_embedding():
    works = quad(near_duplicates="drop", acceptance="propagate")
    plain = quad(near_duplicates="keep", acceptance="propagate")
    signed_s = works["EmbedExamples"].core_s - plain["EmbedExamples"].core_s
    assert signed_s == pytest.approx(2e9 * rates.SIGN_BYTE_S)
    assert works["SignTexts"].core_s < signed_s / 100


def test_hashing_runs_no_model():
    sizes = dataclasses.replace(SIZES, embedder=EmbedderCosts(512))
    flags = {"tokens_column": "n", "near_duplicates": "keep"}
    work = quad(sizes, EmbedderSpec("hashing"), **flags)["EmbedExamples"]
    assert not work.is_model
    assert work.core_s == pytest.approx(1e6 * rates.EMBED_ROW_S + 2e9 * rates.HASH_BYTE_S)


def test_the_largest_process_is_that_which_fits_the_centers():
    works = quad()
    assert max(works, key=lambda name: works[name].memory_bytes) == "FitCenters"
    assert works["FitCenters"].memory_bytes == 4 * 256_000 * 384


def test_n_grams_are_counted_over_the_texts_set_aside_alone():
    large = of_documents(documents=10**9, text_bytes=2 * 10**12)
    work = quad(large, acceptance="shortlist", samples_per_pull=None)["CountTokenNgrams"]
    assert work.core_s == pytest.approx(2e12 / 64 * rates.COUNT_NGRAMS_BYTE_S)
    assert work.bytes_read == 0


def test_files_are_made_for_the_documents_without_them_and_all_are_compared():
    few = dataclasses.replace(TEXTS, documents=1000, tokens=500_000, splits=1)
    works = quad(
        dataclasses.replace(SIZES, missing=few), acceptance="shortlist", samples_per_pull=None
    )
    for name in ("EmbedExamples", "SignTexts", "AssignClusters", "ScoreNgrams"):
        assert works[name].documents == 1000, name
    # A fifth of the corpus, in tokens: four budgets.
    assert works["ScoreShortlist"].documents == 200
    for name in ("RankShortlist", "CutRanking0"):
        assert works[name].documents == 1_000_000, name


def test_centers_that_are_fitted_count_for_those_that_would_be():
    works = quad(dataclasses.replace(SIZES, num_clusters=7), num_clusters=None)
    assert works["AssignClusters"].cpu_flops == 2 * TEXTS.documents * 7 * 384
    # A few blocks of every cluster are pulled.
    assert works["Pilot"].documents == 7 * 10


def test_an_empty_corpus_has_work():
    nothing = of_documents(documents=0, tokens=0, stored_bytes=0, text_bytes=0)
    assert quad(nothing)["EmbedExamples"].total_flops == 0
    assert distill(nothing)["ScoreLandmarks"].total_flops == 0


def skeleton(family):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(tiny.model(family).config)


def sizes_of(family="llama"):
    model = skeleton(family)
    blocks = find_blocks(model, "all")
    with eager_attention(model):
        eager = ScoringCosts.of(model, blocks)
    texts = TextSizes(1000, 1000 * LENGTH, 100_000, 100_000, 4)
    return Sizes(
        texts,
        texts,
        texts,
        query=(TextSizes(32, 32 * 8, 1000, 1000, 1),) * TARGETS,
        embedder=EmbedderCosts(32, text_flops=1e6),
        scoring=ScoringCosts.of(model, blocks),
        eager_scoring=eager,
        context_length=LENGTH,
        max_windows=4,
    )


def count_butterflies(left, right, out=None, **kwargs):
    # Of all sums and differences, only those of the transform are written to a given place.
    return 0 if out is None else math.prod(left)


def count(compute):
    sums = dict.fromkeys((torch.ops.aten.add, torch.ops.aten.sub), count_butterflies)
    with FlopCounterMode(display=False, custom_mapping=sums) as counter:
        compute()
    return counter.get_total_flops()


def draw(blocks, num_vectors):
    names = (f"target {i}" for i in range(num_vectors))
    return {n: {b.name: torch.randn(b.shape, dtype=torch.float64) for b in blocks} for n in names}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_landmarks_cost_what_is_counted(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all")
    scorers = [
        InfluenceScorer(proxy, blocks, draw(blocks, n), normalize=True)
        for n in (TARGETS, 2 * TARGETS)
    ]
    counted = count(lambda: [scorer.score(DOCUMENTS) for scorer in scorers])
    assert distill(sizes_of(family))["ScoreLandmarks"].total_flops == counted


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_sketches_cost_what_is_counted_and_their_cosines(family):
    proxy = tiny.proxy(family)
    sketcher = GradientSketcher(proxy, find_blocks(proxy.model, "all"), DIM)
    counted = count(lambda: sketcher.sketch(DOCUMENTS))
    works = distill(sizes_of(family), curvature="identity", sketch_dim=DIM)
    assert works["SketchLandmarks"].total_flops == counted
    assert works["SketchLandmarks"].bytes_stored == len(DOCUMENTS) * DIM * 2
    assert works["CompareSketches"].total_flops == 2 * len(DOCUMENTS) * DIM * 3 * TARGETS


def test_gradients_of_sketched_landmarks_are_formed_in_float32():
    sizes = sizes_of()
    work = distill(sizes, curvature="identity")["SketchLandmarks"]
    passes = LENGTH * sizes.scoring.exact_flops(LENGTH, num_vectors=0)
    assert work.flops == pytest.approx(len(DOCUMENTS) * passes)
    assert work.float32_flops > 0


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
def test_products_with_a_curvature_cost_what_is_counted(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all")
    vectors = list(draw(blocks, 3).values())
    counted = count(lambda: curvature_products(proxy, blocks, DOCUMENTS, vectors))
    eager = sizes_of(family).eager_scoring
    assert product_flops(eager, LENGTH, 3, 3) == counted / (len(DOCUMENTS) * LENGTH)


def test_interactions_grow_with_landmarks_and_texts_of_all_targets():
    sizes = sizes_of()
    flags = {"order": 2, "num_landmarks": 16, "interaction_landmarks": 16, "interaction_texts": 20}
    works = distill(sizes, **flags)
    # Of each target, the gradients of 16 landmarks are computed for the one piece that they make up, and for all to meet.
    gradients = TARGETS * 2 * 16 * LENGTH * sizes.scoring.query_flops(LENGTH)
    inner = TARGETS * 2 * 16**2 * sum(math.prod(b.shape) for b in sizes.scoring.blocks)
    products = TARGETS * 20 * 8 * product_flops(sizes.eager_scoring, 8, 16, 8)
    assert works["InteractLandmarks"].total_flops == pytest.approx(gradients + inner + products)
    assert works["InteractLandmarks"].bytes_stored == TARGETS * 16**2 * 8
    # The coefficients of every example over the landmarks.
    assert works["GatherShortlist"].bytes_shuffled == 1000 * 16 * 8


def test_landmarks_cost_the_same_whatever_the_corpus_and_propagation_grows_with_it():
    few, sizes = {}, sizes_of()
    for times in (1, 2):
        texts = TextSizes(*(times * 10**5 * number for number in (1000, 16_000, 10**5, 10**5, 1)))
        works = distill(
            dataclasses.replace(sizes, corpus=texts, new=texts, missing=texts), num_landmarks=256
        )
        few = few or works
    grown = {
        name: works[name].total_flops / few[name].total_flops
        for name in few
        if few[name].total_flops
    }
    once = (
        "SumCovariances",
        "SumEigenvalues",
        "SumQueryGradients",
        "ScoreLandmarks",
        "FitPropagation",
    )
    assert grown == dict.fromkeys(("EmbedExamples", "Propagate"), 2) | dict.fromkeys(once, 1)
