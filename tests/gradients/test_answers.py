import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from beam_quad import answers
from beam_quad.gradients import windows
from beam_quad.records import Reason
from tests.gradients import tiny


def test_prompts_are_cut_from_the_left_and_answers_never():
    tokens = list(range(100))
    ((found, own),) = windows.cut_answers(tokens, ((95, 100),), 16, 4)
    assert found == list(range(84, 100))
    assert own == ((11, 16),)
    ((found, own),) = windows.cut_answers(tokens, ((40, 55),), 16, 4)
    assert found == list(range(39, 55))
    assert own == ((1, 16),)
    assert windows.cut_answers(tokens, ((40, 56),), 16, 4) == []
    assert windows.cut_answers(tokens, ((3, 5), (40, 56)), 16, 4) == []
    assert windows.cut_answers(tokens, ((0, 1),), 16, 4) == []


def test_of_many_windows_of_answers_evenly_spaced_ones_are_taken():
    spans = tuple((20 * i + 10, 20 * i + 20) for i in range(10))
    found = windows.cut_answers(list(range(200)), spans, 16, 3)
    assert [tokens[-1] for tokens, _ in found] == [19, 99, 199]
    assert [own for _, own in found] == [((6, 16),)] * 3


@st.composite
def conversations(draw):
    """Lengths of prompts and answers, in turn."""
    lengths = st.tuples(st.integers(0, 20), st.integers(1, 12))
    return draw(st.lists(lengths, min_size=1, max_size=8))


@given(turns=conversations(), context_length=st.integers(2, 40))
def test_every_token_of_an_answer_is_predicted_once_from_all_that_fits_before_it(
    turns, context_length
):
    spans, at = [], 0
    for prompt, answer in turns:
        spans.append((at + prompt, at + prompt + answer))
        at += prompt + answer
    tokens = list(range(at))
    found = windows.cut_answers(tokens, tuple(spans), context_length, 100)
    wanted = [i for start, end in spans for i in range(max(start, 1), end)]
    if any(end - max(start - 1, 0) > context_length for start, end in spans):
        assert found == []
        return
    windows_of = [windows.Window(0, i, *window) for i, window in enumerate(found)]
    predicted = [
        window.tokens[i] for window in windows_of for start, end in window.predicted
        for i in range(start, end)
    ]  # fmt: skip
    assert predicted == wanted
    for window in windows_of:
        assert len(window.tokens) == min(context_length, window.tokens[-1] + 1)
    assert windows.count_loss_tokens(windows_of, 1).tolist() == [len(wanted)]


def byte_level(trims_offsets):
    """A tokenizer as GPT-2's, whose offsets leave the spaces before words out, or not."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>"]
    )
    tokenizer.train_from_iterator(["def f(x):\n    return x  # été", "What is it?"] * 9, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trims_offsets),
            processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 0)]),
        ]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("trims_offsets", [True, False])
@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Write f.", "def f(x):\n    return x  \n"),
        ("", "    return"),
        ("What is it?", " été, 漢字"),
    ],
)
def test_the_tokens_of_an_answer_spell_it_with_its_spaces(prompt, answer, trims_offsets):
    tokenizer = byte_level(trims_offsets)
    (found,) = windows.read_tokens(tokenizer, [answers.answer(prompt, answer)])
    ((start, end),) = found.answers
    assert found.ids == tokenizer(answers.plain(answers.answer(prompt, answer)))["input_ids"]
    assert tokenizer.decode(found.ids[start:end]) == answer
    # The tokens around a text are the tokenizer's own, and of no answer.
    assert (found.ids[0], found.ids[-1], end) == (0, 0, len(found.ids) - 1)


@pytest.mark.parametrize(
    ("trims_offsets", "counted"), [(False, "\n    return x"), (True, " return x")]
)
def test_a_token_over_the_border_is_the_answers_if_it_ends_there(trims_offsets, counted):
    tokenizer = byte_level(trims_offsets)
    (found,) = windows.read_tokens(tokenizer, [answers.answer("def f(x):\n", "    return x")])
    ((start, end),) = found.answers
    # One token is the line break and three spaces; where offsets are trimmed it ends with the line break.
    assert tokenizer.decode(found.ids[start:end]) == counted


def test_why_an_answer_has_no_loss_is_said_and_counted():
    tokenizer = tiny.tokenizer()
    texts = [
        answers.answer("1 2", "3 4"),
        answers.answer("1", " ".join("5" * 16)),
        answers.answer("", "7"),
        answers.answer("1 2", "\t"),
        "7",
        "7 8",
    ]
    counter = windows.TokenCounter(tiny.tokenizer())
    counts, faults = counter.check(texts, 16)
    assert counts.tolist() == [4, 17, 1, 2, 1, 2]
    assert [fault and fault[0] for fault in faults] == [
        None, Reason.LONG_ANSWER, Reason.NO_ANSWER, Reason.NO_ANSWER, Reason.TOO_SHORT, None,
    ]  # fmt: skip
    assert "an answer of 16 tokens does not fit a window of 16" in faults[1][1]
    assert windows.without_loss(tokenizer, texts, 16) == {
        "long_answer": 1, "no_answer": 2, "too_short": 1,
    }  # fmt: skip
    assert windows.Documents.of(texts, tokenizer, 16, 4).loss_tokens.tolist() == [2, 0, 0, 0, 0, 1]


@given(lengths=st.lists(st.tuples(st.integers(0, 30), st.integers(2, 15)), min_size=1, max_size=9))
def test_micro_batches_mask_all_but_the_predictions_of_answers(lengths):
    tokens = [
        windows.Tokens(list(range(prompt + answer)), ((prompt, prompt + answer),))
        for prompt, answer in lengths
    ]
    pieces = windows.windows_of(tokens, 16, 4)
    for batch in windows.micro_batches(pieces, 16, 64):
        masked = batch.labels[batch.loss_mask].split(batch.loss_mask.sum(1).tolist())
        for document, labels in zip(batch.documents.tolist(), masked, strict=True):
            prompt, answer = lengths[document]
            np.testing.assert_array_equal(labels, np.arange(max(prompt, 1), prompt + answer))
