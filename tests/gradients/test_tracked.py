import pytest
import torch
import transformers

from beam_quad import errors
from beam_quad.gradients import find_blocks, tracked
from tests.gradients import tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_attention_is_q_k_v_and_the_output_projection_of_every_layer(family):
    blocks = find_blocks(tiny.model(family), "attention")
    assert len(blocks) == 2 * 4
    assert len({block.name for block in blocks}) == len(blocks)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_all_is_attention_and_mlp_and_nothing_else(family):
    model = tiny.model(family)
    parts = [find_blocks(model, layers) for layers in ("attention", "mlp", "all")]
    assert set(parts[0]) | set(parts[1]) == set(parts[2])
    covered = sum(block.shape[0] * block.shape[1] for block in parts[2])
    left_out = ("embed", "wte", "wpe", "norm", "ln_", "lm_head")
    expected = [
        p.numel() for name, p in model.named_parameters() if not any(w in name for w in left_out)
    ]
    assert covered == sum(expected)


TIED = {"gpt2", "gemma2", "gemma3", "smollm3", "opt", "mpt", "phi", "cohere"}


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
def test_the_head_is_the_matrix_of_the_logits_tied_to_the_embedding_or_not(family):
    model = tiny.model(family)
    (block,) = find_blocks(model, "head")
    assert block.is_head
    assert model.get_submodule(block.module) is model.get_output_embeddings()
    assert block.shape == (tiny.VOCABULARY, 17 if family == "phi" else 16)
    if family in TIED:
        assert model.get_submodule(block.embedding) is model.get_input_embeddings()
    else:
        assert block.embedding is None


@pytest.mark.parametrize("layers", ["attention", "mlp", "all", "last:1"])
def test_a_sum_with_the_head_adds_it_at_the_end(layers):
    model = tiny.model("gpt2")
    expected = (*find_blocks(model, layers), *find_blocks(model, "head"))
    assert find_blocks(model, f"{layers}+head") == expected


def test_a_regular_expression_is_no_sum():
    assert find_blocks(tiny.model(), r"regex:q_proj|.+head|o_proj") == find_blocks(
        tiny.model(), r"regex:q_proj|o_proj"
    )
    with pytest.raises(errors.UsageError, match=r"no layers for 'regex:q_proj\+head'"):
        find_blocks(tiny.model(), "regex:q_proj+head")


def test_a_head_on_meta_is_tied_like_one_with_weights():
    with torch.device("meta"):
        skeleton = transformers.AutoModelForCausalLM.from_config(tiny.model("gemma3").config)
    assert find_blocks(skeleton, "head") == find_blocks(tiny.model("gemma3"), "head")


def test_refuses_a_head_whose_gradient_is_not_known():
    model = tiny.model("gpt2")
    model.transformer.extra = torch.nn.Linear(16, tiny.VOCABULARY, bias=False)
    model.transformer.extra.weight = model.lm_head.weight
    with pytest.raises(errors.UsageError, match=r"shares its weight with transformer\.extra"):
        find_blocks(model, "head")
    model = tiny.model("gpt2")

    class Doubled(torch.nn.Embedding):
        def forward(self, ids):
            return 2 * super().forward(ids)

    model.transformer.wte.__class__ = Doubled
    with pytest.raises(errors.UsageError, match="what a Doubled does to its rows is not known"):
        find_blocks(model, "all+head")
    model.lm_head = torch.nn.Sequential(torch.nn.Linear(16, tiny.VOCABULARY))
    with pytest.raises(errors.UsageError, match="makes its logits with Sequential"):
        find_blocks(model, "head")


@pytest.mark.parametrize("family", ["phi3", "glm4"])
def test_gate_and_up_are_cut(family):
    names = {b.name.split(".")[-1]: b.shape for b in find_blocks(tiny.model(family), "mlp")}
    assert names == {"gate": (24, 16), "up": (24, 16), "down_proj": (16, 24)}


def test_gqa_keys_are_narrower_than_queries():
    shapes = {b.name.split(".")[-1]: b.shape for b in find_blocks(tiny.model("phi3"), "last:1")}
    assert shapes == {"q": (16, 16), "k": (8, 16), "v": (8, 16), "o_proj": (16, 16)}


def test_last_takes_the_last_layers():
    model = tiny.model("gpt2")
    assert {b.module.split(".")[2] for b in find_blocks(model, "last:1")} == {"1"}
    assert find_blocks(model, "last:2") == find_blocks(model, "attention")


def test_interleaved_heads_are_gathered():
    block = next(b for b in find_blocks(tiny.model("gpt_neox")) if b.name.endswith(".k"))
    # Four heads of width 4, each [q, k, v].
    expected = [head * 12 + 4 + i for head in range(4) for i in range(4)]
    assert block.select(torch.arange(48)).tolist() == expected


def test_a_fused_module_can_be_kept_whole():
    (block,) = find_blocks(tiny.model("gpt2"), r"regex:h\.0\.attn\.c_attn", cut_fused=False)
    assert block.shape == (48, 17)


def test_modules_keep_their_blocks_together():
    grouped = tracked.by_module(find_blocks(tiny.model("gpt2"), "last:1"))
    assert [len(blocks) for blocks in grouped.values()] == [3, 1]


@pytest.mark.parametrize("family", tiny.MIXTURES)
def test_a_mixture_has_attention_only(family):
    model = tiny.model(family)
    assert len(find_blocks(model, "attention")) == 8
    for layers in ("mlp", "all"):
        with pytest.raises(
            errors.UsageError, match=r"experts as 3-D parameters.*--layers attention"
        ):
            find_blocks(model, layers)


def test_a_convolution_is_no_mixture():
    model = tiny.model()
    expected = find_blocks(model, "all")
    model.model.layers[0].self_attn.conv = torch.nn.Conv1d(16, 16, 3)
    assert find_blocks(model, "all") == expected


@pytest.mark.parametrize(
    ("name", "layers"),
    [("self_attn", "attention"), ("self_attn", "last:1"), ("self_attn", "all"), ("mlp", "all")],
)
def test_layers_of_another_name_are_listed_and_can_be_named(name, layers):
    model = tiny.model()
    for layer in model.model.layers:
        layer.add_module("mixer", layer._modules.pop(name))
    listed = r"linear layers are .*layers\.\*\.mixer\..*; choose some with --layers regex:"
    with pytest.raises(errors.UsageError, match=listed):
        find_blocks(model, layers)
    assert all(".mixer." in block.name for block in find_blocks(model, r"regex:\.mixer\."))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("regex:query", r"model\.layers\.\*\.self_attn\.q_proj, .*--layers regex:"),
        ("regex:(", "not a regular expression"),
        ("regex:lm_head", "no layers"),
        ("last:3", "model has 2"),
        ("last:0", "model has 2"),
        ("attn", r"must be attention, mlp, all, last:N or head, one of these and the head"),
        ("all+mlp", r"\(all\+head\), or regex:R, got 'all\+mlp'"),
        ("head+head", r"got 'head\+head'"),
    ],
)
def test_refuses_what_it_cannot_find(layers, message):
    with pytest.raises(errors.UsageError, match=message):
        find_blocks(tiny.model(), layers)


@pytest.mark.parametrize(("family", "fused"), [("gpt_neox", "query_key_value"), ("mpt", "Wqkv")])
def test_refuses_an_unknown_fused_layout_but_takes_it_whole(family, fused):
    model = tiny.model(family)
    model.config.model_type = "another"
    with pytest.raises(errors.UsageError, match=rf"layout of .*{fused} is not known"):
        find_blocks(model, "attention")
    assert len(find_blocks(model, f"regex:{fused}")) == 2
