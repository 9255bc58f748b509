"""Texts that answer a prompt: which part of a text is in its loss.

A model that is tuned on prompts and answers learns the answers: the loss of such a text is the mean over the answers' tokens,
given all that comes before them. A text says so itself. Each answer in it stands between two marks, U+FDD0 and U+FDD1,
noncharacters that Unicode sets aside for a program's own use, so that the text goes wherever a text goes: through files, draws
and lists. Whatever a model sees of it is `plain`. A text without a mark is an answer as a whole.

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
# What a template renders in an answer's place: its number between two further noncharacters.
_PLACE = "\ufdd2{}\ufdd3"
_PLACES = re.compile("\ufdd2(\\d+)\ufdd3")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Templates that tell the model the date would write another text every day: it is Llama 3.1's default for all.
_TODAY = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro %}"
# What else a template raises at a conversation that it does not expect.
_REFUSALS = (LookupError, AttributeError, ValueError)
# By what ShareGPT calls them.
_ROLES = {"human": "user", "gpt": "assistant"}
_ASSISTANT = "assistant"


class Message(NamedTuple):
    """A turn of a conversation.

    Attributes:
      role: Who speaks: "assistant" answers.
      content: What is said.
    """

    role: str
    content: str


class NoAnswerError(ValueError):
    """A conversation has no answer that can be told apart; the message says why."""


def without_marks(text: str) -> str:
    """Replaces what would pass for a mark, which no text needs, by U+FFFD."""
    return _MARKS.sub("\ufffd", text) if is_marked(text) else text


def is_marked(text: str) -> bool:
    """Says whether a text holds marks."""
    # The search costs nothing where the text is ASCII.
    return _START in text or _END in text


def plain(text: str) -> str:
    """Gives a text without its marks: all of it that a model sees."""
    return _MARKS.sub("", text) if is_marked(text) else text


def all_plain(texts: Iterable[str]) -> list[str]:
    """Gives texts without their marks."""
    return [plain(text) for text in texts]


def spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Gives a text without its marks, and where its answers start and end in it, in characters; none of a text without marks."""
    found = [match.span() for match in _ANSWER.finditer(text)]
    # Before the n-th answer, counted from 0, there are 2n marks and its own.
    return plain(text), [(a - 2 * n, b - 2 * n - 2) for n, (a, b) in enumerate(found)]


def answers_of(text: str) -> str:
    """Gives the answers in a text, each on lines of its own; the text itself where nothing is marked."""
    return "\n".join(_ANSWER.findall(text)) if is_marked(text) else text


def answer(prompt: str, text: str) -> str:
    """Makes the text of a prompt and an answer, whose loss is the answer's.

    Args:
      prompt: What comes before, not in the loss. Where neither it ends nor the answer begins with white space, a line break is put
        between them.
      text: The answer.
    """
    prompt, text = without_marks(prompt), without_marks(text)
    is_glued = bool(prompt and text) and not (prompt[-1].isspace() or text[0].isspace())
    return f"{prompt}{chr(10) if is_glued else ''}{_START}{text}{_END}"


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """How a model's tokenizer writes conversations.

    Attributes:
      source: The template, in Jinja.
      special_tokens: Names and values of the special tokens that it may use.
      first: What the tokenizer puts before any text by itself, so that the template need not; may be empty.
    """

    source: str
    special_tokens: tuple[tuple[str, str], ...]
    first: str

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatTemplate | None":
        """Takes the template of a tokenizer of `transformers`; None if it has none."""
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
        """Writes a conversation, with marks around its answers and what ends their turns.

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
        return marked.removeprefix(self.first)

    def _parts(self, messages: Sequence[Message], text: str) -> list[str]:
        """Cuts what the template made of messages into what is between answers and, in turn, the answers."""
        contents = [message.content for message in messages if message.role == _ASSISTANT]
        places = iter(range(len(contents)))
        shown = [
            message._replace(content=_PLACE.format(next(places)))
            if message.role == _ASSISTANT
            else message
            for message in messages
        ]
        pieces = _PLACES.split(self._render(shown)[0])
        between, numbers = pieces[::2], [int(number) for number in pieces[1::2]]
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
        """What ends a turn of the assistant, such as <|im_end|>."""
        shown = [Message("user", "?"), Message(_ASSISTANT, _PLACE.format(0))]
        return _PLACES.split(self._render(shown)[0])[-1].rstrip()

    def _render(
        self, messages: Sequence[Message], with_answers: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        # Only where there are conversations: it takes seconds to import.
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
    """Makes the text of a conversation, whose loss is that of all turns of the assistant.

    Args:
      messages: Turns in order: mappings of `role` and `content`, a string or a list of parts of which those of `type` text
        are read, or of `from` and `value`.
      template: How the model writes them. Without one, turns are written "User: ...", "Assistant: ..." with a blank line between
        them.

    Raises:
      NoAnswerError: If no turn of the assistant says anything, or as `ChatTemplate.mark`.
      TypeError: If these are no messages.
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
