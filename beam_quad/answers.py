"""Marks the answers in texts: the parts of a text that are in its loss.

A model tuned on prompts and answers learns only the answers: the loss of such a text is the mean over the answers'
tokens, given all tokens before them. The marks are part of the text: each answer is between U+FDD0 and U+FDD1,
noncharacters reserved by Unicode for internal use, so marked texts pass through files, draws and lists like any other
text. Models see only the `plain` text. A text without marks is one answer.

References:
  The Unicode Standard, 23.7, Noncharacters.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_START, _END = "\ufdd0", "\ufdd1"
_MARKS = re.compile(f"[{_START}{_END}]")
_ANSWER = re.compile(f"{_START}([^{_END}]*){_END}")
# Placeholder of an answer in a rendered template: its number between two other noncharacters.
_PLACE = "\ufdd2{}\ufdd3"
_PLACES = re.compile("\ufdd2(\\d+)\ufdd3")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# A template that inserts today's date would make a different text every day; the fixed date is the default of Llama
# 3.1.
_TODAY = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro %}"
# Other errors a template raises on an unexpected conversation.
_REFUSALS = (LookupError, AttributeError, ValueError)
# Names of the roles in ShareGPT.
_ROLES = {"human": "user", "gpt": "assistant"}
_ASSISTANT = "assistant"


class Message(NamedTuple):
    """A turn of a conversation.

    Attributes:
      role: The speaker; the answers are those of "assistant".
      content: The text of the turn.
    """

    role: str
    content: str


class NoAnswerError(ValueError):
    """No answer can be located in a conversation; the message gives the reason."""


def without_marks(text: str) -> str:
    """Replaces characters that would be read as marks by U+FFFD; no text needs them."""
    return _MARKS.sub("\ufffd", text) if is_marked(text) else text


def is_marked(text: str) -> bool:
    """Tells whether a text contains marks."""
    # The search is free if the text is ASCII, because Python then knows the character cannot occur.
    return _START in text or _END in text


def plain(text: str) -> str:
    """Removes the marks of a text, which gives the text a model sees."""
    return _MARKS.sub("", text) if is_marked(text) else text


def all_plain(texts: Iterable[str]) -> list[str]:
    """Removes the marks of texts."""
    return [plain(text) for text in texts]


def spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Removes the marks, and finds the start and end of each answer, in characters; none if unmarked."""
    found = [match.span() for match in _ANSWER.finditer(text)]
    # The n-th answer, counted from 0, follows 2n marks of earlier answers and its own start mark.
    return plain(text), [(a - 2 * n, b - 2 * n - 2) for n, (a, b) in enumerate(found)]


def answers_of(text: str) -> str:
    """Joins the answers in a text by line breaks; an unmarked text is returned as it is."""
    return "\n".join(_ANSWER.findall(text)) if is_marked(text) else text


def answer(prompt: str, text: str) -> str:
    """Joins a prompt and an answer to a text whose loss covers the answer.

    Args:
      prompt: The text before the answer, not in the loss. If there is no white space between prompt and answer, a line
        break is inserted.
      text: The answer.
    """
    prompt, text = without_marks(prompt), without_marks(text)
    is_glued = bool(prompt and text) and not (prompt[-1].isspace() or text[0].isspace())
    return f"{prompt}{chr(10) if is_glued else ''}{_START}{text}{_END}"


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a model's tokenizer.

    Attributes:
      source: The template, in Jinja.
      special_tokens: Names and values of the special tokens the template may use.
      first: The token the tokenizer itself puts before any text, to be removed from rendered text; may be empty.
    """

    source: str
    special_tokens: tuple[tuple[str, str], ...]
    first: str

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatTemplate | None":
        """Reads the template of a `transformers` tokenizer; None if it has none."""
        if not tokenizer.chat_template:
            return None
        special = {
            name: str(value)
            for name, value in tokenizer.special_tokens_map.items()
            if isinstance(value, str)
        }
        start = tokenizer("")["input_ids"][:1]
        first = special.get("bos_token", "") if start == [tokenizer.bos_token_id] else ""
        return cls(tokenizer.get_chat_template(), tuple(sorted(special.items())), first)

    def mark(self, messages: Sequence[Message]) -> str:
        """Writes a conversation with marks around each answer and its end-of-turn token.

        Raises:
          NoAnswerError: If the template refuses the conversation, or rewrites an answer.
        """
        if _GENERATION.search(self.source):
            text, found = self._render(messages, with_answers=True)
            edges = [0, *(edge for span in found for edge in span), len(text)]
            parts = [text[a:b] for a, b in itertools.pairwise(edges)]
        else:
            text, _ = self._render(messages)
            parts = self._parts(messages, text)
        marked = "".join(
            f"{_START}{part}{_END}" if number % 2 else part for number, part in enumerate(parts)
        )
        # The tokenizer adds this token itself, so it must not be in the text as well.
        return marked.removeprefix(self.first)

    def _parts(self, messages: Sequence[Message], text: str) -> list[str]:
        """Cuts the rendered text into the parts between answers and the answers, in turn."""
        contents = [message.content for message in messages if message.role == _ASSISTANT]
        places = iter(range(len(contents)))
        shown = [
            message._replace(content=_PLACE.format(next(places)))
            if message.role == _ASSISTANT
            else message
            for message in messages
        ]
        # Renders the conversation again with placeholders for the answers, which locates them even if a prompt repeats
        # an answer.
        pieces = _PLACES.split(self._render(shown)[0])
        between, numbers = pieces[::2], [int(number) for number in pieces[1::2]]
        # Many templates strip the content, so both forms are tried; the parts must reproduce the rendered text exactly.
        for written in (contents, [content.strip() for content in contents]):
            ends = [self._end if after.startswith(self._end) else "" for after in between[1:]]
            answers = [f"{own}{end}" for own, end in zip(written, ends, strict=False)]
            rest = [after.removeprefix(end) for after, end in zip(between[1:], ends, strict=True)]
            parts = [
                between[0],
                *(part for pair in zip(answers, rest, strict=False) for part in pair),
            ]
            if numbers == list(range(len(contents))) and "".join(parts) == text:
                return parts
        raise NoAnswerError("the chat template rewrites an answer")

    @functools.cached_property
    def _end(self) -> str:
        """The end of an assistant's turn, such as <|im_end|>."""
        shown = [Message("user", "?"), Message(_ASSISTANT, _PLACE.format(0))]
        return _PLACES.split(self._render(shown)[0])[-1].rstrip()

    def _render(
        self, messages: Sequence[Message], with_answers: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        # Imported here because it takes seconds, and only conversations need it.
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, found = render_jinja_template(
                [[message._asdict() for message in messages]],
                chat_template=f"{_TODAY}{self.source}"
                if "strftime_now" in self.source
                else self.source,
                return_assistant_tokens_mask=with_answers,
                **dict(self.special_tokens),
            )
        except (jinja2.TemplateError, *_REFUSALS) as error:
            raise NoAnswerError(f"the chat template refuses it: {error}") from error
        return texts[0], found[0] if with_answers else []


def conversation(messages: Any, template: ChatTemplate | None = None) -> str:
    """Makes the text of a conversation; its loss covers all turns of the assistant.

    Args:
      messages: Turns in order: mappings of `role` and `content`, or of `from` and `value`. The content is a string, or
        a list of parts of which the text is read.
      template: The model's chat template. Without one, turns are written as "User: ...", "Assistant: ..." with a blank
        line between them.

    Raises:
      NoAnswerError: If all turns of the assistant are empty, or as `ChatTemplate.mark`.
      TypeError: If these are not messages.
    """
    turns = [_message(number, turn) for number, turn in enumerate(_listed(messages))]
    if not any(turn.role == _ASSISTANT and turn.content.strip() for turn in turns):
        raise NoAnswerError("no turn of the assistant says anything")
    if template is not None:
        return template.mark(turns)
    return "\n\n".join(
        f"{turn.role.capitalize()}: "
        + (f"{_START}{turn.content}{_END}" if turn.role == _ASSISTANT else turn.content)
        for turn in turns
    )


def _listed(messages: Any) -> Sequence[Any]:
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise TypeError(f"the messages are {type(messages).__name__}, not a list")
    return messages


def _message(number: int, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise TypeError(
            f"message {number} is {type(turn).__name__}, not an object with role and content"
        )
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(role, str) or not isinstance(content, str | None):
        raise TypeError(f"message {number} has no role and content of strings")
    return Message(_ROLES.get(role, role), without_marks(content or ""))
