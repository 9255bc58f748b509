"""Counts of the n-grams of the proxy's own tokens: of a sample of the corpus, of the query set, and of a first look."""

import dataclasses
from typing import Annotated, Any

import numpy as np

from beam_quad import identity, seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import TextReader
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.scoring.ngrams import NgramScorer, TokenNgramCounts, count_taken, counts_bytes
from beam_quad.stages.base import Stage
from beam_quad.stages.influence.proxy import ProxyModel
from beam_quad.stages.read.corpus import Corpus, piece_path
from beam_quad.stages.read.query import Query
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.read.texts import NUM_GROUPS, SampleTexts

# Texts tokenised at a time.
_BATCH_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class CountTokenNgrams(SplitStage):
    """Counts the n-grams of the texts in the reserve; takes splits and returns `TokenNgramCounts`.

    The reserve holds all texts of a small corpus and a uniform sample of a large one, so the input is not read again.
    Writes `corpus.npz`, `query-NUMBER.npz` for each query group, and `query.json` with the counts of used and unused
    texts of each group.

    Args:
      corpus: The corpus.
      query: The query set.
      proxy: The model with the tokenizer; its weights are not loaded.
    """

    kind = "token_ngrams"
    artifact_name = "corpus.npz"
    num_adders = 64

    corpus: Annotated[Corpus, identity.CountedAs(Corpus.texts, "no text is embedded for it")]
    query: tuple[Query, ...]
    proxy: ProxyModel

    def work(self, sizes: Sizes) -> Work:
        texts, rate = self.texts_of(sizes), self.corpus.reserve_rate
        return Work(
            "n-grams",
            round(rate * texts.documents),
            core_s=rate * texts.text_bytes * rates.COUNT_NGRAMS_BYTE_S,
            memory_bytes=rates.NGRAMS_BYTES + rates.NGRAMS_TEXT_BYTES * texts.mean_text_bytes,
            bytes_stored=(1 + len(self.query)) * counts_bytes(sizes.scoring.vocabulary),
            requests=texts.requests(2),
        )

    def do(self, piece: Split, model: Any) -> TokenNgramCounts:
        reader = self.proxy.reader()
        counts = TokenNgramCounts.zero(reader.vocabulary)
        usable = self.corpus.distinct_rows(piece).usable
        if not usable.any():
            # An unreadable input file has no reserve file.
            return counts
        path = piece_path(self.corpus.reserve_dir, piece)
        for batch in aligned.read_batches(path, ["row", "text"], _BATCH_ROWS):
            kept = np.flatnonzero(usable[batch.column("row").to_numpy()])
            texts = batch.column("text").take(kept).to_pylist()
            counts = counts + TokenNgramCounts.of(reader.read(texts), reader.vocabulary)
        return counts

    def finish(self, total: TokenNgramCounts) -> None:
        reader = self.proxy.reader()
        used = {g.name: self._count_group(n, g, reader) for n, g in enumerate(self.query)}
        write_json(self.path("query.json"), used)
        # The artifact last: once it is there, the stage counts as finished.
        files.write_once(self.artifact, total.to_bytes())

    def load(self, taken: TokenNgramCounts | None = None) -> NgramScorer:
        """Loads a scorer with these counts, and with those of what a first look would take."""
        queries = {
            group.name: TokenNgramCounts.from_bytes(files.read_bytes(self._group_counts(number)))
            for number, group in enumerate(self.query)
        }
        corpus = TokenNgramCounts.from_bytes(files.read_bytes(self.artifact))
        return NgramScorer(queries, corpus, self.proxy.reader().read, taken)

    def groups(self) -> dict[str, dict[str, Any]]:
        """Reads, for each query group in order, its number of `documents` and the counts of `unused` texts by reason."""
        found = read_json(self.path("query.json"))
        return {group.name: found[group.name] for group in self.query}

    def _count_group(self, number: int, group: Query, reader: TextReader) -> dict[str, Any]:
        found = group.read()
        documents = reader.read(found.texts)
        counts = TokenNgramCounts.of(documents, reader.vocabulary)
        if not counts.counts.any():
            raise UsageError(f"no text of query group {group.name!r} has at least 2 tokens")
        files.write_once(self._group_counts(number), counts.to_bytes())
        used = int(np.count_nonzero(documents.loss_tokens))
        unused = (found.unused + Tally(reader.without_loss(found.texts))).counts
        return {"documents": used, "unused": unused}

    def _group_counts(self, number: int) -> str:
        return self.path(f"query-{number:03d}.npz")


@dataclasses.dataclass(frozen=True)
class LookAhead(Stage):
    """Counts the n-grams of the texts that a first look would take; takes one piece, the sample.

    The sample holds leaks and near-duplicates too, though they are not selected. Without them, all documents would be read
    and scored again whenever another text is protected, since these counts are part of every score.

    Args:
      counts: Counts of the corpus and of the query set.
      sample: The texts to look at.
      weights: Weight of each query group.
    """

    kind = "look_ahead"
    artifact_name = "taken.npz"

    counts: CountTokenNgrams
    sample: SampleTexts
    weights: tuple[float, ...] = (1.0,)

    @property
    def root(self) -> str:
        return self.counts.root

    def work(self, sizes: Sizes) -> Work:
        number = self.sample.expected(sizes)
        seconds = number * sizes.corpus.mean_text_bytes * rates.SCORE_NGRAMS_BYTE_S
        stored = counts_bytes(sizes.scoring.vocabulary)
        return Work("n-grams", number, alone_s=seconds, bytes_stored=stored)

    def pieces(self) -> range:
        return range(1)

    def do(self, piece: int, model: Any) -> TokenNgramCounts:
        groups = files.in_parallel(self.sample.read_group, range(NUM_GROUPS))
        found = [pair for ids, texts in groups for pair in zip(ids, texts, strict=True)]
        # By key, so that ties and the last bits of sums do not depend on the order of the corpus.
        order = np.argsort(seeding.keys([own for own, _ in found]))
        texts = [found[i][1] for i in order]
        return count_taken(texts, self.counts.load(), self.weights)

    def finish(self, total: TokenNgramCounts) -> None:
        files.write_once(self.artifact, total.to_bytes())

    def load(self) -> NgramScorer:
        """Loads a scorer under the model that has learned some of what the first look takes."""
        return self.counts.load(TokenNgramCounts.from_bytes(files.read_bytes(self.artifact)))
