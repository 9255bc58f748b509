"""From texts to micro-batches: tokens, windows of the proxy's context, and a fixed ladder of lengths."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

# Eight lengths per octave from 128 on: padding to them adds 3 % on average, and a GPU sees few shapes.
_SHORTEST_STEP = 8
# Tokens that are only counted are dropped after so many texts: a token takes some hundred bytes.
_TEXTS_PER_CALL = 256


@dataclasses.dataclass(frozen=True)
class Window:
    """A piece of a document that fits the context.

    Attributes:
      document: Position of the document among the texts of one call.
      index: Position of the window among those of its document that are looked at.
      tokens: Token ids, at least 2.
    """

    document: int
    index: int
    tokens: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Documents:
    """The texts of one call, as windows: all that a pass needs of them, made without the model.

    Attributes:
      windows: All windows of all documents.
      loss_tokens: Tokens of each document that its windows predict, int64 [num_documents]; 0 where it has none.
    """

    windows: list[Window]
    loss_tokens: np.ndarray

    @classmethod
    def of(
        cls, texts: Sequence[str], tokenizer: Any, context_length: int, max_windows: int
    ) -> "Documents":
        """Tokenises and cuts texts."""
        pieces = windows_of(tokenize(tokenizer, texts), context_length, max_windows)
        return cls(pieces, count_loss_tokens(pieces, len(texts)))

    def take(self, positions: Sequence[int]) -> "Documents":
        """Takes some of the documents, in the order of their positions."""
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
      documents: Document of each window, int64 [batch].
      indices: Index of each window in its document, int64 [batch].
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    documents: torch.Tensor
    indices: torch.Tensor

    @property
    def token_mask(self) -> torch.Tensor:
        """Positions that are not padding, bool [batch, length]."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]

    @property
    def loss_mask(self) -> torch.Tensor:
        """Positions whose prediction, of the next token, is in the loss, bool [batch, length]."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None] - 1

    @property
    def labels(self) -> torch.Tensor:
        """The token after each position, int64 [batch, length]; meaningless outside `loss_mask`."""
        return self.tokens.roll(-1, dims=1)


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenizes whole texts with the tokenizer's default special tokens.

    Args:
      tokenizer: A fast tokenizer of `transformers`.
      texts: The texts, of any length.

    Returns:
      Token ids of each text, not cut.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), padding=False, truncation=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


class TokenCounter:
    """Counts tokens as `tokenize` makes them, several times as fast: no token leaves the tokenizer.

    Threads may share it.

    Args:
      tokenizer: A fast tokenizer of `transformers`, which nothing else uses from now on.
    """

    def __init__(self, tokenizer: Any) -> None:
        # Leaves the tokenizer without padding and truncation, and set as all calls of `tokenize` set it.
        tokenize(tokenizer, [""])
        self._tokenizer = tokenizer.backend_tokenizer

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """Counts the tokens of whole texts, int64 [num_texts]."""
        counts: list[int] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            some = list(texts[start : start + _TEXTS_PER_CALL])
            counts += [len(encoding) for encoding in self._tokenizer.encode_batch_fast(some)]
        return np.array(counts, np.int64)


def cut(tokens: Sequence[int], context_length: int, max_windows: int) -> list[Sequence[int]]:
    """Cuts a document into windows of the context's length that do not overlap.

    Where there are more than `max_windows`, evenly spaced ones are taken, the first and the last among
    them. A last window of a single token predicts nothing and is dropped.

    Args:
      tokens: Token ids of the document.
      context_length: Tokens of a window, at least 2.
      max_windows: The most windows to take, at least 1.

    Returns:
      The windows in order; none for a document with fewer than 2 tokens.
    """
    starts = [s for s in range(0, len(tokens), context_length) if len(tokens) - s >= 2]
    if len(starts) > max_windows:
        spaces = max(max_windows - 1, 1)
        starts = [starts[i * (len(starts) - 1) // spaces] for i in range(max_windows)]
    return [tokens[s : s + context_length] for s in starts]


def windows_of(
    documents: Sequence[Sequence[int]], context_length: int, max_windows: int
) -> list[Window]:
    """Cuts every document; one with fewer than 2 tokens gives no window."""
    return [
        Window(document, index, tokens)
        for document, ids in enumerate(documents)
        for index, tokens in enumerate(cut(ids, context_length, max_windows))
    ]


def count_loss_tokens(windows: Sequence[Window], num_documents: int) -> np.ndarray:
    """Counts the tokens of each document that its windows predict, int64 [num_documents]."""
    counts = np.zeros(num_documents, dtype=np.int64)
    for window in windows:
        counts[window.document] += len(window.tokens) - 1
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
    """Groups windows of like length; what a micro-batch holds depends on the windows alone.

    Of all ways to cut the row of windows from long to short, the one with the least padding is taken, where another
    micro-batch counts like some padding too. The largest come first, so that memory runs out at once if at all.

    Args:
      windows: The windows of one call.
      context_length: Tokens of the longest window.
      max_batch_tokens: Padded tokens of a micro-batch; one window alone may hold more.
      start_tokens: What starting a micro-batch costs, in padded tokens. With 128, texts of 40 to 1,500 tokens, ten at a
        time, are padded by 8 %; filling micro-batches to the brim pads them by 20 to 32 %.

    Yields:
      Micro-batches that hold every window once.
    """
    ordered = sorted(windows, key=lambda w: (-len(w.tokens), w.document, w.index))
    lengths = [padded_length(len(window.tokens), context_length) for window in ordered]
    ends = list(_best_cuts(lengths, max_batch_tokens, start_tokens))
    cuts = list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
    for start, end in sorted(cuts, key=lambda cut: (cut[0] - cut[1]) * lengths[cut[0]]):
        yield _pad(ordered[start:end], lengths[start])


def even_batches(
    windows: Sequence[Window], context_length: int, max_batch_tokens: int
) -> Iterator[tuple[MicroBatch, torch.Tensor]]:
    """Groups windows of one padded length, so that what a window goes through depends on its own length alone.

    A few windows make many small micro-batches; of thousands, nearly all micro-batches are full. The largest come first.

    Args:
      windows: The windows of one call.
      context_length: Tokens of the longest window.
      max_batch_tokens: Padded tokens of a micro-batch; one window alone may hold more.

    Yields:
      Micro-batches that hold every window once, and the positions of their windows, int64 [batch].
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
    """Yields where each micro-batch ends: the cheapest way to cut lengths in descending order, found from the end."""
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
    for row, window in enumerate(windows):
        tokens[row, : len(window.tokens)] = torch.tensor(window.tokens)
    return MicroBatch(
        tokens=tokens,
        lengths=torch.tensor([len(w.tokens) for w in windows]),
        documents=torch.tensor([w.document for w in windows]),
        indices=torch.tensor([w.index for w in windows]),
    )
