import dataclasses

import numpy as np
import pytest
import torch

from beam_quad.gradients.descent import descend
from tests.benchmarks.counterfactual.metagradient import SGD, AdamW, Step, Training
from tests.gradients import tiny
from tests.scoring import reference

TEXTS = tiny.texts([6, 14, 9, 16, 31, 12, 5])
QUERIES = [tiny.texts([12, 7], seed=1), tiny.texts([9], seed=2)]
# Two epochs in batches of unlike sizes: 7 steps, of which 2 at a time are computed anew, and the last alone.
BATCHES = [[0, 1, 2], [3, 4], [5, 6], [6, 2, 0], [4, 1], [5], [3]]
# float64 throughout (Llama's norms and softmax are float32, in which differences drown), head and embedding tied.
FAMILY = "gpt2"


def training(optimizer, batches=BATCHES, rate=0.05, family=FAMILY):
    proxy = tiny.proxy(family)
    steps = [Step(rate / (1 + number), batch) for number, batch in enumerate(batches)]
    return Training(proxy, proxy.read(TEXTS), steps, optimizer)


def queries_of(training):
    return [training.proxy.read(texts) for texts in QUERIES]


def gradient(proxy, texts):
    """The gradient of the mean over texts of their mean losses, by autograd alone."""
    proxy.model.requires_grad_(True)
    loss = sum(reference.document_loss(proxy, text) for text in texts) / len(texts)
    found = torch.autograd.grad(loss, list(proxy.model.parameters()))
    proxy.model.requires_grad_(False)
    return torch.nn.utils.parameters_to_vector(found)


@pytest.mark.parametrize("optimizer", [SGD(), AdamW()], ids=["sgd", "adamw"])
def test_the_metagradient_is_the_central_difference_of_two_trainings(optimizer):
    trained = training(optimizer)
    queries = queries_of(trained)
    found = trained.metagradients(queries)
    change = 1e-5  # at 1e-3 some of Adam's steps turn round: a first step is the gradient's sign
    for document in range(len(TEXTS)):
        losses = []
        for weight in (1 + change, 1 - change):
            weights = np.ones(len(TEXTS))
            weights[document] = weight
            losses.append(trained.losses(trained.run(weights), queries))
        difference = (losses[0] - losses[1]) / (2 * change)
        np.testing.assert_allclose(found[document], difference, rtol=1e-4)


def test_after_one_step_of_sgd_it_is_the_dot_product_of_gradients_times_the_rate():
    batch = [4, 1, 2]
    trained = training(SGD(), [batch])
    found = trained.metagradients(queries_of(trained))
    before = trained.proxy
    after = tiny.proxy(FAMILY)
    ones = np.ones(len(TEXTS))
    torch.nn.utils.vector_to_parameters(trained.run(ones), after.model.parameters())
    for column, query in enumerate(QUERIES):
        of_query = gradient(after, query)
        for document, text in enumerate(TEXTS):
            share = 1 / len(batch) if document in batch else 0
            product = -0.05 * share * (of_query @ gradient(before, [text])).item()
            assert found[document, column] == pytest.approx(product, rel=1e-9)


@pytest.mark.parametrize("scale", [0.1, 1], ids=["gradients as they are", "gradients cut"])
def test_the_training_is_that_of_the_package(scale):
    trained = training(AdamW())
    proxy, steps = trained.proxy, trained.steps
    with torch.no_grad():
        for parameter in proxy.model.parameters():
            parameter.mul_(scale)
    norm = gradient(proxy, [TEXTS[i] for i in BATCHES[0]]).norm()
    assert (norm > 1) == (scale == 1)
    package = descend(
        proxy,
        [(step.rate, trained.documents.take(step.positions)) for step in steps],
        betas=(0.9, 0.95),
        weight_decay=0.01,
    )
    expected = torch.nn.utils.parameters_to_vector(package.model.parameters())
    torch.testing.assert_close(trained.run(np.ones(len(TEXTS))), expected, **tiny.CLOSE)


def test_a_weight_of_zero_leaves_a_document_out():
    trained = training(AdamW())
    weights = np.ones(len(TEXTS))
    weights[3] = 0
    other = dataclasses.replace(
        trained, documents=trained.proxy.read([*TEXTS[:3], "1 2", *TEXTS[4:]])
    )
    assert torch.equal(trained.run(weights), other.run(weights))
    assert not torch.equal(trained.run(weights), trained.run(np.ones(len(TEXTS))))
