"""Texts that answer prompts: every loss and gradient is that of the answers' tokens, given what is before them."""

import numpy as np
import pytest
import torch

from beam_quad import answers, proof, seeding
from beam_quad.gradients import find_blocks, losses, windows
from beam_quad.gradients.sketches import GradientSketcher
from beam_quad.proof import Recipe
from beam_quad.scoring import (
    DSIRScorer,
    InfluenceScorer,
    NgramCounts,
    PerplexityScorer,
    TokenNgramCounts,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
)
from tests.gradients import tiny
from tests.gradients.tiny import CLOSE, EXACT
from tests.scoring import reference

# Turns of (prompt, answer) in tokens. In a window of 16: a prompt that is cut, no prompt, two turns in one window, two in two.
TURNS = [[(3, 4)], [(6, 1)], [(30, 6)], [(0, 5)], [(4, 2), (3, 5)], [(10, 5), (10, 5)]]


def draw(turns, seed):
    lengths = [length for turn in turns for length in turn]
    drawn = iter(tiny.texts(lengths, seed))
    return [(next(drawn), next(drawn)) for _ in turns]


SPOKEN = [draw(turns, seed) for seed, turns in enumerate(TURNS)]
TEXTS = [" ".join(answers.answer(*turn) for turn in turns) for turns in SPOKEN]
IDS = [f"shard#{row}" for row in range(len(TEXTS))]


def masked_windows(turns):
    """The windows of a conversation, and which of their tokens are the assistant's, written out."""
    ids, is_answer = [], []
    for prompt, answer in turns:
        for own, flag in ((prompt, False), (answer, True)):
            ids += [int(word) for word in own.split()]
            is_answer += [flag] * len(own.split())
    if len(ids) < 20 or len(turns) == 1:
        return [(ids[-16:], is_answer[-16:])]
    return [(ids[:15], is_answer[:15]), (ids[14:], [False] * 11 + [True] * 5)]


def masked_losses(proxy, turns):
    """Losses of the answers' tokens as `transformers` masks them, window by window."""
    for ids, is_answer in masked_windows(turns):
        labels = [own if flag else -100 for own, flag in zip(ids, is_answer, strict=True)]
        num = sum(is_answer[1:])
        yield num * proxy.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss


def masked_gradient(proxy, blocks, turns):
    proxy.model.requires_grad_(True)
    try:
        num = sum(sum(is_answer[1:]) for _, is_answer in masked_windows(turns))
        return reference.gradient(proxy, blocks, sum(masked_losses(proxy, turns)) / num)
    finally:
        proxy.model.requires_grad_(False)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_norms_and_the_query_gradient_are_those_of_masked_losses_by_backward(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all+head")
    v = reference.random_vectors(blocks)
    gradients = [masked_gradient(proxy, blocks, turns) for turns in SPOKEN]
    inner = np.array([reference.inner(v, gradient) for gradient in gradients])
    norms = [reference.inner(gradient, gradient) ** 0.5 for gradient in gradients]
    for normalize, expected in ((False, inner), (True, inner / norms)):
        found = InfluenceScorer(proxy, blocks, {"query": v}, normalize).score(TEXTS)[:, 0]
        # Most families compute norms and softmaxes in float32, whatever their dtype.
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    query = query_gradient(proxy, blocks, TEXTS)
    assert query.num_examples == len(TEXTS)
    for name, mean in query.mean().items():
        expected = sum(gradient[name] for gradient in gradients) / len(gradients)
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", tiny.MIXTURES)
def test_scores_of_a_mixtures_attention_are_those_of_masked_gradients(family):
    proxy = tiny.proxy(family, torch.float32)
    blocks = find_blocks(proxy.model, "attention+head")
    v = reference.random_vectors(blocks)
    expected = [reference.inner(v, masked_gradient(proxy, blocks, turns)) for turns in SPOKEN]
    found = InfluenceScorer(proxy, blocks, {"query": v}).score(TEXTS)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_masked_one():
    proxy = tiny.proxy()
    expected = [
        sum(masked_losses(proxy, turns)).item()
        / sum(sum(is_answer[1:]) for _, is_answer in masked_windows(turns))
        for turns in SPOKEN
    ]
    np.testing.assert_allclose(PerplexityScorer(proxy).score(TEXTS)[:, 0], expected, rtol=1e-5)
    measured = proof.measure(proxy, TEXTS)
    np.testing.assert_allclose(measured.sums / measured.counts, expected, rtol=1e-5)
    # The first token of a text without a prompt has nothing before it.
    assert measured.counts.tolist() == [4, 1, 6, 4, 7, 10]


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_the_curvature_is_that_of_the_masked_loss(family, labels):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "last:1")
    sums = covariance_sums(proxy, blocks, IDS, TEXTS, 3, labels)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    squares = eigenvalue_sums(proxy, blocks, bases, IDS, TEXTS, 3, labels)
    expected = {block.name: 0.0 for block in blocks}
    proxy.model.requires_grad_(True)
    for document, turns in enumerate(SPOKEN):
        for index, (ids, is_answer) in enumerate(masked_windows(turns)):
            target = torch.tensor(ids[1:])
            if labels == "sampled":
                (batch,) = windows.micro_batches([windows.Window(document, index, ids)], 16, 64)
                uniforms = losses.label_uniforms(3, seeding.keys(IDS), batch)[0, : len(ids) - 1]
                logits = proxy.model(input_ids=torch.tensor([ids])).logits[0, :-1]
                target = losses.sample_labels(logits.softmax(1), uniforms)
            counted = torch.tensor(is_answer[1:])
            loss = reference.token_losses(proxy, ids, target)[counted].sum()
            for name, own in reference.gradient(proxy, blocks, loss).items():
                (basis,) = (b for b in bases.values() if name in b.gradient_vectors)
                rotated = basis.gradient_vectors[name].T @ own @ basis.activation_vectors
                expected[name] = expected[name] + rotated.square()
    proxy.model.requires_grad_(False)
    for total in squares.values():
        assert total.num_sequences == 7
        for name, found in total.squares.items():
            torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-9)


def test_n_grams_are_those_of_the_answers_each_by_itself():
    def read(texts):
        return windows.Documents.of(texts, tiny.tokenizer(), 64, 4)

    texts = [" ".join(answers.answer(*turn) for turn in [("1 2", "3 4"), ("5", "6")])]
    expected = TokenNgramCounts.of(read(["3 4"]), tiny.VOCABULARY).counts
    expected[6] += 1
    assert TokenNgramCounts.of(read(texts), tiny.VOCABULARY).counts.tolist() == expected.tolist()
    np.testing.assert_array_equal(NgramCounts.of(texts).counts, NgramCounts.of(["3 4\n6"]).counts)
    scorer = DSIRScorer(NgramCounts.of(["3 4"]), NgramCounts.of(["3 4", "1 2 5"]))
    np.testing.assert_array_equal(
        scorer.score([answers.answer("1 2", "3 4")]), scorer.score(["3 4"])
    )


def test_a_training_step_is_that_of_the_mean_loss_of_the_packed_answers():
    recipe = Recipe(num_tokens=32, window=16, batch_windows=2, learning_rate=1e-3)
    proxy = tiny.proxy("llama")
    # 31 tokens of a text without an answer's end in its first window, which has none and is left out, then answers.
    texts = [answers.answer(*draw([(20, 9)], 7)[0]), answers.answer(*draw([(3, 25)], 8)[0])]
    ids = [int(word) for text in texts for word in answers.plain(text).split()]
    is_answer = [False] * 20 + [True] * 9 + [False] * 3 + [True] * 25
    before = [p.detach().clone() for p in proxy.model.parameters()]
    trained = proof.continue_training(proxy, texts, recipe)
    rows = [ids[16:32], ids[32:48]]
    flags = [is_answer[16:32], is_answer[32:48]]
    labels = [
        [own if flag else -100 for own, flag in zip(*pair, strict=True)]
        for pair in zip(rows, flags, strict=True)
    ]
    proxy.model.requires_grad_(True)
    proxy.model(input_ids=torch.tensor(rows), labels=torch.tensor(labels)).loss.backward()
    parameters = list(proxy.model.parameters())
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    after = list(trained.model.parameters())
    for old, new, parameter in zip(before, after, parameters, strict=True):
        step = parameter.grad / (parameter.grad.abs() + 1e-8)
        is_clear = parameter.grad.abs() > 1e-6
        expected = old - recipe.rate(0) * step
        np.testing.assert_allclose(
            new[is_clear].detach(), expected[is_clear].detach(), rtol=1e-5, atol=1e-8
        )


def test_a_text_that_is_an_answer_as_a_whole_scores_as_one_without_marks():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    vectors = {"query": reference.random_vectors(blocks)}
    texts = tiny.texts([6, 12, 16])
    scorer = InfluenceScorer(proxy, blocks, vectors)
    marked = scorer.score([answers.answer("", text) for text in texts])
    np.testing.assert_allclose(marked, scorer.score(texts), **EXACT)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sketches_are_of_the_masked_gradients(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all+head")
    sketches = GradientSketcher(proxy, blocks).sketch(TEXTS)  # of all entries, not compressed
    for row, turns in zip(sketches, SPOKEN, strict=True):
        gradient = masked_gradient(proxy, blocks, turns)
        flat = torch.cat([values.flatten() for values in gradient.values()])
        np.testing.assert_allclose(row, flat / flat.norm(), **CLOSE)
