"""Every text is read once: its tokens are counted, its embedding kept, and a hash sample of texts set aside."""

import collections
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
from beam_quad.embedding import Embedder, PreparingEmbedder
from beam_quad.errors import BadFileError, IntegrityError
from beam_quad.gradients.proxy import load_tokenizer
from beam_quad.gradients.windows import TokenCounter
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
from beam_quad.stages.read.distil import load_stored_embedder
from beam_quad.stages.read.leaks import LEAKS_SCHEMA
from beam_quad.stages.read.points import PointsAside
from beam_quad.stages.read.prefetch import made_ahead
from beam_quad.stages.read.sign import SignTexts, sign_rows, write_signatures
from beam_quad.stages.read.splits import SplitStage

# Batches are aligned runs of this many rows of a shard: what shares a batch with a text never depends on how the
# corpus was split.
BATCH_ROWS = 256
# Runs of batches are embedded together: among so many texts most find others of their length.
_RUN_ROWS = 16 * BATCH_ROWS
_RUN_CHARACTERS = 1 << 22

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
    """What reads and embeds texts.

    Attributes:
      embedder: The embedder, or None if nothing is embedded.
      counter: Counts the proxy's tokens, and finds those of answers; None if neither is asked for.
      lock: Held while texts pass through the embedder.
    """

    embedder: Embedder | None
    counter: TokenCounter | None
    lock: threading.Lock

    def prepare(self, texts: list[str]) -> Any:
        """Does what the embedder needs no device for."""
        if isinstance(self.embedder, PreparingEmbedder):
            return self.embedder.prepare(texts)
        return texts

    def embed(self, prepared: Any) -> np.ndarray:
        """Embeds what `prepare` made, float32 [num_texts, dim]."""
        assert self.embedder is not None
        with self.lock:
            if isinstance(self.embedder, PreparingEmbedder):
                return self.embedder.embed_prepared(prepared)
            return self.embedder.embed(prepared)


class _Run(NamedTuple):
    """Consecutive rows, of which only the vectors are missing.

    Attributes:
      rows: The rows, n of them.
      columns: What is kept of each.
      has_text: Which of them have one, bool [n].
      prepared: The texts of these, as the embedder takes them; None if they are not embedded.
      leaks: Those that leak, the columns of `LEAKS_SCHEMA`, by number among the rows; None if nothing is looked for.
      signatures: Their signatures, uint16 [n, NUM_HASHES]; None if they are not signed.
    """

    rows: RowBatch
    columns: dict[str, Any]
    has_text: np.ndarray
    prepared: Any | None
    leaks: dict[str, list] | None
    signatures: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class EmbedExamples(SplitStage, ModelStage):
    """Reads every split once and writes its row-aligned artifacts; gives the counts of each split.

    Writes the rows (key, tokens, reason of rejection; what they look like as metadata), the embeddings, the signatures, and the texts of the reserve.
    Only references and counts leave the worker.

    Args:
      corpus: Where to read and write, and what embeds.
      tokenizer: Path or hub id of the proxy's tokenizer; None if the corpus needs none.
      tokenizer_revision: Its revision on the hub.
      signs: Where the signatures of texts are stored; None if no stage looks at them.
    """

    kind = "corpus"
    artifact_name = "totals.json"
    # One has the device while another is read, or written.
    pieces_at_once = 2

    corpus: Annotated[Corpus, identity.CountedAs(Corpus.whole, "nothing is selected here")]
    tokenizer: Annotated[str | None, identity.NotCounted("the corpus names its content")]
    tokenizer_revision: Annotated[str | None, identity.NotCounted("as the tokenizer")]
    signs: Annotated[
        SignTexts | None, identity.NotCounted("it signs what was read without being signed")
    ] = None

    @property
    def folder(self) -> str:
        """Where the totals are stored: with the corpus, whose artifacts it makes."""
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

    def prefixes(self) -> tuple[str, ...]:
        corpus = self.corpus
        folders = (corpus.rows_dir, corpus.embeddings_dir, corpus.reserve_dir, corpus.leaking_dir)
        return tuple(folder for folder in folders if folder is not None)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return tuple(piece_path(folder, piece) for folder in self.prefixes())

    def statistic(self, piece: Split) -> ReadSums:
        stored = aligned.read_metadata(piece_path(self.corpus.rows_dir, piece))
        if self.corpus.on_bad_file != "reject":
            # A run that leaves bad files out may have read it.
            for part in parts_of(piece):
                if part.shard in stored[BAD]:
                    raise BadFileError(part.path, stored[BAD][part.shard])
        own = {name: value for name, value in stored.items() if name not in (READ_OF, BAD)}
        return self._counted(piece, ReadSums.from_json(own))

    def do(self, piece: Split, model: _Model) -> ReadSums:
        bad: dict[str, str] = {}
        while True:
            try:
                if problem := self.corpus.plan().bad_files.get(piece.shard):
                    raise BadFileError(piece.path, problem)
                if self._lacks_leaks_alone(piece):
                    return self._look_for_leaks(piece)
                return self._embed(piece, model, bad)
            except BadFileError as error:
                if self.corpus.on_bad_file != "reject":
                    raise
                if not piece.packed:
                    return self._write_bad(piece, error)
                # The files that it is joined with are read without it, and without all others that are bad.
                found = self._find_bad(piece)
                if found.keys() <= bad.keys():
                    raise
                bad |= found

    def _find_bad(self, split: Split) -> dict[str, str]:
        """Reads all shards of a split, and says what is wrong with those that cannot be read."""
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
        embedder, readable = model.embedder, leave_out(split, bad)
        embeddings_path = None
        if embedder is not None and self.corpus.embeddings_dir is not None:
            # Another tokenizer or reserve finds the embeddings made: they are the dear part.
            path = piece_path(self.corpus.embeddings_dir, split)
            embeddings_path = None if files.exists(path) else path
        rows_seen, row = Seen(), 0
        totals = {part.shard: ReadSums() for part in parts_of(readable)}
        with contextlib.ExitStack() as stack:
            rows = stack.enter_context(
                aligned.table_writer(
                    piece_path(self.corpus.rows_dir, split), aligned.ROWS_SCHEMA, 1 << 20
                )
            )
            reserve = stack.enter_context(
                aligned.table_writer(
                    piece_path(self.corpus.reserve_dir, split), RESERVE_SCHEMA, 1024
                )
            )
            leaking = None
            if self.corpus.leaking_dir is not None:
                path = piece_path(self.corpus.leaking_dir, split)
                leaking = stack.enter_context(aligned.table_writer(path, LEAKS_SCHEMA))
            embeddings, without = None, []
            points = PointsAside(self.corpus, split)
            if embedder is not None and embeddings_path is not None:
                embeddings = stack.enter_context(
                    aligned.table_writer(
                        embeddings_path, aligned.embeddings_schema(embedder.dim), 8192
                    )
                )
            signatures = None
            if self.signs is not None and not files.exists(self.signs.path_of(split)):
                signatures = stack.enter_context(self.signs.writer(split))
            traffic.count("bytes_read", split.size_bytes)
            runs = (
                (part.shard, run)
                for part in parts_of(readable)
                for run in read_runs(
                    part, self.corpus.columns, BATCH_ROWS, _RUN_ROWS, _RUN_CHARACTERS, rows_seen
                )
            )
            wanted = embeddings is not None, signatures is not None
            for shard, run in made_ahead(
                runs, lambda read: (read[0], self._prepare(read[1], model, *wanted))
            ):
                first_row, row = row, row + len(run.rows)
                read = aligned.Rows(*(run.columns[name] for name in ("key", "tokens", "reason")))
                if embedder is not None and embeddings is not None:
                    traffic.count("documents_embedded", int(run.has_text.sum()))
                    vectors = np.zeros((len(run.rows), embedder.dim), np.float32)
                    if run.has_text.any():
                        vectors[run.has_text] = model.embed(run.prepared)
                    embeddings.write({"embedding": aligned.embedding_column(vectors)})
                    has_none = run.has_text & ~vectors.any(axis=1)
                    without += (first_row + np.flatnonzero(has_none)).tolist()
                    points.add(first_row, read, vectors)
                if signatures is not None and run.signatures is not None:
                    write_signatures(signatures, run.signatures)
                rows.write(run.columns)
                if leaking is not None and run.leaks is not None:
                    leaking.write(_from_row(first_row, run.leaks))
                kept = np.flatnonzero(self.corpus.in_reserve(read))
                self._write_reserve(reserve, run.rows, first_row, read, kept)
                totals[shard] += _sums(read, kept)
            if embeddings is not None:
                embeddings.close({WITHOUT_EMBEDDING: without})
            if split.first_group == 0:
                # What was read just now, from the cache of the file system: it is not counted again.
                seen.record(self.corpus.seen_dir, readable, self.corpus.columns.names)
            unusable = {s: own.read for s, own in totals.items() if own.read and not own.usable}
            total = dataclasses.replace(
                sum_up(totals.values(), ReadSums()),
                unusable=Tally(unusable),
                bad_files=Tally(dict.fromkeys(bad, 1)),
                shapes=rows_seen.shapes,
            )
            if split.packed:
                self._check_rows(split, row, embeddings is None, signatures is None)
            if embeddings is not None:
                # Only now that nothing can turn out bad any more: it is in its place at once.
                points.write()
            read_of = {s: own.read for s, own in totals.items()} if split.packed else {}
            rows.close(total.as_json() | {READ_OF: read_of, BAD: dict(bad)})
        return self._counted(split, total)

    def _check_rows(
        self, split: Split, num_rows: int, has_embeddings: bool, has_signatures: bool
    ) -> None:
        """Refuses files of joined shards that were made when others of these could not be read."""
        paths = []
        if has_embeddings and self.corpus.embeddings_dir is not None:
            paths.append(piece_path(self.corpus.embeddings_dir, split))
        if has_signatures and self.signs is not None:
            paths.append(self.signs.path_of(split))
        for path in paths:
            if aligned.num_rows(path) != num_rows:
                raise IntegrityError(
                    f"{path} was made when other files of {split.shard} could be read; pass another --artifacts, or delete it"
                )

    def _counted(self, split: Split, read: ReadSums) -> ReadSums:
        """Counts a split for this run: what is stored of it depends on no list of ids, and on no embedder."""
        if self.corpus.excluded is not None:
            rows = self.corpus.stored_rows(split)
            kept = np.flatnonzero(self.corpus.in_reserve(rows))
            tokens = np.where(rows.usable, rows.tokens, 0)
            counted = _sums(dataclasses.replace(rows, tokens=tokens), kept)
            known = {name: getattr(read, name) for name in ("unusable", "bad_files", "shapes")}
            read = dataclasses.replace(counted, **known)
        read = dataclasses.replace(read, without_embedding=self._without_embedding(split))
        return self._without_leaks(split, read)

    def _lacks_leaks_alone(self, split: Split) -> bool:
        """Whether all of a split is made but what it leaks: another list of items embeds nothing again."""
        if self.corpus.leaking_dir is None:
            return False
        folders = [folder for folder in self.prefixes() if folder != self.corpus.leaking_dir]
        return all(files.exists(piece_path(folder, split)) for folder in folders)

    def _look_for_leaks(self, split: Split) -> ReadSums:
        traffic.count("bytes_read", split.size_bytes)
        folder, leaks = self.corpus.leaking_dir, self.corpus.leaks
        assert folder is not None
        assert leaks is not None
        stored, row = aligned.read_metadata(piece_path(self.corpus.rows_dir, split)), 0
        with aligned.table_writer(piece_path(folder, split), LEAKS_SCHEMA) as writer:
            readable = leave_out(split, stored[BAD])
            for batch in read_rows(readable, self.corpus.columns, BATCH_ROWS):
                writer.write(_from_row(row, leaks.find(batch.texts)))
                row += len(batch)
        return self.statistic(split)

    def _without_leaks(self, split: Split, read: ReadSums) -> ReadSums:
        """Counts the usable texts of a split that leak; what is too long for a budget is decided without them."""
        if self.corpus.leaking_dir is None:
            return read
        path = piece_path(self.corpus.leaking_dir, split)
        found = aligned.read_columns(path, ["row", "set"])
        if not len(found["row"]):
            return read
        rows = self.corpus.stored_rows(split)
        usable = rows.usable[found["row"]]
        lengths, tokens = count_lengths(rows.tokens[found["row"][usable]])
        return dataclasses.replace(
            read,
            lengths=read.lengths + Tally({str(b): -n for b, n in lengths.items()}),
            length_tokens=read.length_tokens + Tally({str(b): -n for b, n in tokens.items()}),
            leaking=Tally({piece_name(split): int(usable.sum())}),
            leaking_sets=Tally(dict(collections.Counter(found["set"][usable].tolist()))),
        )

    def _without_embedding(self, split: Split) -> Tally:
        """Counts the usable texts of a split that have no embedding; nothing if there is none."""
        if self.corpus.embeddings_dir is None:
            return Tally()
        rows = without_embedding(self.corpus.embeddings_dir, split)
        if not rows:
            return Tally()
        usable = self.corpus.stored_rows(split).usable[rows]
        return Tally({piece_name(split): int(usable.sum())})

    def _prepare(
        self, rows: RowBatch, model: _Model, has_embeddings: bool, has_signatures: bool
    ) -> _Run:
        """Does all that needs no device: tokens are counted, rows hashed, texts signed and prepared for the embedder."""
        texts = [text for text in rows.texts if text is not None]
        seen = all_plain(texts)
        has_text = np.array([text is not None for text in rows.texts])
        columns = self._row_columns(rows, texts, model.counter)
        return _Run(
            rows,
            columns,
            has_text,
            model.prepare(seen) if has_embeddings else None,
            None if self.corpus.leaks is None else self.corpus.leaks.find(rows.texts),
            sign_rows(rows.texts) if has_signatures else None,
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
        if batch.tokens is not None:
            tokens[good] = batch.tokens[good]
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
            "key": np.where(usable, keys, np.uint64(0)),
            "tokens": np.where(usable, tokens, 0),
            "reason": codes,
            "detail": [detail or None for detail in details],
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


def _from_row(first_row: int, leaks: dict[str, list]) -> dict[str, list]:
    """Numbers leaks from a row of their split on."""
    return leaks | {"row": [first_row + row for row in leaks["row"]]}


def bad_file_detail(corpus: Corpus, split: Split) -> str:
    """What was wrong with the file of a split of one shard, or an empty string."""
    path = corpus.bad_path(split)
    return str(read_json(path)["detail"]) if files.exists(path) else ""


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
