"""What the stages of the second order leave in files, against dense matrices."""

import json
import pathlib

import numpy as np
import pytest
import torch

from beam_quad.distillation import Interactions
from beam_quad.distillation.second_order import cut_support, newton_step
from beam_quad.gradients import find_blocks, parameters
from beam_quad.gradients.proxy import load_proxy
from beam_quad.stages.distillation import interactions
from beam_quad.stages.distillation.fit_propagation import FitPropagation
from pipelines import distillation_chain, distillation_options
from pipelines.inputs import look

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")

LAYERS = r"regex:layers\.1\.self_attn\.[qv]_proj"


class Dense:
    """Gradients and curvature of one proxy over all entries of its tracked blocks, one text at a time."""

    def __init__(self, proxy, blocks):
        self.proxy, self.blocks = proxy, blocks
        names = parameters.parameter_names(blocks)
        self.start = {name: proxy.model.get_parameter(name).detach() for name in names}
        proxy.model.set_attn_implementation("eager")  # fused kernels have no forward derivative

    def logits(self, entries, ids):
        parts = torch.split(entries, [b.shape[0] * b.shape[1] for b in self.blocks])
        moved = parameters.to_parameters(
            self.proxy.model,
            self.blocks,
            {b.name: part.view(b.shape) for b, part in zip(self.blocks, parts, strict=True)},
        )
        arguments = {"input_ids": torch.tensor([ids]), "use_cache": False}
        return torch.func.functional_call(self.proxy.model, moved, (), arguments).logits[0, :-1]

    def point(self):
        return self.flat(parameters.to_blocks(self.proxy.model, self.blocks, self.start))

    def flat(self, vector):
        return torch.cat([vector[block.name].flatten() for block in self.blocks])

    def gradient(self, text):
        ids = self.proxy.tokenizer(text)["input_ids"]
        point = self.point().requires_grad_()
        loss = torch.nn.functional.cross_entropy(self.logits(point, ids), torch.tensor(ids[1:]))
        return torch.autograd.grad(loss, point)[0]

    def gauss_newton(self, text):
        ids = self.proxy.tokenizer(text)["input_ids"]
        point = self.point()
        jacobian = torch.func.jacfwd(lambda entries: self.logits(entries, ids))(point)
        p = self.logits(point, ids).softmax(1)
        curved = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        return jacobian.flatten(0, 1).T @ (curved @ jacobian).flatten(0, 1) / len(p)


def inverse_curvature(vectors, blocks):
    """The whole matrix that gradients are multiplied by."""
    size = sum(block.shape[0] * block.shape[1] for block in blocks)
    if vectors.curvature is None:
        return torch.eye(size)
    found = {}
    for curvature in vectors.curvatures():
        found |= curvature.blocks
    parts = []
    for block in blocks:
        own = found[block.name]
        # Entries of a block lie row by row: vec(U_G V U_Aᵀ) = (U_G ⊗ U_A) vec(V).
        both = torch.kron(own.gradient_vectors, own.activation_vectors)
        parts.append(both / (own.eigenvalues + own.damping).flatten() @ both.T)
    return torch.block_diag(*parts)


@pytest.mark.parametrize("curvature", ["identity", "ekfac"])
def test_interactions_of_landmarks_are_those_of_dense_gradients_and_a_dense_gauss_newton(
    world, tmp_path, curvature
):
    lines = (pathlib.Path(world.query) / "query.jsonl").read_text().split("\n")
    texts = [json.loads(line)["text"] for line in lines[:4]]
    (tmp_path / "query.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    arguments = {"query": str(tmp_path / "query.jsonl"), "layers": LAYERS, "curvature": curvature}
    numbers = {"order": 2, "num_landmarks": 60, "interaction_landmarks": 20}
    world.distill(tmp_path / "out", **arguments, **numbers)
    argv = world.distillation_arguments(tmp_path / "out", **arguments, **numbers)
    options, _ = distillation_options.parse(argv)
    stages = distillation_chain.build(options, look(options)).stages
    stage = next(t for t in stages if isinstance(t, interactions.InteractLandmarks))

    proxy = load_proxy(stage.vectors.proxy.spec)
    blocks = find_blocks(proxy.model, LAYERS)
    dense = Dense(proxy, blocks)
    table = stage.landmarks.table()
    gradients = torch.stack([dense.gradient(text) for text in table.column("text").to_pylist()])
    gradients /= gradients.norm(dim=1, keepdim=True)
    step = inverse_curvature(stage.vectors, blocks)
    target = step @ torch.stack([dense.gradient(text) for text in texts]).mean(0)
    hessian = torch.stack([dense.gauss_newton(text) for text in texts]).mean(0)
    expected = gradients @ step @ hessian @ step @ gradients.T / target.norm() / len(gradients)

    found = stage.read(0)
    assert len(found) == 20
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    # The same landmarks' influence is in the same unit: p and Q belong to one loss.
    fit = next(t for t in stages if isinstance(t, FitPropagation))
    scored = fit.scored_landmarks()
    of = dict(zip(scored.keys, scored.influence[:, 0], strict=True))
    influence = [of[key] for key in table.column("key").to_numpy()]
    np.testing.assert_allclose(influence, gradients @ target / target.norm(), atol=2e-3)


def test_the_newton_step_lowers_the_loss_the_most_along_the_weights():
    generator = np.random.default_rng(0)
    q = Interactions(generator.normal(size=(9, 3)), np.ones(3))
    p, w = generator.random(9), generator.random(9)
    eta = newton_step(p, q, w)
    losses = [-e * p @ w + e**2 / 2 * w @ q.times(w) for e in (0.99 * eta, eta, 1.01 * eta)]
    assert losses[1] < min(losses[0], losses[2])
    assert newton_step(-p, q, w) == 0


def test_targets_keep_in_step_and_hold_the_budget_to_within_one_example():
    generator = np.random.default_rng(0)
    for _ in range(50):
        amounts = [generator.integers(1, 40, 60) for _ in range(3)]
        allowances = [int(own[:30].sum()) for own in amounts]
        budget = sum(allowances) - int(generator.integers(0, 40))
        counts = cut_support(amounts, allowances, budget)
        taken = sum(int(own[:count].sum()) for own, count in zip(amounts, counts, strict=True))
        assert budget <= taken < budget + 40
        # What the targets may take can be had to the example, and is.
        assert counts == [30, 30, 30]
    # A support of longer examples, none of which ends where the allowance does.
    longer = [np.full(60, 11), np.full(60, 7), np.ones(60, int)]
    counts = cut_support(longer, [100, 210, 30], 340)
    assert 340 <= np.dot(counts, [11, 7, 1]) < 351
    np.testing.assert_allclose(counts, [10, 30, 30], atol=1)
    assert cut_support([], [], 10) == []
