import dataclasses

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from beam_quad import errors, seeding
from beam_quad.gradients import Proxy, find_blocks, losses, passes, tracked, windows
from beam_quad.scoring import (
    CovarianceSum,
    Curvature,
    Eigenbasis,
    EigenvalueSum,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    eigenvalues,
)
from tests.gradients import tiny
from tests.gradients.tiny import EXACT
from tests.scoring import reference
from tests.scoring.saved import saved

TEXTS = tiny.texts([5, 12, 16, 1, 40, 2])
IDS = [f"shard#{row}" for row in range(len(TEXTS))]


def drawn_labels(proxy, document, index, tokens, seed):
    """Draws one window's labels alone, in a batch of its own."""
    window = windows.Window(document, index, tokens)
    (batch,) = windows.micro_batches([window], proxy.context_length, 64)
    uniforms = losses.label_uniforms(seed, seeding.keys(IDS), batch)[0, : len(tokens) - 1]
    logits = proxy.model(input_ids=torch.tensor([tokens])).logits[0, :-1]
    return losses.sample_labels(logits.softmax(1), uniforms)


def sum_losses(proxy, labels, seed):
    """Yields the sum loss of every window, one at a time."""
    for document, text in enumerate(TEXTS):
        for index, tokens in enumerate(reference.document_windows(proxy, text)):
            target = None
            if labels == "sampled":
                target = drawn_labels(proxy, document, index, tokens, seed)
            yield reference.token_losses(proxy, tokens, target).sum()


def looped_covariances(proxy, block, labels, seed):
    """Sums outer products token by token."""
    seen = {}

    def hook(module, inputs, output):
        seen["a"], seen["y"] = inputs[0][0].detach(), output

    a_sum, g_sum, num_tokens = 0.0, 0.0, 0
    proxy.model.requires_grad_(True)
    handle = proxy.model.get_submodule(block.module).register_forward_hook(hook)
    for loss in sum_losses(proxy, labels, seed):
        (g,) = torch.autograd.grad(loss, seen["y"])
        for a_t, g_t in zip(seen["a"], block.select(g[0]), strict=True):
            a_t = torch.cat([a_t, torch.ones(int(block.has_bias), dtype=a_t.dtype)])
            a_sum, g_sum = a_sum + torch.outer(a_t, a_t), g_sum + torch.outer(g_t, g_t)
            num_tokens += 1
    handle.remove()
    proxy.model.requires_grad_(False)
    return a_sum, g_sum, num_tokens


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_covariances_are_the_loops(family, labels):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "last:1")
    sums = covariance_sums(proxy, blocks, IDS, TEXTS, 3, labels)
    assert [len(total.gradients) for total in sums.values()] == [3, 1]
    for block in blocks:
        (total,) = (total for total in sums.values() if block.name in total.gradients)
        a_sum, g_sum, num_tokens = looped_covariances(proxy, block, labels, 3)
        torch.testing.assert_close(total.activation, a_sum, **EXACT)
        torch.testing.assert_close(total.gradients[block.name], g_sum, **EXACT)
        assert (total.num_tokens, total.num_sequences) == (num_tokens, 7)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "phi"])
def test_the_heads_covariances_are_the_loops_of_their_diagonals(family):
    proxy = tiny.proxy(family)
    (block,) = find_blocks(proxy.model, "head")
    (total,) = covariance_sums(proxy, [block], IDS, TEXTS, 3).values()
    a_sum, g_sum, num_tokens = looped_covariances(proxy, block, "sampled", 3)
    torch.testing.assert_close(total.activation, a_sum, **EXACT)
    torch.testing.assert_close(total.gradients[block.name], g_sum.diagonal(), **EXACT)
    assert total.num_tokens == num_tokens
    assert list(total.embeddings) == ([block.name] if block.embedding else [])


def test_a_tied_heads_covariances_count_the_gradients_of_embeddings():
    proxy = tiny.proxy("gemma3")  # its embedding is multiplied by 4, and token 0 is padding
    (block,) = find_blocks(proxy.model, "head")
    (total,) = covariance_sums(proxy, [block], IDS, TEXTS, 3).values()
    expected = torch.zeros(tiny.VOCABULARY, dtype=torch.float64)
    # Rows with a hook each: a token's own gradient of its embedding.
    embedding = proxy.model.get_input_embeddings()
    for document, text in enumerate(TEXTS):
        for index, tokens in enumerate(reference.document_windows(proxy, text)):
            labels = drawn_labels(proxy, document, index, tokens, 3)
            rows = embedding.weight[torch.tensor(tokens)].requires_grad_()
            logits = proxy.model(inputs_embeds=4 * rows[None]).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            (delta,) = torch.autograd.grad(loss, rows)
            expected.index_add_(0, torch.tensor(tokens), delta.square().sum(1))
    expected[0] = 0
    torch.testing.assert_close(total.embeddings[block.name], expected, rtol=1e-6, atol=1e-9)
    basis = eigenbasis(total)
    # Row sums of T (S + E tr B / tr A) (x) A are those of both parts.
    rows = basis.gradient_values[block.name] * basis.activation_values.sum()
    parts = total.gradients[block.name] * total.activation.trace() / total.num_tokens + expected
    torch.testing.assert_close(rows, parts / total.num_tokens, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "phi", "opt"])
def test_the_heads_eigenvalues_are_mean_squares_of_both_parts_together(family, labels):
    proxy = tiny.proxy(family, context_length=24)
    (block,) = find_blocks(proxy.model, "head")
    bases = {
        name: eigenbasis(total)
        for name, total in covariance_sums(proxy, [block], IDS, TEXTS, 3, labels).items()
    }
    (found,) = eigenvalue_sums(proxy, [block], bases, IDS, TEXTS, 3, labels).values()
    proxy.model.requires_grad_(True)
    u = bases[block.module].activation_vectors
    expected = sum(
        (reference.gradient(proxy, [block], loss)[block.name] @ u) ** 2
        for loss in sum_losses(proxy, labels, 3)
    )
    # Some families compute norms and softmaxes in float32, whatever their dtype.
    torch.testing.assert_close(found.squares[block.name], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi"])
def test_of_a_large_head_the_row_and_column_sums_are_kept(family, monkeypatch):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "last:1+head")
    head = blocks[-1].name
    sums = covariance_sums(proxy, blocks, IDS, TEXTS, 3)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    full = eigenvalue_sums(proxy, blocks, bases, IDS, TEXTS, 3)
    monkeypatch.setattr(eigenvalues, "_MOST_ENTRIES", 100)
    found = eigenvalue_sums(proxy, blocks, bases, IDS, TEXTS, 3)
    expected = full.pop(head).squares[head]
    part = EigenvalueSum.load(saved(found.pop(head)))
    assert not part.squares
    torch.testing.assert_close(part.rows[head], expected.sum(1), **EXACT)
    torch.testing.assert_close(part.columns[head], expected.sum(0), **EXACT)
    for name, other in full.items():  # no other block is cut down, however large
        torch.testing.assert_close(found[name].squares, other.squares, **EXACT)
    mean = (part + part).mean()[head]
    torch.testing.assert_close(mean.sum(1), expected.sum(1) / 7, **EXACT)
    torch.testing.assert_close(mean.sum(0), expected.sum(0) / 7, **EXACT)
    assert torch.linalg.matrix_rank(mean) == 1


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "cohere"])
def test_eigenvalues_are_mean_squares_of_rotated_sequence_gradients(family, labels):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, r"regex:\.1\..*(attn|mlp)")
    sums = covariance_sums(proxy, blocks, IDS, TEXTS, 3, labels)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    basis_of = {block: basis for basis in bases.values() for block in basis.gradient_vectors}
    found = eigenvalue_sums(proxy, blocks, bases, IDS, TEXTS, 3, labels)
    proxy.model.requires_grad_(True)
    expected = dict.fromkeys([b.name for b in blocks], 0.0)
    for loss in sum_losses(proxy, labels, 3):
        gradients = reference.gradient(proxy, blocks, loss)
        for b in blocks:
            basis = basis_of[b.name]
            rotated = (
                basis.gradient_vectors[b.name].T @ gradients[b.name] @ basis.activation_vectors
            )
            expected[b.name] = expected[b.name] + rotated**2
    squares = {name: square for part in found.values() for name, square in part.squares.items()}
    torch.testing.assert_close(squares, expected, **EXACT)
    assert {part.num_sequences for part in found.values()} == {7}


@pytest.mark.parametrize("family", ["llama", "qwen2", "cohere"])
def test_sharing_the_inputs_changes_no_preconditioned_vector(family, monkeypatch):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all")
    gradients = reference.random_vectors(blocks)

    def precondition():
        sums = covariance_sums(proxy, blocks, IDS, TEXTS, 0)
        bases = {name: eigenbasis(total) for name, total in sums.items()}
        squares = eigenvalue_sums(proxy, blocks, bases, IDS, TEXTS, 0)
        vectors = Curvature.from_parts(bases, squares).precondition(gradients)
        return len(sums), {block.name: vectors[block.name] for block in blocks}

    num_inputs, found = precondition()
    monkeypatch.setattr(passes, "input_groups", lambda _, blocks: tracked.by_module(blocks))
    num_modules, expected = precondition()
    assert num_inputs < num_modules == len(blocks)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_in_its_basis_the_explicit_fisher_block_has_the_corrected_eigenvalues(family):
    proxy = tiny.proxy(family)
    (block,) = find_blocks(proxy.model, "last:1")[:1]
    sums = covariance_sums(proxy, [block], IDS, TEXTS, 3)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    found = eigenvalue_sums(proxy, [block], bases, IDS, TEXTS, 3)[block.module]
    proxy.model.requires_grad_(True)
    rows = [
        reference.gradient(proxy, [block], loss)[block.name].flatten()
        for loss in sum_losses(proxy, "sampled", 3)
    ]
    fisher = torch.stack(rows).T @ torch.stack(rows) / len(rows)
    basis = bases[block.module]
    u = torch.kron(basis.gradient_vectors[block.name], basis.activation_vectors)
    expected = (u.T @ fisher @ u).diagonal().view(block.shape)
    torch.testing.assert_close(found.squares[block.name] / len(rows), expected, **EXACT)


def test_sums_do_not_depend_on_the_partition_or_the_batches():
    blocks = find_blocks(tiny.model("gpt2"), "attention+head")
    whole = covariance_sums(tiny.proxy("gpt2"), blocks, IDS, TEXTS, 0)
    small = tiny.proxy("gpt2", max_batch_tokens=16)
    order = [4, 0, 5, 1, 3, 2]
    parts = [
        covariance_sums(small, blocks, [IDS[i] for i in part], [TEXTS[i] for i in part], 0)
        for part in (order[:2], order[2:])
    ]
    for name, expected in whole.items():
        total = parts[0][name] + parts[1][name]
        torch.testing.assert_close(dataclasses.asdict(total), dataclasses.asdict(expected), **EXACT)


class LiveBytes(TorchDispatchMode):
    """Counts the most bytes of tensors that were made inside and alive at once.

    Args:
      model: Its parameters, of which there are views, do not count.
    """

    def __init__(self, model):
        super().__init__()
        self._own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._live = WeakIdKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(made):
            if (
                isinstance(leaf, torch.Tensor)
                and leaf.untyped_storage().data_ptr() not in self._own
            ):
                self._live[leaf.untyped_storage()] = leaf.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self._live.values()))
        return made


def test_no_second_copy_of_the_sums_is_made():
    # Wide for a text of two tokens, so that activations are small beside the sums.
    config = transformers.LlamaConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1
    )  # fmt: skip
    proxy = Proxy(transformers.AutoModelForCausalLM.from_config(config), tiny.tokenizer(), 16)
    blocks = find_blocks(proxy.model, "all")
    with LiveBytes(proxy.model) as live:
        sums = covariance_sums(proxy, blocks, IDS[:1], ["1 2"], 0)
    held = sum(
        m.nbytes for total in sums.values() for m in (total.activation, *total.gradients.values())
    )
    assert held < live.peak < 1.5 * held
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    with LiveBytes(proxy.model) as live:
        found = eigenvalue_sums(proxy, blocks, bases, IDS[:1], ["1 2"], 0)
    held = sum(square.nbytes for total in found.values() for square in total.squares.values())
    assert held < live.peak < 1.5 * held


def test_sampled_labels_depend_on_the_seed():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model, "regex:layers.0.self_attn.v_proj")
    sums = [covariance_sums(proxy, blocks, IDS, TEXTS, seed) for seed in (0, 1)]
    first, second = (next(iter(total.values())) for total in sums)
    torch.testing.assert_close(first.activation, second.activation, **EXACT)
    name = blocks[0].name
    assert not torch.allclose(first.gradients[name], second.gradients[name])


@pytest.mark.parametrize("layers", ["last:1", "head"])
def test_sums_and_bases_survive_bytes(layers):
    proxy = tiny.proxy("gpt2", torch.float32)
    blocks = find_blocks(proxy.model, layers)[:3]
    (total,) = covariance_sums(proxy, blocks, IDS, TEXTS, 0).values()
    loaded = CovarianceSum.load(saved(total))
    torch.testing.assert_close(
        dataclasses.asdict(loaded), dataclasses.asdict(total), rtol=0, atol=0
    )
    basis = eigenbasis(total)
    loaded_basis = Eigenbasis.load(saved(basis))
    torch.testing.assert_close(
        dataclasses.asdict(loaded_basis), dataclasses.asdict(basis), rtol=0, atol=0
    )
    assert saved(total).getvalue() == saved(loaded).getvalue()


def test_only_half_of_a_symmetric_matrix_is_written():
    sums = [torch.rand(size, size) for size in (1, 2, 200)]
    total = CovarianceSum(sums[2] + sums[2].T, {"b": sums[1] + sums[1].T, "c": sums[0]}, 1, 1)
    data = saved(total)
    loaded = CovarianceSum.load(data)
    torch.testing.assert_close(
        dataclasses.asdict(loaded), dataclasses.asdict(total), rtol=0, atol=0
    )
    assert len(data.getvalue()) < 4 * 200 * 202 / 2 + 500


def test_a_basis_diagonalises_the_means_and_clamps_at_0():
    torch.manual_seed(0)
    a = torch.randn(3, 5, dtype=torch.float64)
    total = CovarianceSum(a.T @ a, {"b": torch.eye(2, dtype=torch.float64)}, 3, 1)
    basis = eigenbasis(total)
    u = basis.activation_vectors
    assert basis.activation_values.min() >= 0
    torch.testing.assert_close(u @ basis.activation_values.diag() @ u.T, a.T @ a / 3, **EXACT)
    assert basis.tokens_per_sequence == 3


def test_float32_sums_are_decomposed_in_float64():
    # In float32 the small eigenvalue drowns in the rounding error of the large one.
    total = CovarianceSum(torch.diag(torch.tensor([1e8, 1.0])), {}, 1, 1)
    basis = eigenbasis(total)
    assert basis.activation_values.dtype == torch.float32
    torch.testing.assert_close(basis.activation_values, torch.tensor([1.0, 1e8]))


def test_refuses_what_is_not_a_covariance():
    with pytest.raises(ValueError, match="no tokens"):
        eigenbasis(CovarianceSum(torch.eye(2), {}, 0, 0))
    with pytest.raises(errors.IntegrityError, match="not finite"):
        eigenbasis(CovarianceSum(torch.full((2, 2), torch.nan), {}, 1, 1))
    with pytest.raises(ValueError, match="sampled or empirical"):
        covariance_sums(tiny.proxy(), [], IDS, TEXTS, 0, "true")
    with pytest.raises(ValueError, match="1 ids but 6 texts"):
        covariance_sums(tiny.proxy(), [], IDS[:1], TEXTS, 0)
    with pytest.raises(ValueError, match=r"no eigenbasis for .*q_proj"):
        eigenvalue_sums(tiny.proxy(), find_blocks(tiny.model()), {}, IDS, TEXTS, 0)
