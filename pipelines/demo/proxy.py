"""Trains the demo's proxy model: a small Llama, from scratch, on a uniform sample of the corpus."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from beam_quad import gradients, proof, seeding
from beam_quad.gradients.descent import descend
from beam_quad.gradients.windows import Tokens

END_OF_TEXT = "<|endoftext|>"
VOCABULARY_SIZE = 2048
CONTEXT_LENGTH = 512

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Recipe(proof.Recipe):
    """How a model is trained from scratch; see `proof.Recipe`.

    Args:
      num_reports: How many times the loss is reported.
    """

    num_tokens: int = 500_000
    window: int = 256
    # Small batches learn most from few tokens: after 200,000 the loss is 6.14 with 2 windows and 6.53 with 8; with
    # the wider initialisation of `new_model` it is 6.02.
    batch_windows: int = 2
    learning_rate: float = 2e-3
    num_reports: int = 6


def train_tokenizer(texts: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer: any text is covered, none becomes unknown."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def new_model(seed: int) -> transformers.LlamaForCausalLM:
    """Makes a Llama of 1.1 M parameters, initialised from a seed."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2 * CONTEXT_LENGTH,
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    # Restores the generator of the process, from which others may draw.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.integer(seed, "model"))
        return transformers.LlamaForCausalLM(config)


def encode(
    tokenizer: transformers.PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[list[int]]:
    """Returns the tokens of each text."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def train(
    model: torch.nn.Module,
    documents: Sequence[Sequence[int]],
    recipe: Recipe,
    seed: int,
    progress: Progress = lambda line: None,
) -> float:
    """Trains a causal language model in place.

    Args:
      model: The model; what it has learnt is kept and trained on.
      documents: Tokens of each text.
      recipe: How to train.
      seed: Decides the order of the texts.
      progress: Takes a line with the loss at a few points.

    Returns:
      Mean loss of the last tenth of the steps, nats per token.
    """
    losses: list[float] = []
    points = np.linspace(1, recipe.num_steps, recipe.num_reports, dtype=int).tolist()

    def observe(loss: float) -> None:
        losses.append(loss)
        if len(losses) in points:
            told = max((point for point in points if point < len(losses)), default=0)
            since = np.mean(losses[told:])
            progress(f"step {len(losses):4d} of {recipe.num_steps}, loss {since:.2f}")

    # A window is a micro-batch, with a thread of its own.
    shell = gradients.Proxy(model, None, recipe.window, max_batch_tokens=recipe.window)
    batches = proof.packed(map(Tokens, _endless(documents, seed)), 0, recipe)
    trained = descend(
        shell,
        ((recipe.rate(step), next(batches)) for step in range(recipe.num_steps)),
        betas=(0.9, 0.95),
        weight_decay=0.01,
        num_workers=min(recipe.batch_windows, os.cpu_count() or 1),
        observe=observe,
    )
    model.load_state_dict(trained.model.state_dict())
    return float(np.mean(losses[-max(1, recipe.num_steps // 10) :]))


def _endless(documents: Sequence[Sequence[int]], seed: int) -> Iterator[Sequence[int]]:
    """Yields the texts round after round without end, each round in another order."""
    for epoch in itertools.count():
        for i in seeding.generator(seed, "order", epoch).permutation(len(documents)):
            yield documents[i]


@torch.no_grad()
def mean_loss(model: torch.nn.Module, documents: Sequence[Sequence[int]]) -> float:
    """Returns the loss of texts, each read by itself from its start: mean over all tokens, in nats."""
    total, count = 0.0, 0
    ordered = sorted(documents, key=len)
    for start in range(0, len(ordered), 8):
        rows = [torch.tensor(tokens[:CONTEXT_LENGTH]) for tokens in ordered[start : start + 8]]
        inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        predicted = int((labels[:, 1:] != -100).sum())
        # Padding is on the right, so the other tokens of a causal model do not see it.
        total += model(input_ids=inputs, labels=labels).loss.item() * predicted
        count += predicted
    return total / count


def uniform_sample(texts: Sequence[str], num_chars: int, seed: int) -> list[str]:
    """Draws texts uniformly, by hash, until they hold `num_chars` characters."""
    hashes = seeding.mix(seed, "proxy", seeding.keys(texts))
    order = np.argsort(hashes, kind="stable")
    enough = int(np.searchsorted(np.cumsum([len(texts[i]) for i in order]), num_chars)) + 1
    return [texts[i] for i in order[:enough]]


def train_proxy(
    texts: Sequence[str],
    directory: pathlib.Path,
    recipe: Recipe,
    seed: int,
    progress: Progress,
) -> None:
    """Trains a tokenizer and a model on a uniform sample of texts; saves both in Hugging Face's layout.

    Args:
      texts: The whole corpus.
      directory: The folder to write, for `AutoModelForCausalLM` and `AutoTokenizer`.
      recipe: How to train; the sample is as large as its `num_tokens`.
      seed: The seed of the sample, the initialisation and the order.
      progress: Called with lines of progress.
    """
    # A token of so small a vocabulary is about three characters.
    sample = uniform_sample(texts, recipe.num_tokens * 3, seed)
    tokenizer = train_tokenizer(sample)
    documents = encode(tokenizer, sample)
    size = sum(map(len, documents))
    progress(f"tokenizer of {len(tokenizer)} tokens; {len(sample)} documents are {size:,} tokens")
    model = new_model(seed)
    train(model, documents, recipe, seed, progress)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
