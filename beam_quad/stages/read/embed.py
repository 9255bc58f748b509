"""Reads every text once: counts its tokens, stores its embedding, and sets a hash sample of texts aside."""

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa

from beam_quad import identity, seeding
from beam_quad.additive import Tally
from beam_quad.additive import total as sum_up
from beam_quad.answers import all_plain
from beam_quad.artifacts import aligned, files, traffic
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.corpus import seen
from beam_quad.corpus.batches import RowBatch
from beam_quad.corpus.joining import leave_out, parts_of
from beam_quad.corpus.json_types import Seen
from beam_quad.corpus.rows import read_rows, read_runs
from beam_quad.corpus.sums import ReadSums
from beam_quad.embedding import Embedder, EmbedderSpec, PreparingEmbedder
from beam_quad.errors import BadFileError, IntegrityError
from beam_quad.gradients.proxy import load_tokenizer
from beam_quad.gradients.windows import TokenCounter
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Reason, Split, count_lengths
from beam_quad.stages.base import ModelStage
from beam_quad.stages.read.corpus import (
    BAD,
    READ_OF,
    WITHOUT_EMBEDDING,
    Corpus,
    piece_name,
    piece_path,
    without_embedding,
)
from beam_quad.stages.read.embedder import embedding_work, load_stored_embedder
from beam_quad.stages.read.points import PointsAside
from beam_quad.stages.read.prefetch import made_ahead
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.read.text_stage import TextStage

# Batches are aligned runs of this many rows of a shard, so the batch of a text never depends on how the corpus was
# split.
BATCH_ROWS = 256
# Runs of batches are embedded together: with this many texts, most are batched with others of similar length.
_RUN_ROWS = 16 * BATCH_ROWS
_RUN_CHARACTERS = 1 << 22

# Characters for each token that an encoder reads, as texts are first cut; see `embedding.sentence`.
_CHARACTERS_PER_TOKEN = 8

RESERVE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("key", pa.uint64()),
        pa.field("tokens", pa.int64()),
        pa.field("example_id", pa.string()),
        pa.field("text", pa.large_string()),
    ]
)


class _Model(NamedTuple):
    """The models that read and embed texts.

    Attributes:
      embedder: The embedder, or None if nothing is embedded.
      counter: Counts the proxy's tokens, and finds the tokens of answers; None if neither is needed.
      lock: Held while texts pass through the embedder.
    """

    embedder: Embedder | None
    counter: TokenCounter | None
    lock: threading.Lock

    def prepare(self, texts: list[str]) -> Any:
        """Does the embedder's work that needs no device."""
        if isinstance(self.embedder, PreparingEmbedder):
            return self.embedder.prepare(texts)
        return texts

    def embed(self, prepared: Any) -> np.ndarray:
        """Embeds the output of `prepare`: float32 [num_texts, dim]."""
        assert self.embedder is not None
        with self.lock:
            if isinstance(self.embedder, PreparingEmbedder):
                return self.embedder.embed_prepared(prepared)
            return self.embedder.embed(prepared)


class _Run(NamedTuple):
    """Consecutive rows, complete except for their vectors.

    Attributes:
      rows: The rows, n of them.
      columns: The stored columns.
      has_text: Which rows have a text, bool [n].
      prepared: These texts, prepared for the embedder; None if they are not embedded.
      of_texts: The columns of each `TextStage`.
    """

    rows: RowBatch
    columns: dict[str, Any]
    has_text: np.ndarray
    prepared: Any | None
    of_texts: list[dict[str, Any]]


class _Vectors:
    """Embeds the texts of a split and writes their vectors, and a second copy of some for centers.

    Args:
      corpus: The corpus, embedded.
      split: The split.
      model: The model.
      stack: Context that closes the file of the vectors, or drops it on an error.
    """

    def __init__(
        self, corpus: Corpus, split: Split, model: _Model, stack: contextlib.ExitStack
    ) -> None:
        assert model.embedder is not None
        self._model, self._dim = model, model.embedder.dim
        schema = aligned.embeddings_schema(self._dim)
        path = corpus.embeddings_path(split)
        # Later stages read the vectors of a few rows, and only the row groups that have them.
        self._writer = stack.enter_context(aligned.table_writer(path, schema, 8192))
        self._points = PointsAside(corpus, split)
        self._without: list[int] = []

    def add(self, first_row: int, rows: aligned.Rows, run: _Run) -> None:
        """Embeds a run of rows, the number of the first."""
        traffic.count("documents_embedded", int(run.has_text.sum()))
        vectors = np.zeros((len(run.rows), self._dim), np.float32)
        if run.has_text.any():
            vectors[run.has_text] = self._model.embed(run.prepared)
        self._writer.write({"embedding": aligned.embedding_column(vectors)})
        has_none = run.has_text & ~vectors.any(axis=1)
        self._without += (first_row + np.flatnonzero(has_none)).tolist()
        self._points.add(first_row, rows, vectors)

    def close(self) -> None:
        """Closes the file of the vectors."""
        self._writer.close({WITHOUT_EMBEDDING: self._without})

    def set_aside(self) -> None:
        """Writes the vectors for centers; the file is final at once, not at the end of the stack."""
        self._points.write()


@dataclasses.dataclass(frozen=True)
class EmbedExamples(SplitStage, ModelStage):
    """Reads every split once and writes its row-aligned artifacts; gives the counts of each split.

    Writes the rows (key, tokens, reason of rejection; their counts and shapes as metadata), the embeddings, the texts
    of the reserve, and the files of `TextStage`s. Only references and counts leave the worker.

    Args:
      corpus: The corpus, with its embedder.
      tokenizer: Path or hub id of the proxy's tokenizer; None if the corpus needs none.
      tokenizer_revision: Its revision on the hub.
      texts: Stages whose files are made in the same reading.
    """

    kind = "corpus"
    artifact_name = "totals.json"
    # One piece uses the device while another is read or written.
    pieces_at_once = 2

    corpus: Annotated[Corpus, identity.CountedAs(Corpus.whole, "nothing is selected here")]
    tokenizer: Annotated[str | None, identity.NotCounted("the corpus names its content")]
    tokenizer_revision: Annotated[str | None, identity.NotCounted("as the tokenizer")]
    texts: Annotated[
        tuple[TextStage, ...], identity.NotCounted("they make what was read without being made")
    ] = ()

    @property
    def folder(self) -> str:
        """Folder of the totals: that of the corpus, whose artifacts this stage makes."""
        return self.corpus.folder

    @property
    def model_key(self) -> str:
        return repr((self.corpus.embedder, self.tokenizer, self.tokenizer_revision))

    @property
    def device(self) -> str:
        return self.corpus.embedder.device if self.corpus.embedder else "cpu"

    def load(self) -> _Model:
        spec, embedder, counter = self.corpus.embedder, None, None
        if spec is not None:
            embedder = load_stored_embedder(spec)
        if self.tokenizer is not None:
            counter = TokenCounter(load_tokenizer(self.tokenizer, self.tokenizer_revision))
        return _Model(embedder, counter, threading.Lock())

    def work(self, sizes: Sizes) -> Work:
        texts, embedder, spec = sizes.missing, sizes.embedder, self.corpus.embedder
        seconds = texts.documents * rates.EMBED_ROW_S
        if self.tokenizer is not None:
            seconds += texts.text_bytes * rates.TOKENISE_BYTE_S
        if isinstance(spec, EmbedderSpec) and spec.name == "hashing":
            seconds += texts.text_bytes * rates.HASH_BYTE_S
        elif spec is not None:
            # Texts are cut before an encoder tokenises them, so the tail of a long text costs nothing.
            read = texts.documents * embedder.read_tokens(texts.mean_tokens)
            seconds += min(texts.text_bytes, read * _CHARACTERS_PER_TOKEN) * rates.WORDPIECE_BYTE_S
        seconds += sum(stage.text_s(texts) for stage in self.texts)
        flops = embedder.flops(texts.mean_tokens) * texts.documents
        reserve = round(self.corpus.reserve_rate * texts.documents)
        return dataclasses.replace(
            embedding_work("embed", spec, texts.documents, flops),
            core_s=seconds,
            bytes_read=texts.stored_bytes,
            bytes_stored=2.0 * texts.documents * embedder.dim + reserve * texts.mean_stored_bytes,
            requests=texts.requests(6, 4),
        )

    def prefixes(self) -> tuple[str, ...]:
        corpus = self.corpus
        folders = (corpus.rows_dir, corpus.embeddings_dir, corpus.reserve_dir)
        return tuple(folder for folder in folders if folder is not None)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return tuple(piece_path(folder, piece) for folder in self.prefixes())

    def statistic(self, piece: Split) -> ReadSums:
        stored = aligned.read_metadata(piece_path(self.corpus.rows_dir, piece))
        if self.corpus.on_bad_file != "reject":
            # The split may have been read by a run that leaves bad files out, so the stored problem is raised here.
            for part in parts_of(piece):
                if part.shard in stored[BAD]:
                    raise BadFileError(part.path, stored[BAD][part.shard])
        own = {name: value for name, value in stored.items() if name not in (READ_OF, BAD)}
        return self._counted(piece, ReadSums.from_json(own))

    def do(self, piece: Split, model: _Model) -> ReadSums:
        bad: dict[str, str] = {}
        # Each retry leaves out at least one more bad shard, so the loop ends.
        while True:
            try:
                if problem := self.corpus.plan().bad_files.get(piece.shard):
                    raise BadFileError(piece.path, problem)
                return self._embed(piece, model, bad)
            except BadFileError as error:
                if self.corpus.on_bad_file != "reject":
                    raise
                if not piece.packed:
                    return self._write_bad(piece, error)
                # In a split of joined shards, the good ones are read again without all bad ones.
                found = self._find_bad(piece)
                if found.keys() <= bad.keys():
                    raise
                bad |= found

    def _find_bad(self, split: Split) -> dict[str, str]:
        """Reads all shards of a split, and returns the problem of each unreadable one."""
        bad = {}
        for part in parts_of(split):
            try:
                for _ in read_rows(part, self.corpus.columns, BATCH_ROWS):
                    pass
            except BadFileError as error:
                bad[part.shard] = error.detail
        return bad

    def finish(self, total: ReadSums) -> None:
        write_json(self.artifact, total.as_json())

    def progress(self, total: ReadSums) -> dict[str, int]:
        return {"documents": total.read, "tokens": total.tokens}

    def _embed(self, split: Split, model: _Model, bad: Mapping[str, str]) -> ReadSums:
        corpus, readable, rows_seen = self.corpus, leave_out(split, bad), Seen()
        totals = {part.shard: ReadSums() for part in parts_of(readable)}
        num_rows = 0
        with contextlib.ExitStack() as stack:
            rows, reserve = (
                stack.enter_context(
                    aligned.table_writer(piece_path(folder, split), schema, group_rows)
                )
                for folder, schema, group_rows in (
                    # Rows are always read whole; texts are few, long, and read by their row groups.
                    (corpus.rows_dir, aligned.ROWS_SCHEMA, 1 << 20),
                    (corpus.reserve_dir, RESERVE_SCHEMA, 1024),
                )
            )
            # Files another tokenizer, reserve or run made from the same texts are reused: embeddings are the expensive
            # part.
            found = [path for path in self._of_texts(split) if files.exists(path)]
            vectors = None
            if corpus.embeddings_dir is not None and corpus.embeddings_path(split) not in found:
                vectors = _Vectors(corpus, split, model, stack)
            asked = [stage for stage in self.texts if stage.path_of(split) not in found]
            writers = [stack.enter_context(stage.writer(split)) for stage in asked]
            traffic.count("bytes_read", split.size_bytes)
            runs = (
                (part.shard, run)
                for part in parts_of(readable)
                for run in read_runs(
                    part, corpus.columns, BATCH_ROWS, _RUN_ROWS, _RUN_CHARACTERS, rows_seen
                )
            )
            for shard, run in made_ahead(
                runs,
                lambda own: (own[0], self._prepare(own[1], model, vectors is not None, asked)),
            ):
                read = aligned.Rows(*(run.columns[name] for name in ("key", "tokens", "reason")))
                if vectors is not None:
                    vectors.add(num_rows, read, run)
                for writer, columns in zip(writers, run.of_texts, strict=True):
                    writer.write(columns)
                rows.write(run.columns)
                kept = np.flatnonzero(corpus.in_reserve(read))
                self._write_reserve(reserve, run.rows, num_rows, read, kept)
                totals[shard] += _sums(read, kept)
                num_rows += len(run.rows)
            if vectors is not None:
                vectors.close()
            if split.first_group == 0:
                # This reads the rows just read, from the file system's cache, so its bytes are not counted again.
                seen.record(corpus.seen_dir, readable, corpus.columns.names)
            unusable = {s: own.read for s, own in totals.items() if own.read and not own.usable}
            total = dataclasses.replace(
                sum_up(totals.values(), ReadSums()),
                unusable=Tally(unusable),
                bad_files=Tally(dict.fromkeys(bad, 1)),
                shapes=rows_seen.shapes,
            )
            if split.packed:
                _check_rows(split, num_rows, found)
            if vectors is not None:
                # Written last, because a bad file found before would make them invalid.
                vectors.set_aside()
            read_of = {s: own.read for s, own in totals.items()} if split.packed else {}
            rows.close(total.as_json() | {READ_OF: read_of, BAD: dict(bad)})
        return self._counted(split, total)

    def _of_texts(self, split: Split) -> list[str]:
        """The files of a split that depend only on its texts, and so may exist already."""
        paths = [stage.path_of(split) for stage in self.texts]
        if self.corpus.embeddings_dir is None:
            return paths
        return [self.corpus.embeddings_path(split), *paths]

    def _counted(self, split: Split, read: ReadSums) -> ReadSums:
        """Counts a split for this run, because stored counts ignore excluded ids and the embedder."""
        if self.corpus.excluded is not None:
            rows = self.corpus.stored_rows(split)
            kept = np.flatnonzero(self.corpus.in_reserve(rows))
            tokens = np.where(rows.usable, rows.tokens, 0)
            counted = _sums(dataclasses.replace(rows, tokens=tokens), kept)
            known = {name: getattr(read, name) for name in ("unusable", "bad_files", "shapes")}
            read = dataclasses.replace(counted, **known)
        return dataclasses.replace(read, without_embedding=self._without_embedding(split))

    def _without_embedding(self, split: Split) -> Tally:
        """Counts the usable texts of a split without an embedding; empty if nothing is embedded."""
        if self.corpus.embeddings_dir is None:
            return Tally()
        rows = without_embedding(self.corpus.embeddings_dir, split)
        if not rows:
            return Tally()
        usable = self.corpus.stored_rows(split).usable[rows]
        return Tally({piece_name(split): int(usable.sum())})

    def _prepare(
        self, rows: RowBatch, model: _Model, is_embedded: bool, asked: Sequence[TextStage]
    ) -> _Run:
        """Does all work that needs no device: counts tokens, hashes rows, and prepares texts."""
        texts = [text for text in rows.texts if text is not None]
        seen = all_plain(texts)
        has_text = np.array([text is not None for text in rows.texts])
        columns = self._row_columns(rows, texts, model.counter)
        return _Run(
            rows,
            columns,
            has_text,
            model.prepare(seen) if is_embedded else None,
            [stage.columns_of(rows.texts) for stage in asked],
        )

    def _row_columns(
        self, batch: RowBatch, texts: list[str], counter: TokenCounter | None
    ) -> dict[str, Any]:
        reasons, details = list(batch.reasons), list(batch.details)
        good = [i for i, text in enumerate(batch.texts) if text is not None]
        tokens = np.zeros(len(reasons), np.int64)
        faults: Sequence[tuple[Reason, str] | None] = ()
        if counter is not None and self.corpus.context_length is not None:
            tokens[good], faults = counter.check(texts, self.corpus.context_length)
        elif counter is not None:
            tokens[good] = counter.count(texts)
        # A column of token counts takes precedence over the tokenizer.
        if batch.tokens is not None:
            tokens[good] = batch.tokens[good]
        # Without answers there are no faults, only counts.
        for i, fault in itertools.zip_longest(good, faults):
            if fault:
                reasons[i], details[i] = fault
            elif tokens[i] < 2:
                reasons[i] = Reason.TOO_SHORT
                details[i] = f"{tokens[i]} tokens; a loss needs at least 2"
        codes = np.array([aligned.reason_code(reason) for reason in reasons], np.uint8)
        usable = codes == aligned.USABLE
        keys = seeding.keys(batch.ids)
        return {
            # Rejected rows have no key and no tokens, so no draw and no sum can include them.
            "key": np.where(usable, keys, np.uint64(0)),
            "tokens": np.where(usable, tokens, 0),
            "reason": codes,
            "detail": [detail or None for detail in details],
            # Default ids follow from shard and row, so they are not stored.
            "example_id": batch.ids
            if self.corpus.columns.id
            else pa.nulls(len(codes), pa.string()),
        }

    def _write_reserve(
        self,
        writer: aligned.TableWriter,
        batch: RowBatch,
        first_row: int,
        rows: aligned.Rows,
        kept: np.ndarray,
    ) -> None:
        # The text of an excluded id is never written, not even where nothing would read it.
        if self.corpus.excluded is not None:
            kept = kept[~self.corpus.excluded.rows_of(rows)[kept]]
        writer.write(
            {
                "row": first_row + kept,
                "key": rows.keys[kept],
                "tokens": rows.tokens[kept],
                "example_id": [batch.ids[i] for i in kept],
                "text": [batch.texts[i] for i in kept],
            }
        )

    def _write_bad(self, split: Split, error: BadFileError) -> ReadSums:
        write_json(self.corpus.bad_path(split), {"detail": error.detail})
        return ReadSums(bad_files=Tally({split.shard: 1}))


def bad_file_detail(corpus: Corpus, split: Split) -> str:
    """The problem of the file of a split of one shard, or an empty string."""
    path = corpus.bad_path(split)
    return str(read_json(path)["detail"]) if files.exists(path) else ""


def _check_rows(split: Split, num_rows: int, found: Sequence[str]) -> None:
    """Refuses files of joined shards made when a different set of these shards was readable."""
    for path in found:
        if aligned.num_rows(path) != num_rows:
            raise IntegrityError(
                f"{path} was made when other files of {split.shard} could be read; pass another --artifacts, or delete it"
            )


def _sums(rows: aligned.Rows, kept: np.ndarray) -> ReadSums:
    codes, occurrences = np.unique(rows.reasons, return_counts=True)
    reasons = {aligned.reason_of(int(c)): int(n) for c, n in zip(codes, occurrences, strict=True)}
    # Rejected rows have 0 tokens and are not counted.
    lengths, tokens = count_lengths(rows.tokens)
    return ReadSums(
        read=len(rows.keys),
        usable=reasons.pop(None, 0),
        tokens=int(rows.tokens.sum()),
        reserve=len(kept),
        reserve_tokens=int(rows.tokens[kept].sum()),
        rejected=Tally({reason.value: number for reason, number in reasons.items() if reason}),
        lengths=Tally({str(exponent): number for exponent, number in lengths.items()}),
        length_tokens=Tally({str(exponent): number for exponent, number in tokens.items()}),
    )
