from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from beam_quad.gradients import windows
from tests.gradients import tiny


def test_tokens_are_the_tokenizers_and_are_not_cut():
    assert windows.tokenize(tiny.tokenizer(), ["3 1 4", "", "5 " * 2000])[:2] == [[3, 1, 4], []]
    assert len(windows.tokenize(tiny.tokenizer(), ["5 " * 2000])[0]) == 2000
    assert windows.tokenize(tiny.tokenizer(), []) == []


def test_tokens_are_counted_as_they_are_made_whatever_the_tokenizer_did_before():
    texts = ["3 1 4", "", "5 " * 2000, *(f"{n} " * n for n in range(1, 300))]
    tokenizer = tiny.tokenizer()
    # Puts a token around every text, and is left cutting and padding.
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="7 $A 9", special_tokens=[("7", 7), ("9", 9)]
    )
    tokenizer.add_special_tokens({"pad_token": "0"})
    tokenizer(["1 2 3", "4"], truncation=True, max_length=3, padding=True)
    counter = windows.TokenCounter(tokenizer)
    expected = [len(tokens) for tokens in windows.tokenize(tokenizer, texts)]
    assert expected[:3] == [5, 2, 2002]
    assert counter.count(texts).tolist() == expected
    assert counter.count([]).tolist() == []


@pytest.mark.parametrize(
    ("num_tokens", "starts"),
    [
        (0, []),
        (1, []),
        (2, [0]),
        (10, [0]),
        (11, [0]),  # a last window of one token predicts nothing
        (12, [0, 10]),
        (30, [0, 10, 20]),
        (70, [0, 30, 60]),
        (80, [0, 30, 70]),
    ],
)
def test_windows_are_evenly_spaced(num_tokens, starts):
    cut = windows.cut(range(num_tokens), context_length=10, max_windows=3)
    assert [window[0] for window in cut] == starts
    assert all(len(window) == 10 for window in cut[:-1])


def test_one_window_is_the_first():
    assert [w[0] for w in windows.cut(range(100), context_length=10, max_windows=1)] == [0]


def test_counts_what_windows_predict():
    pieces = windows.windows_of(map(windows.Tokens, [range(25), range(1), range(7)]), 10, 4)
    assert windows.count_loss_tokens(pieces, 3).tolist() == [9 + 9 + 4, 0, 6]


@given(length=st.integers(1, 5000))
def test_padding_adds_less_than_an_eighth_or_8_tokens(length):
    padded = windows.padded_length(length, 10_000)
    assert length <= padded < length + max(8, length / 8)
    assert windows.padded_length(length, length) == length


@given(
    lengths=st.lists(st.integers(2, 64), min_size=1, max_size=30),
    max_batch_tokens=st.integers(8, 300),
)
def test_micro_batches_hold_every_window_once(lengths, max_batch_tokens):
    pieces = windows.windows_of(map(windows.Tokens, [list(range(n)) for n in lengths]), 64, 1)
    found = []
    for batch in windows.micro_batches(pieces, 64, max_batch_tokens):
        assert batch.tokens.numel() <= max_batch_tokens or len(batch.tokens) == 1
        assert batch.token_mask.sum(1).tolist() == batch.lengths.tolist()
        assert batch.loss_mask.sum(1).tolist() == (batch.lengths - 1).tolist()
        for row, document in zip(
            batch.tokens[batch.loss_mask].split((batch.lengths - 1).tolist()),
            batch.documents.tolist(),
            strict=True,
        ):
            found.append(document)
            assert row.tolist() == list(range(lengths[document] - 1))
    assert sorted(found) == list(range(len(lengths)))


@given(
    lengths=st.lists(st.integers(2, 64), min_size=1, max_size=30),
    max_batch_tokens=st.integers(8, 300),
)
def test_even_micro_batches_pad_a_window_by_its_own_length(lengths, max_batch_tokens):
    pieces = windows.windows_of(map(windows.Tokens, [[n] * n for n in lengths]), 64, 1)
    found = []
    for batch, own in windows.even_batches(pieces, 64, max_batch_tokens):
        assert batch.tokens.numel() <= max_batch_tokens or len(batch.tokens) == 1
        (padded,) = {windows.padded_length(n, 64) for n in batch.lengths.tolist()}
        assert batch.tokens.shape[1] == padded
        assert batch.tokens[:, 0].tolist() == [lengths[i] for i in own]
        found += own.tolist()
    assert sorted(found) == list(range(len(lengths)))


def test_many_texts_fill_micro_batches_and_are_hardly_padded():
    draws = np.random.default_rng(0)
    lengths = np.exp(draws.normal(np.log(250), 1, 4000)).astype(int).clip(20, 4000)
    pieces = windows.windows_of(map(windows.Tokens, [range(n) for n in lengths.tolist()]), 1024, 4)
    sizes = [b.tokens.numel() for b, _ in windows.even_batches(pieces, 1024, 8192)]
    tokens = sum(len(window.tokens) for window in pieces)
    assert 1 - tokens / sum(sizes) < 0.05
    assert np.mean(sizes) > 0.85 * 8192


def test_labels_are_the_next_tokens():
    (batch,) = windows.micro_batches(
        windows.windows_of(map(windows.Tokens, [[5, 6, 7]]), 64, 1), 64, 100
    )
    assert batch.labels[batch.loss_mask].tolist() == [6, 7]


@given(
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=9),
    max_batch_tokens=st.integers(8, 300),
)
def test_no_other_cut_pads_less(lengths, max_batch_tokens):
    padded = sorted((64 * length for length in lengths), reverse=True)

    def cost(ends):
        starts = [0, *ends[:-1]]
        sizes = [(b - a, padded[a]) for a, b in zip(starts, ends, strict=True)]
        if any(n > 1 and n * length > max_batch_tokens for n, length in sizes):
            return np.inf
        return sum(n * length + 128 for n, length in sizes)

    inner = range(1, len(padded))
    cuts = [[*c, len(padded)] for n in range(len(padded)) for c in combinations(inner, n)]
    found = list(windows._best_cuts(padded, max_batch_tokens, 128))
    assert cost(found) == min(cost(ends) for ends in cuts)


def test_numbers_that_are_no_token_count_in_a_vocabulary():
    class Sparse:
        eos_token_id = 7

        def __len__(self) -> int:
            return 2

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "</s>": 7}

    assert windows.TokenEncoder(Sparse(), "sparse").vocabulary_size == 8
