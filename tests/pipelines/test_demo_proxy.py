import pytest
import torch
import transformers

from pipelines.demo import evaluation, proxy

TEXTS = [
    f"The {i}th ship left harbour {i % 7} and came back with {i % 5} barrels." for i in range(80)
]
TINY = proxy.Recipe(num_tokens=4000, window=64, batch_windows=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "proxy"
    lines = []
    proxy.train_proxy(TEXTS, directory, TINY, seed=3, progress=lines.append)
    return directory, lines


def test_what_was_saved_loads_with_the_auto_classes_and_reads_any_text(saved):
    directory, _ = saved
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    text = "Grüße, 世界\t\x00"
    tokens = tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokens) == text
    assert model(torch.tensor([tokens])).logits.shape == (1, len(tokens), model.config.vocab_size)
    assert (directory / "model.safetensors").exists()


def test_the_loss_falls(saved):
    directory, lines = saved
    model = evaluation.load(directory)
    documents = proxy.encode(transformers.AutoTokenizer.from_pretrained(directory), TEXTS)
    assert proxy.mean_loss(model, documents) < proxy.mean_loss(proxy.new_model(3), documents) - 1
    assert sum("loss" in line for line in lines) == TINY.num_reports


def test_the_mean_loss_counts_tokens_and_not_texts_or_padding():
    model = proxy.new_model(0)
    documents = [[5, 6, 7, 8, 9], [10, 11], list(range(20, 40))]
    each = [proxy.mean_loss(model, [d]) for d in documents]
    weights = [len(d) - 1 for d in documents]
    expected = sum(w * e for w, e in zip(weights, each, strict=True)) / sum(weights)
    assert proxy.mean_loss(model, documents) == pytest.approx(expected, rel=1e-5)


def test_a_random_draw_holds_the_tokens_and_differs_by_seed():
    documents = [[i] * 10 for i in range(100)]
    draws = [evaluation.random_draw(documents, 95, seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert [len(draw) for draw in draws] == [10, 10, 10]


def test_the_sample_does_not_depend_on_the_order_of_the_corpus():
    assert proxy.uniform_sample(TEXTS, 600, 1) == proxy.uniform_sample(TEXTS[::-1], 600, 1)


def test_a_longer_training_ends_at_a_tenth_of_the_rate():
    recipe = proxy.Recipe(num_tokens=100_000)
    assert recipe.rate(recipe.num_steps) == pytest.approx(recipe.learning_rate / 10)
    assert max(map(recipe.rate, range(recipe.num_steps))) == pytest.approx(recipe.learning_rate)
