"""A corpus of about 1 kB a document: Zipf words in topics, so that k-means has something to find."""

import gzip
import pathlib
from collections.abc import Iterator

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

# 50,000 documents are about 50 MB of text; a small corpus is still cut into five shards.
_DOCUMENTS_PER_SHARD = 50_000
_MIN_SHARDS = 5
# Every fifth shard is compressed JSON Lines, the others are Parquet.
_JSONL_EVERY = 5
_GROUP_ROWS = 10_000
_CHUNK = 1_000

_NUM_TOPICS = 64
_COMMON_WORDS = 20_000
_TOPIC_WORDS = 500


# Words of a document, at least and at most.
_WORDS = (70, 200)


def write_corpus(
    folder: pathlib.Path,
    num_documents: int,
    words: tuple[int, int] = _WORDS,
    min_shards: int = _MIN_SHARDS,
) -> None:
    """Writes the shards; equal arguments give equal shards.

    Args:
      folder: Where.
      num_documents: How many documents.
      words: How many words a document has, at least and at most.
      min_shards: Shards of a small corpus.
    """
    folder.mkdir(parents=True)
    size = min(_DOCUMENTS_PER_SHARD, -(-num_documents // min_shards))
    vocabulary = _vocabulary()
    for shard, first in enumerate(range(0, num_documents, size)):
        rng = np.random.default_rng([0, shard])
        rows = _rows(rng, vocabulary, words, first, min(size, num_documents - first))
        if shard % _JSONL_EVERY == _JSONL_EVERY - 1:
            with gzip.open(folder / f"part-{shard:05d}.jsonl.gz", "wb", compresslevel=6) as file:
                for batch in rows:
                    file.write(b"".join(orjson.dumps(r) + b"\n" for r in batch.to_pylist()))
        else:
            table = pa.Table.from_batches(list(rows))
            pq.write_table(table, folder / f"part-{shard:05d}.parquet", row_group_size=_GROUP_ROWS)


def _vocabulary() -> np.ndarray:
    """Makes the common words and, after them, those of each topic."""
    rng = np.random.default_rng(0)
    size = _COMMON_WORDS + _NUM_TOPICS * _TOPIC_WORDS
    letters = rng.integers(ord("a"), ord("z") + 1, (size, 10), dtype=np.uint8)
    lengths = rng.integers(3, 11, size)
    words = [
        bytes(row[:length]).decode() for row, length in zip(letters, lengths.tolist(), strict=True)
    ]
    return np.array(words, dtype=object)


def _rows(
    rng: np.random.Generator,
    vocabulary: np.ndarray,
    words: tuple[int, int],
    first: int,
    count: int,
) -> Iterator[pa.RecordBatch]:
    for start in range(first, first + count, _CHUNK):
        size = min(_CHUNK, first + count - start)
        num_words = rng.integers(words[0], words[1] + 1, size)
        # The product of two uniform draws favours the first topics: clusters differ in size.
        topics = (rng.random(size) * rng.random(size) * _NUM_TOPICS).astype(np.int64)
        drawn = vocabulary[_words(rng, np.repeat(topics, num_words))].tolist()
        ends = np.cumsum(num_words).tolist()
        texts = [" ".join(drawn[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        columns = {
            "text": texts,
            "tokens": num_words.astype(np.int64),
            "source": [f"source-{start // _CHUNK % 7}"] * size,
            "number": np.arange(start, start + size),
        }
        yield pa.RecordBatch.from_pydict(columns)


def _words(rng: np.random.Generator, topics: np.ndarray) -> np.ndarray:
    # V ** u has the density 1 / rank: Zipf's law with exponent 1.
    draws, is_common = rng.random(len(topics)), rng.random(len(topics)) < 0.5
    common = (_COMMON_WORDS**draws).astype(np.int64) - 1
    own = _COMMON_WORDS + topics * _TOPIC_WORDS + (_TOPIC_WORDS**draws).astype(np.int64) - 1
    return np.where(is_common, common, own)
