"""From texts to micro-batches: tokens, windows of the proxy's context, and a fixed ladder of padded lengths."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from beam_quad import answers, errors
from beam_quad.records import Reason

# Eight lengths per octave from 128 on: padding to them adds 3 % on average, and a GPU sees few shapes.
_SHORTEST_STEP = 8
# Texts in one call of the tokenizer if tokens are only counted. A token takes some hundred bytes until it is dropped.
_TEXTS_PER_CALL = 256
T = TypeVar("T")
# First token of each answer and the token after its last, in order.
Spans = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """A piece of a document that fits the context.

    Attributes:
      document: Position of the document among the texts of one call.
      index: Position of the window among the used windows of its document.
      tokens: Token ids, at least 2.
      answers: Tokens in the loss (`beam_quad.answers`); None for all. The window's first token is never in the loss.
    """

    document: int
    index: int
    tokens: Sequence[int]
    answers: Spans | None = None

    @property
    def predicted(self) -> Spans:
        """Tokens whose prediction is in the loss; never the first."""
        found = ((0, len(self.tokens)),) if self.answers is None else self.answers
        return tuple((max(start, 1), end) for start, end in found if end > max(start, 1))

    def answer_tokens(self) -> list[Sequence[int]]:
        """Returns the tokens of each answer; all tokens if the text has no marks."""
        if self.answers is None:
            return [self.tokens]
        return [self.tokens[start:end] for start, end in self.answers]

    @property
    def num_predicted(self) -> int:
        """Number of tokens whose prediction is in the loss."""
        return sum(end - start for start, end in self.predicted)


@dataclasses.dataclass(frozen=True)
class Documents:
    """The texts of one call as windows: all that a pass needs, made without the model.

    Attributes:
      windows: All windows of all documents.
      loss_tokens: Predicted tokens in the windows of each document, int64 [num_documents]; 0 without a loss.
    """

    windows: list[Window]
    loss_tokens: np.ndarray

    @classmethod
    def of(
        cls, texts: Sequence[str], tokenizer: Any, context_length: int, max_windows: int
    ) -> "Documents":
        """Tokenises and cuts texts. If a text has marks (`beam_quad.answers`), only its answers are in the loss."""
        pieces = windows_of(read_tokens(tokenizer, texts), context_length, max_windows)
        return cls(pieces, count_loss_tokens(pieces, len(texts)))

    def take(self, positions: Sequence[int]) -> "Documents":
        """Returns some of the documents, in the order of `positions`."""
        places = {int(position): place for place, position in enumerate(positions)}
        windows = [
            dataclasses.replace(window, document=places[window.document])
            for window in self.windows
            if window.document in places
        ]
        return Documents(windows, self.loss_tokens[list(places)])


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """Windows padded on the right to one length.

    Attributes:
      tokens: Token ids, int64 [batch, length]; padding is 0.
      lengths: Tokens of each window, int64 [batch].
      loss_mask: Positions whose prediction of the next token is in the loss, bool [batch, length].
      documents: Document of each window, int64 [batch].
      indices: Index of each window in its document, int64 [batch].
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    loss_mask: torch.Tensor
    documents: torch.Tensor
    indices: torch.Tensor

    @property
    def token_mask(self) -> torch.Tensor:
        """Positions that are not padding, bool [batch, length]."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]

    @property
    def labels(self) -> torch.Tensor:
        """The token after each position, int64 [batch, length]; meaningless outside `loss_mask`."""
        return self.tokens.roll(-1, dims=1)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of a whole text.

    Attributes:
      ids: Token ids.
      answers: Tokens of each of its answers, the only ones in the loss; None if all tokens are in the loss.
    """

    ids: Sequence[int]
    answers: Spans | None = None

    def windows(
        self, context_length: int, max_windows: int
    ) -> Sequence[tuple[Sequence[int], Spans | None]]:
        """Cuts the text into windows with their answers, by `cut` if it has no marks, otherwise by `cut_answers`."""
        if self.answers is None:
            return [(own, None) for own in cut(self.ids, context_length, max_windows)]
        return cut_answers(self.ids, self.answers, context_length, max_windows)

    def is_too_long(self, context_length: int) -> bool:
        """Returns whether an answer and the token before it exceed a window."""
        return any(end - max(start - 1, 0) > context_length for start, end in self.answers or ())

    def fault(self, context_length: int) -> tuple[Reason, str] | None:
        """Returns why the text has no loss; None if it has one."""
        if self.windows(context_length, 1):
            return None
        if self.answers is None:
            return Reason.TOO_SHORT, f"{len(self.ids)} tokens; a loss needs at least 2"
        if self.is_too_long(context_length):
            longest = max(end - start for start, end in self.answers)
            return Reason.LONG_ANSWER, (
                f"an answer of {longest} tokens does not fit a window of {context_length} behind a token of its prompt"
            )
        return Reason.NO_ANSWER, "no answer has a token to predict"


def read_tokens(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Tokenizes whole texts with the tokenizer's default special tokens, and finds the tokens of their answers.

    A token belongs to the answer that contains its last character. (A tokenizer that trims offsets, such as GPT-2's,
    does not count spaces at a token's ends.)

    Args:
      tokenizer: A fast tokenizer of `transformers`.
      texts: The texts, of any length, with or without marks (`beam_quad.answers`).
    """
    if not any(map(answers.is_marked, texts)):
        return [Tokens(ids) for ids in tokenize(tokenizer, texts)]
    encoded = tokenizer(
        answers.all_plain(texts),
        padding=False,
        truncation=False,
        verbose=False,
        return_offsets_mapping=True,
    )
    each = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [_tokens(text, ids, offsets) for text, ids, offsets in each]


def _tokens(text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Tokens:
    if not answers.is_marked(text):
        return Tokens(list(ids))
    return Tokens(list(ids), _token_spans(offsets, answers.spans(text)[1]))


def _token_spans(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> Spans:
    # Special tokens have offsets (0, 0) and so belong to no answer. Only ends are compared, as GPT-2's tokenizer trims
    # the start of a run of spaces.
    ends = np.array([end for _, end in offsets], np.int64)
    found = []
    for start, end in spans:
        own = np.flatnonzero((ends > start) & (ends <= end))
        if len(own):
            found.append((int(own[0]), int(own[-1]) + 1))
    return tuple(found)


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenizes whole texts with the tokenizer's default special tokens.

    Args:
      tokenizer: A fast tokenizer of `transformers`.
      texts: The texts, of any length; marks (`beam_quad.answers`) are removed.

    Returns:
      Token ids of each whole text.
    """
    if not texts:
        return []
    encoded = tokenizer(answers.all_plain(texts), padding=False, truncation=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def without_loss(tokenizer: Any, texts: Sequence[str], context_length: int) -> dict[str, int]:
    """Counts the texts without a loss, by reason (`Tokens.fault`)."""
    faults = [tokens.fault(context_length) for tokens in read_tokens(tokenizer, texts)]
    return dict(collections.Counter(fault[0].value for fault in faults if fault))


class TokenCounter:
    """Counts the tokens of `tokenize` several times as fast, because no token leaves the tokenizer.

    Threads may share it.

    Args:
      tokenizer: A fast tokenizer of `transformers`; nothing else may use it from now on.
    """

    def __init__(self, tokenizer: Any) -> None:
        # Sets the backend tokenizer as every call of `tokenize` does: no padding, no truncation.
        tokenize(tokenizer, [""])
        self._tokenizer = tokenizer.backend_tokenizer

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """Counts the tokens of whole texts, int64 [num_texts]."""
        counts: list[int] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            some = answers.all_plain(texts[start : start + _TEXTS_PER_CALL])
            # The fast call keeps no offsets, which a count does not need.
            counts += [len(encoding) for encoding in self._tokenizer.encode_batch_fast(some)]
        return np.array(counts, np.int64)

    def check(
        self, texts: Sequence[str], context_length: int
    ) -> tuple[np.ndarray, list[tuple[Reason, str] | None]]:
        """Counts the tokens of whole texts, int64 [num_texts], and returns the `Tokens.fault` of each."""
        counts: list[int] = []
        faults: list[tuple[Reason, str] | None] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            some = texts[start : start + _TEXTS_PER_CALL]
            encoded = self._tokenizer.encode_batch(answers.all_plain(some))
            for text, encoding in zip(some, encoded, strict=True):
                counts.append(len(encoding))
                tokens = _tokens(text, encoding.ids, encoding.offsets)
                faults.append(tokens.fault(context_length))
        return np.array(counts, np.int64), faults


class TokenEncoder:
    """Makes tokens of documents as a trainer reads them: no special token but the one that ends each.

    Args:
      tokenizer: A fast tokenizer of `transformers`.
      name: The user's name for it, for errors.

    Raises:
      UsageError: If it has no token that ends a text.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        if tokenizer.eos_token_id is None:
            raise errors.UsageError(
                f"{name}: its tokenizer has no token that ends a text (eos_token); set one, or pass another --output_tokenizer"
            )
        self._tokenizer = tokenizer

    @property
    def vocabulary_size(self) -> int:
        """One more than the highest token id; some tokenizers leave out ids below it."""
        highest: int = max(self._tokenizer.get_vocab().values())
        return highest + 1

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes whole documents, each with its end, int64 [num_tokens]; marks (`beam_quad.answers`) are no part of them."""
        encoded = self._tokenizer(
            answers.all_plain(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            verbose=False,
        )
        end = self._tokenizer.eos_token_id
        return [np.array([*ids, end], np.int64) for ids in encoded["input_ids"]]


def cut(tokens: Sequence[int], context_length: int, max_windows: int) -> list[Sequence[int]]:
    """Cuts a document into windows of the context's length that do not overlap.

    If there are more than `max_windows`, evenly spaced windows are taken, including the first and the last. A last
    window of a single token predicts nothing and is dropped.

    Args:
      tokens: Token ids of the document.
      context_length: Tokens of a window, at least 2.
      max_windows: The most windows to take, at least 1.

    Returns:
      The windows in order; none for a document with fewer than 2 tokens.
    """
    starts = [s for s in range(0, len(tokens), context_length) if len(tokens) - s >= 2]
    return [tokens[s : s + context_length] for s in _evenly(starts, max_windows)]


def cut_answers(
    tokens: Sequence[int], spans: Spans, context_length: int, max_windows: int
) -> list[tuple[Sequence[int], Spans]]:
    """Cuts windows of whole answers, with as many of the preceding tokens as fit: prompts are cut from the left.

    A window takes as many answers as fit. Tokens after its last answer are not in its loss and are left out. If there
    are more than `max_windows`, evenly spaced windows are taken, as in `cut`.

    Args:
      tokens: Token ids of the document.
      spans: Tokens of its answers.
      context_length: Tokens of a window, at least 2.
      max_windows: The most windows to take, at least 1.

    Returns:
      The windows in order, with their answers; none if an answer does not fit or no answer token can be predicted.
    """
    if Tokens(tokens, spans).is_too_long(context_length):
        return []
    groups: list[list[tuple[int, int]]] = []
    for start, end in spans:
        if end <= max(start, 1):
            continue
        # One token before the first answer has to fit, to predict the answer's first token from.
        if groups and end - max(groups[-1][0][0] - 1, 0) <= context_length:
            groups[-1].append((start, end))
        else:
            groups.append([(start, end)])
    found = []
    for own in _evenly(groups, max_windows):
        end = own[-1][1]
        first = max(0, end - context_length)
        found.append((tokens[first:end], tuple((a - first, b - first) for a, b in own)))
    return found


def _evenly(items: list[T], number: int) -> list[T]:
    """Returns at most `number` evenly spaced items, including the first and the last."""
    if len(items) <= number:
        return items
    spaces = max(number - 1, 1)
    return [items[i * (len(items) - 1) // spaces] for i in range(number)]


def windows_of(documents: Iterable[Tokens], context_length: int, max_windows: int) -> list[Window]:
    """Cuts every document into windows; a document with no token to predict has none."""
    return [
        Window(document, index, *window)
        for document, own in enumerate(documents)
        for index, window in enumerate(own.windows(context_length, max_windows))
    ]


def count_loss_tokens(windows: Sequence[Window], num_documents: int) -> np.ndarray:
    """Counts the predicted tokens in the windows of each document, int64 [num_documents]."""
    counts = np.zeros(num_documents, dtype=np.int64)
    for window in windows:
        counts[window.document] += window.num_predicted
    return counts


def padded_length(length: int, context_length: int) -> int:
    """Rounds a length up to the ladder 8, 16, ..., 128, 144, 160, ..., 256, 288, ..., `context_length`."""
    step = max(_SHORTEST_STEP, 1 << max((length - 1).bit_length() - 4, 0))
    return min(-(-length // step) * step, context_length)


def micro_batches(
    windows: Sequence[Window],
    context_length: int,
    max_batch_tokens: int,
    start_tokens: int = 128,
) -> Iterator[MicroBatch]:
    """Groups windows of similar length; the grouping depends on the windows alone.

    The windows are sorted from long to short and cut where padding plus `start_tokens` per micro-batch is least. The
    largest micro-batches come first: if memory runs out, it does so at once.

    Args:
      windows: The windows of one call.
      context_length: Tokens of the longest window.
      max_batch_tokens: Padded tokens of a micro-batch; a single window may have more.
      start_tokens: Cost of starting a micro-batch, in padded tokens. With 128, texts of 40 to 1,500 tokens, ten at a
        time, are padded by 8 %; filling every micro-batch pads them by 20 to 32 %.

    Yields:
      Micro-batches, each window in exactly one.
    """
    # Document and index break ties, so the order in which the windows are given does not matter.
    ordered = sorted(windows, key=lambda w: (-len(w.tokens), w.document, w.index))
    lengths = [padded_length(len(window.tokens), context_length) for window in ordered]
    ends = list(_best_cuts(lengths, max_batch_tokens, start_tokens))
    cuts = list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
    for start, end in sorted(cuts, key=lambda cut: (cut[0] - cut[1]) * lengths[cut[0]]):
        yield _pad(ordered[start:end], lengths[start])


def even_batches(
    windows: Sequence[Window], context_length: int, max_batch_tokens: int
) -> Iterator[tuple[MicroBatch, torch.Tensor]]:
    """Groups windows of one padded length, so the padding of a window depends on its own length alone.

    A few windows make many small micro-batches; with thousands of windows nearly all micro-batches are full. The
    largest come first.

    Args:
      windows: The windows of one call.
      context_length: Tokens of the longest window.
      max_batch_tokens: Padded tokens of a micro-batch; a single window may have more.

    Yields:
      Micro-batches, each window in exactly one, and the positions of their windows, int64 [batch].
    """
    by_length: dict[int, list[int]] = {}
    for position, window in enumerate(windows):
        length = padded_length(len(window.tokens), context_length)
        by_length.setdefault(length, []).append(position)
    cuts = [
        (length, own[start : start + size])
        for length, own in by_length.items()
        for size in [max(1, max_batch_tokens // length)]
        for start in range(0, len(own), size)
    ]
    for length, own in sorted(cuts, key=lambda cut: (-len(cut[1]) * cut[0], cut[0])):
        yield _pad([windows[i] for i in own], length), torch.tensor(own)


def _best_cuts(lengths: Sequence[int], max_batch_tokens: int, start_tokens: int) -> Iterator[int]:
    """Yields the end of each micro-batch in the cheapest cut of descending lengths, found from the end."""
    num = len(lengths)
    cheapest = np.zeros(num + 1, dtype=np.int64)
    ends = np.zeros(num, dtype=np.int64)
    for start in range(num - 1, -1, -1):
        most = min(max(1, max_batch_tokens // lengths[start]), num - start)
        sizes = np.arange(1, most + 1)
        costs = sizes * lengths[start] + start_tokens + cheapest[start + sizes]
        best = int(np.argmin(costs))
        cheapest[start], ends[start] = costs[best], start + sizes[best]
    end = 0
    while end < num:
        end = int(ends[end])
        yield end


def _pad(windows: Sequence[Window], length: int) -> MicroBatch:
    tokens = torch.zeros(len(windows), length, dtype=torch.int64)
    loss_mask = torch.zeros(len(windows), length, dtype=torch.bool)
    for row, window in enumerate(windows):
        tokens[row, : len(window.tokens)] = torch.tensor(window.tokens)
        for start, end in window.predicted:
            # The loss of a token is at the position before it, which predicts it.
            loss_mask[row, start - 1 : end - 1] = True
    return MicroBatch(
        tokens=tokens,
        lengths=torch.tensor([len(w.tokens) for w in windows]),
        loss_mask=loss_mask,
        documents=torch.tensor([w.document for w in windows]),
        indices=torch.tensor([w.index for w in windows]),
    )
