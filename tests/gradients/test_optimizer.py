import pytest
import safetensors.torch
import torch

from beam_quad import errors
from beam_quad.gradients import find_blocks, parameters
from beam_quad.gradients.optimizer import export_optimizer_state, load_adam
from tests.gradients import tiny
from tests.gradients.tiny import CLOSE, EXACT


def _trained(family="gpt2", num_steps=3, **settings):
    model = tiny.model(family)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, **settings)
    for step in range(num_steps):
        ids = torch.tensor([[1 + step, 5, 9, 4]])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def _exported(tmp_path, model, optimizer):
    path = tmp_path / "adam.safetensors"
    export_optimizer_state(model, optimizer, path)
    return path


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3", "phi"])
def test_terms_are_adams_next_step(family, tmp_path):
    model, optimizer = _trained(family)
    # So many steps, and so large a second moment, that one more changes neither bias correction nor moment.
    for state in optimizer.state.values():
        state["step"].fill_(1_000_000)
        state["exp_avg_sq"].uniform_(0.5, 1.5)
    blocks = find_blocks(model, "all+head")
    terms = load_adam(_exported(tmp_path, model, optimizer), model, blocks)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    names = parameters.parameter_names(blocks)
    gradients = {name: model.get_parameter(name).grad for name in names}
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    optimizer.step()
    moves = {n: (model.get_parameter(n).detach() - before[n]) / -1e-2 for n in names}
    moved, gradient = (parameters.to_blocks(model, blocks, t) for t in (moves, gradients))
    for block in blocks:
        found = terms.multipliers[block.name] * gradient[block.name] + terms.offsets[block.name]
        torch.testing.assert_close(
            found, moved[block.name], rtol=2e-3, atol=1e-6, check_dtype=False
        )


def test_fused_projections_and_biases_are_cut_like_the_weights(tmp_path):
    model, optimizer = _trained("gpt2", betas=(0.8, 0.95), eps=1e-7)
    blocks = find_blocks(model)
    terms = load_adam(_exported(tmp_path, model, optimizer), model, blocks)
    module = model.transformer.h[1].attn.c_attn
    key = next(block for block in blocks if block.name.endswith("h.1.attn.c_attn.k"))
    m, v = (
        torch.cat(
            [optimizer.state[module.weight][k].T, optimizer.state[module.bias][k][:, None]], 1
        )
        for k in ("exp_avg", "exp_avg_sq")
    )
    divisor = (1 - 0.8**3) * ((v / (1 - 0.95**3)).sqrt() + 1e-7)
    a, b = 0.2 / divisor, 0.8 * m / divisor
    for found, expected in ((terms.multipliers, a), (terms.offsets, b)):
        torch.testing.assert_close(found[key.name].double(), expected[16:32], **CLOSE)


def test_blocks_and_parameters_are_each_others_inverse():
    for family in tiny.FAMILIES:
        model = tiny.model(family)
        blocks = find_blocks(model, "all")
        values = {n: model.get_parameter(n).detach() for n in parameters.parameter_names(blocks)}
        back = parameters.to_parameters(model, blocks, parameters.to_blocks(model, blocks, values))
        assert list(back) == list(values)
        for name, value in values.items():
            torch.testing.assert_close(back[name], value, **EXACT)


def test_names_are_those_without_wrappers(tmp_path):
    model, optimizer = _trained("llama")
    wrapped = torch.nn.Module()
    wrapped.module = model
    bare = safetensors.torch.load_file(_exported(tmp_path, model, optimizer))
    assert (
        bare.keys() == safetensors.torch.load_file(_exported(tmp_path, wrapped, optimizer)).keys()
    )
    assert "exp_avg_sq/model.layers.0.self_attn.q_proj.weight" in bare


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("exp_avg_sq", None, "has no exp_avg_sq of model.layers.0.self_attn.q_proj.weight"),
        ("exp_avg", None, "has no exp_avg of"),
        ("step", None, "has no step of"),
        ("exp_avg", lambda t: t[:3], r"exp_avg of shape \(3, 16\), but the proxy's parameter has"),
        ("exp_avg_sq", lambda t: t * torch.nan, "values of exp_avg_sq that are not finite"),
        ("exp_avg_sq", lambda t: t - 1, "negative values of exp_avg_sq"),
        ("step", lambda t: t * 0, "has made no step"),
        ("settings", lambda t: t + 1, "has settings that are not"),
    ],
)
def test_a_state_that_cannot_be_right_is_refused(key, change, message, tmp_path):
    model, optimizer = _trained("llama")
    path = _exported(tmp_path, model, optimizer)
    state = safetensors.torch.load_file(path)
    name = f"{key}/model.layers.0.self_attn.q_proj.weight"
    tensor = state.pop(name)
    if change is not None:
        state[name] = change(tensor).contiguous()
    safetensors.torch.save_file(state, path)
    with pytest.raises(errors.UsageError, match=message):
        load_adam(path, model, find_blocks(model))


def test_what_is_no_state_is_refused(tmp_path):
    model, optimizer = _trained("llama", num_steps=0)
    with pytest.raises(errors.UsageError, match="train some steps first"):
        _exported(tmp_path, model, optimizer)
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    plain.step()
    with pytest.raises(errors.UsageError, match="is not Adam's; it holds"):
        _exported(tmp_path, model, plain)
    with pytest.raises(errors.UsageError, match="AMSGrad"):
        _exported(tmp_path, *_trained("llama", amsgrad=True))
    path = tmp_path / "text"
    path.write_text("no tensors")
    for absent in (path, tmp_path / "nothing"):
        with pytest.raises(errors.UsageError, match="export_optimizer_state"):
            load_adam(absent, model, find_blocks(model))
