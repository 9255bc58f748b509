"""Factors and scores against kronfluence, an independent implementation of (E)K-FAC influence.

Its conventions, where they are not ours:

- A score is < F⁻¹ grad query , grad document > of whatever losses its `Task` gives, and query gradients are added up.
  Here both losses are sums over predicted tokens; ours are means over a document's tokens and over the query's
  documents. With Q query documents of N tokens each its score of a document of n tokens is (n - 1) Q (N - 1) times
  ours. The sign is the same.
- It keeps sums and counts. Covariances count tokens, and with an attention mask no padding; Lambda counts documents.
- Its K-FAC eigenvalues are s_G s_Aᵀ, those of a token; ours are those of a document, T times as large for a mean
  length of T. Damping being a share of the mean eigenvalue, its preconditioned gradient is T times ours.
- Conv1D is unknown to it, and a fused projection is one module.
"""

import copy
import dataclasses
import gc
import importlib.util
import tempfile
from pydoc_data import topics

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from beam_quad.gradients import Proxy, ProxySpec, find_blocks, load_proxy
from beam_quad.scoring import (
    Curvature,
    InfluenceScorer,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
)
from pipelines.demo import proxy as demo
from tests.gradients import tiny

DAMPING_RATIO = 0.1  # kronfluence's, where it is given no damping


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model in float32, a corpus, and query documents of one length; every document is one window."""

    proxy: Proxy
    corpus: list[str]
    query: list[str]

    def tokens(self, texts):
        ids = self.proxy.tokenizer(texts)["input_ids"]
        return [row[: self.proxy.context_length] for row in ids]


def tiny_problem(family, lengths):
    proxy = tiny.proxy(family, torch.float32)
    return Problem(proxy, tiny.texts(lengths), tiny.texts([10] * 5, seed=1))


def demo_problem(directory):
    """Trains the demo's proxy shortly, and takes the first 64 tokens of the longest texts."""
    texts = sorted(topics.topics.values(), key=len)
    recipe = demo.Recipe(num_tokens=10_000)
    demo.train_proxy(texts, directory, recipe, seed=0, progress=lambda line: None)
    proxy = load_proxy(ProxySpec(str(directory), context_length=64, max_windows=1))
    return Problem(proxy, texts[-24:], texts[-32:-24])


PROBLEMS = {
    "gpt2": lambda _: tiny_problem("gpt2", [14] * 40),
    "gpt_neox": lambda _: tiny_problem("gpt_neox", [14] * 40),
    "llama": lambda _: tiny_problem("llama", [14] * 40),
    "llama, padded": lambda _: tiny_problem("llama", list(range(2, 17)) * 3),
    "demo": demo_problem,
}


@pytest.fixture(params=PROBLEMS, scope="module")
def problem(request, tmp_path_factory):
    yield PROBLEMS[request.param](tmp_path_factory.mktemp("proxy"))
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def kronfluence(lacking):
    if importlib.util.find_spec("kronfluence") is None:
        lacking("kronfluence is not installed")
    # It collects garbage before and after each of its steps, a third of a second with all of torch to go through.
    gc.freeze()
    yield pytest.importorskip("kronfluence")
    gc.unfreeze()


def with_linear_layers(model):
    """Copies a model and puts an nn.Linear in the place of every Conv1D."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            linear = nn.Linear(*module.weight.shape)
            linear.weight.data, linear.bias.data = module.weight.T.contiguous(), module.bias.data
            model.set_submodule(name, linear)
    return model


def padded(documents):
    longest = max(map(len, documents))
    return [
        {
            "input_ids": torch.tensor(ids + [0] * (longest - len(ids))),
            "attention_mask": (torch.arange(longest) < len(ids)).long(),
        }
        for ids in documents
    ]


def sum_loss(batch, model):
    logits = model(**batch).logits[:, :-1]
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:]
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def make_task(kronfluence, modules):
    class SumLoss(kronfluence.Task):
        def compute_train_loss(self, batch, model, sample=False):
            assert not sample
            return sum_loss(batch, model)

        def compute_measurement(self, batch, model):
            return sum_loss(batch, model)

        def get_influence_tracked_modules(self):
            return modules

        def get_attention_mask(self, batch):
            return batch["attention_mask"]

    return SumLoss()


@dataclasses.dataclass(frozen=True)
class Results:
    """Sums by module, their counts, and scores of shape [documents, modules]."""

    activation: dict[str, torch.Tensor]
    gradient: dict[str, torch.Tensor]
    num_tokens: dict[str, int]
    squares: dict[str, torch.Tensor]
    num_documents: dict[str, int]
    scores: np.ndarray


def kronfluence_results(kronfluence, problem, modules, strategy):
    task = make_task(kronfluence, modules)
    model = kronfluence.prepare_model(with_linear_layers(problem.proxy.model), task)
    corpus, query = (padded(problem.tokens(t)) for t in (problem.corpus, problem.query))
    factor_args = kronfluence.FactorArguments(strategy, use_empirical_fisher=True)
    score_args = kronfluence.ScoreArguments(
        damping_factor=None, aggregate_query_gradients=True, compute_per_module_scores=True
    )
    with tempfile.TemporaryDirectory() as folder:
        analyzer = kronfluence.Analyzer(
            "a", model, task, cpu=True, output_dir=folder, disable_tqdm=True
        )
        analyzer.fit_all_factors("f", corpus, per_device_batch_size=16, factor_args=factor_args)
        analyzer.compute_pairwise_scores("s", "f", query, corpus, 16, 16, score_args=score_args)
        covariances = analyzer.load_covariance_matrices("f")
        lambdas = analyzer.load_lambda_matrices("f") if strategy == "ekfac" else {}
        scores = analyzer.load_pairwise_scores("s")
    return Results(
        covariances["activation_covariance"],
        covariances["gradient_covariance"],
        covariances["num_gradient_covariance_processed"],
        lambdas.get("lambda_matrix", {}),
        lambdas.get("num_lambda_processed", {}),
        np.stack([scores[name][0].numpy() for name in modules], axis=1),
    )


def our_results(problem, blocks, strategy):
    proxy, ids = problem.proxy, [str(i) for i in range(len(problem.corpus))]
    sums = covariance_sums(proxy, blocks, ids, problem.corpus, 0, "empirical")
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    eigenvalues = None
    if strategy == "ekfac":
        eigenvalues = eigenvalue_sums(proxy, blocks, bases, ids, problem.corpus, 0, "empirical")
    squares = (eigenvalues or {}).values()
    curvature = Curvature.from_parts(bases, eigenvalues, DAMPING_RATIO)
    vector = curvature.precondition(query_gradient(proxy, blocks, problem.query).mean())
    by_block = [InfluenceScorer(proxy, [block], {"query": vector}) for block in blocks]
    scores = np.concatenate([scorer.score(problem.corpus) for scorer in by_block], axis=1)
    return Results(
        {name: total.activation for total in sums.values() for name in total.gradients},
        {name: total.gradients[name] for total in sums.values() for name in total.gradients},
        {name: total.num_tokens for total in sums.values() for name in total.gradients},
        {name: total.squares[name] for total in squares for name in total.squares},
        {name: total.num_sequences for total in squares for name in total.squares},
        scores,
    )


def in_their_units(scores, problem, strategy):
    """Multiplies our scores by (n - 1) Q (N - 1), and by T for K-FAC."""
    corpus, query = problem.tokens(problem.corpus), problem.tokens(problem.query)
    predicted = np.array([[len(ids) - 1] for ids in corpus])
    in_query = len(query) * (len(query[0]) - 1)
    mean_length = np.mean([len(ids) for ids in corpus]) if strategy == "kfac" else 1
    return scores * predicted * in_query * mean_length


def assert_agree(found, expected):
    """Compares; the relative errors found are 3e-6 for the tiny models and 2.4e-5 for the demo's."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9999


@pytest.mark.filterwarnings(
    "ignore::FutureWarning"
)  # of a name that kronfluence imports from torch
@pytest.mark.parametrize("strategy", ["kfac", "ekfac"])
def test_factors_and_scores_are_kronfluences(kronfluence, problem, strategy):
    blocks = find_blocks(problem.proxy.model, "all", cut_fused=False)
    modules = [block.module for block in blocks]
    expected = kronfluence_results(kronfluence, problem, modules, strategy)
    found = our_results(problem, blocks, strategy)
    assert found.num_tokens == expected.num_tokens
    assert found.num_documents == expected.num_documents
    for name in modules:
        assert_agree(found.activation[name], expected.activation[name])
        assert_agree(found.gradient[name], expected.gradient[name])
        if strategy == "ekfac":
            assert_agree(found.squares[name], expected.squares[name])
    scores = in_their_units(found.scores, problem, strategy)
    assert_agree(scores, expected.scores)
    assert_agree(scores.sum(axis=1), expected.scores.sum(axis=1))
