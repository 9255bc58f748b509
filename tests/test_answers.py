import pickle

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from beam_quad import answers, identity
from beam_quad.answers import ChatTemplate, NoAnswerError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
# Trims what is said, and puts its own token before all, as Llama 3's.
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}<|stop|>\n\n"
    "{{ m['content'] | trim }}<|eot|>{% endfor %}"
)
GENERATION = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<end>{% endgeneration %}{% else %}{{ m['content'] }}<end>{% endif %}{% endfor %}"
)
# Thinks before the last answer only, as Qwen 3's.
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
# Takes one thing that is said and nothing else.
SHOUTS = "{% for m in messages %}{{ m['content'] | upper }}<end>{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m['content'] }}{% endfor %}"
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "s"},
    {"role": "user", "content": "  why?\n"},
    {"role": "assistant", "content": " so it is \n"},
]


def template(source, first=""):
    return ChatTemplate(source, (("bos_token", "<s>"),), first)


def said(text):
    """The answers in a text."""
    plain, spans = answers.spans(text)
    return [plain[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("What is 2 + 2?", "4", "What is 2 + 2?\n4"),
        ("The sky is", " blue.", "The sky is blue."),
        ("Q: 2 + 2\nA: ", "4", "Q: 2 + 2\nA: 4"),
        ("", "4", "4"),
    ],
)
def test_a_line_break_parts_a_prompt_from_its_answer_if_nothing_else_does(prompt, answer, expected):
    text = answers.answer(prompt, answer)
    assert answers.plain(text) == expected
    assert said(text) == [answer]
    assert answers.answers_of(text) == answer


@given(prompt=st.text(), answer=st.text(min_size=1))
def test_whatever_a_text_holds_its_answer_is_found_again(prompt, answer):
    text = answers.answer(prompt, answer)
    clean = answers.without_marks(answer)
    assert said(text) == [clean]
    assert answers.plain(text).startswith(answers.without_marks(prompt))
    assert not answers.is_marked(answers.plain(text))
    assert len(answers.without_marks(prompt + answer)) == len(prompt + answer)


def test_a_text_without_marks_is_all_answer():
    assert answers.answers_of("all of it") == "all of it"
    assert answers.spans("all of it") == ("all of it", [])
    assert answers.without_marks("a\ufdd0b\ufdd1c") == "a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, ["s<|im_end|>", " so it is \n<|im_end|>"]),
        (LLAMA3, ["s<|eot|>", "so it is<|eot|>"]),
        (GENERATION, ["s<end>", " so it is \n<end>"]),
        (THINKS, ["s<|im_end|>", " so it is \n<|im_end|>"]),
    ],
)
def test_all_turns_of_the_assistant_are_answers_in_what_the_template_writes(source, expected):
    text = answers.conversation(TALK, template(source))
    assert said(text) == expected
    written, _ = template(source)._render([answers.Message(**turn) for turn in TALK])
    assert answers.plain(text) == written


def test_what_the_tokenizer_puts_first_itself_is_not_written_twice():
    once = answers.conversation(TALK, template(LLAMA3, first="<s>"))
    assert "<s>" + once == answers.conversation(TALK, template(LLAMA3))


def test_a_template_that_tells_the_date_writes_the_same_text_every_day():
    dated = template("Today: {{ strftime_now('%d %b %Y') }}\n" + CHATML)
    assert answers.conversation(TALK, dated).startswith("Today: 26 Jul 2024\n<|im_start|>system")


def test_without_a_template_turns_are_paragraphs():
    text = answers.conversation(TALK[1:])
    assert (
        answers.plain(text)
        == "User: a\n\nAssistant: s\n\nUser:   why?\n\n\nAssistant:  so it is \n"
    )
    assert said(text) == ["s", " so it is \n"]


def test_parts_of_a_message_and_the_names_of_sharegpt_are_read():
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "s"}]},
    ]
    names = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "s"}]
    expected = answers.conversation(TALK[1:3])
    assert answers.conversation(parts) == answers.conversation(names) == expected


@pytest.mark.parametrize(
    ("messages", "source", "error", "words"),
    [
        ("hello", CHATML, TypeError, "str, not a list"),
        ([["user", "a"]], CHATML, TypeError, "message 0 is list"),
        ([{"role": "user"}, {"content": "s"}], CHATML, TypeError, "message 1 has no role"),
        (TALK[:2], CHATML, NoAnswerError, "says anything"),
        ([{"role": "assistant", "content": " "}], None, NoAnswerError, "says anything"),
        ([{"role": "assistant", "content": None}], None, NoAnswerError, "says anything"),
        (TALK, SHOUTS, NoAnswerError, "rewrites an answer"),
        (TALK, NO_SYSTEM, NoAnswerError, "no system"),
        (TALK, "{{ messages[9]['content'].strip() }}", NoAnswerError, "refuses it"),
    ],
)
def test_a_conversation_without_an_answer_that_can_be_told_says_why(messages, source, error, words):
    with pytest.raises(error, match=words):
        answers.conversation(messages, source and template(source))


def test_a_template_is_that_of_the_tokenizer_and_names_what_is_made_from_it():
    plain = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="a"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>")
    assert ChatTemplate.of(made) is None
    made.chat_template = LLAMA3
    found = ChatTemplate.of(made)
    assert found == template(LLAMA3)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    assert ChatTemplate.of(made) == template(LLAMA3, first="<s>")
    found.mark([answers.Message(**turn) for turn in TALK])
    assert pickle.loads(pickle.dumps(found)) == found
    assert identity.digest(found) != identity.digest(template(CHATML))
