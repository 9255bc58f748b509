"""The scorings, as small configurations, and the stage that scores every example of a corpus."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from beam_quad import identity
from beam_quad.artifacts import aligned, traffic
from beam_quad.corpus.rows import read_rows
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, TextSizes, Work
from beam_quad.records import Split
from beam_quad.scoring.dsir import DSIRScorer
from beam_quad.scoring.influence import InfluenceScorer
from beam_quad.scoring.loss_drop import LossDropScorer
from beam_quad.scoring.perplexity import PerplexityScorer
from beam_quad.scoring.sample import ScoreSample
from beam_quad.scoring.vectors import Vectors
from beam_quad.stages.base import ModelStage
from beam_quad.stages.influence.known import KnownScores
from beam_quad.stages.influence.ngrams import CountNgrams
from beam_quad.stages.influence.proxy import ProxyModel, TrackedProxy
from beam_quad.stages.influence.scored_rows import SCORE_DTYPE, ScoredRows
from beam_quad.stages.influence.token_ngrams import LookAhead
from beam_quad.stages.influence.tuned import TuneProxy
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.prefetch import prefetched


class Scorer(Protocol):
    """Scores many texts at once. The bits of a score do not depend on the other texts in the call.

    Texts that answer prompts have marks around their answers (`beam_quad.answers`).
    """

    def prepare(self, texts: list[str]) -> Any:
        """Does the work that needs no device, such as tokenising; runs in another thread, ahead of `score`."""

    def score(self, prepared: Any) -> np.ndarray:
        """Returns the scores of prepared texts, float64 [num_texts, num_scores]; nan if a text cannot be scored."""


@runtime_checkable
class Priced(Protocol):
    """A scoring that states its work, for plans."""

    def work(self, sizes: Sizes, documents: int, num_scores: int) -> Work:
        """States the work of scoring so many documents, with so many scores each."""


class Scoring(Protocol):
    """The configuration of a scorer: a picklable frozen dataclass. Scores depend on nothing outside its identity."""

    @property
    def device(self) -> str:
        """Torch device of the scorer."""

    def load(self) -> Scorer:
        """Loads the scorer, on a worker."""


class StoredVectors(Protocol):
    """Vectors in files, named by their content."""

    def load(self) -> Vectors:
        """Reads the vectors by name."""


@dataclasses.dataclass(frozen=True)
class InfluenceScoring:
    """Influence on the query set: one score per query vector, higher if training on the example lowers the query loss.

    Args:
      tracked: The proxy model and its tracked layers.
      vectors: Preconditioned query vectors, one set a group.
      normalize: Whether a score is divided by the norm of the example's gradient.
    """

    version: ClassVar[int] = 3

    tracked: TrackedProxy
    vectors: StoredVectors
    normalize: bool

    @property
    def device(self) -> str:
        return self.tracked.proxy.device

    def work(self, sizes: Sizes, documents: int, num_scores: int) -> Work:
        return Work(
            "influence",
            documents,
            flops=sizes.exact_flops(num_scores, self.normalize) * documents,
            core_s=documents * rates.SCORED_ROW_S,
            memory_bytes=float(num_scores * sizes.scoring.vector_bytes),
        )

    def load(self) -> Scorer:
        proxy = self.tracked.proxy.load()
        vectors = self.vectors.load()
        blocks = self.tracked.blocks(proxy)
        return InfluenceScorer(proxy, blocks, vectors, self.normalize)


@dataclasses.dataclass(frozen=True)
class PerplexityScoring:
    """Mean loss of the proxy model, in nats per token; lower for likelier texts.

    Args:
      proxy: The proxy model.
    """

    version: ClassVar[int] = 3

    proxy: ProxyModel

    @property
    def device(self) -> str:
        return self.proxy.device

    def work(self, sizes: Sizes, documents: int, num_scores: int) -> Work:
        flops = sizes.forward_flops * documents
        return Work("perplexity", documents, flops=flops, core_s=documents * rates.SCORED_ROW_S)

    def load(self) -> Scorer:
        return PerplexityScorer(self.proxy.load())


@dataclasses.dataclass(frozen=True)
class DSIRScoring:
    """Log importance weight of hashed n-grams, query set against corpus (Xie et al. 2023).

    Args:
      counts: The n-grams.
    """

    counts: CountNgrams

    @property
    def device(self) -> str:
        return "cpu"

    def work(self, sizes: Sizes, documents: int, num_scores: int) -> Work:
        hashed_s = sizes.corpus.mean_text_bytes * rates.HASH_BYTE_S
        return Work("n-grams", documents, core_s=documents * (hashed_s + rates.SCORED_ROW_S))

    def load(self) -> Scorer:
        return DSIRScorer(*self.counts.load())


@dataclasses.dataclass(frozen=True)
class LossDropScoring:
    """Loss under the proxy less loss under the proxy tuned on the query set (Brandfonbrener et al. 2024).

    Both models are on the device while texts are scored.

    Args:
      tuned: The tuned proxy.
    """

    version: ClassVar[int] = 2

    tuned: TuneProxy

    @property
    def device(self) -> str:
        return self.tuned.device

    def work(self, sizes: Sizes, documents: int, num_scores: int) -> Work:
        flops = 2 * sizes.forward_flops * documents
        return Work("loss drop", documents, flops=flops, core_s=documents * rates.SCORED_ROW_S)

    def load(self) -> Scorer:
        proxy = self.tuned.proxy.load()
        return LossDropScorer(proxy, self.tuned.apply(proxy))


class ScoringStage(ModelStage):
    """A stage whose model is a scorer."""

    scoring: Scoring

    @property
    def model_key(self) -> str:
        # The identity leaves out the device's number, but each loaded model is on one device.
        return f"{identity.digest(self.scoring)} {self.device}"

    @property
    def device(self) -> str:
        return self.scoring.device

    def load(self) -> Scorer:
        return self.scoring.load()

    def scoring_work(self, sizes: Sizes, documents: int, num_scores: int) -> Work:
        """States the work of the scoring; for a scoring without a price, only handing it the texts counts."""
        if isinstance(self.scoring, Priced):
            return self.scoring.work(sizes, documents, num_scores)
        return Work("scores", documents, core_s=documents * rates.SCORED_ROW_S)


@dataclasses.dataclass(frozen=True)
class NgramScoring:
    """Influence under a model of the n-grams of the proxy's tokens: one score per query group.

    Args:
      counts: The n-grams, including those of a first look.
    """

    version: ClassVar[int] = 3

    counts: LookAhead

    @property
    def device(self) -> str:
        return "cpu"

    def work(self, sizes: Sizes, documents: int, num_scores: int) -> Work:
        mean_bytes = sizes.corpus.mean_text_bytes
        return Work(
            "n-grams",
            documents,
            core_s=documents * mean_bytes * rates.SCORE_NGRAMS_BYTE_S,
            memory_bytes=rates.NGRAMS_BYTES + rates.NGRAMS_TEXT_BYTES * mean_bytes,
        )

    def load(self) -> Scorer:
        return self.counts.load()


class Listed(Protocol):
    """A list of rows of a corpus."""

    def is_listed(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns which rows of a split are listed, bool [n]."""

    def num_listed(self) -> int:
        """Approximate number of listed rows."""

    def share_of(self, texts: TextSizes) -> float:
        """Estimates the share of a corpus that is listed, before it is read."""


# Rows per call of the scorer: micro-batches hold texts of similar length and are full only if a call has many texts.
_SCORED_ROWS = 16 * BATCH_ROWS


@dataclasses.dataclass(frozen=True)
class ScoreExamples(ScoredRows, ScoringStage):
    """Scores the texts of all usable examples of the corpus, or of those on a list.

    Takes splits, writes one row-aligned file of scores for each (nan for unscored rows), and returns a
    `ScoreSample`.

    Args:
      corpus: The corpus.
      scoring: The scoring.
      weights: Weight of each score of the scoring. If there are several scores, each is divided by its spread.
      among: The rows to score; None for every usable row.
      known: Scores of the refreshed run, which are not computed again; None without a base.
      label: Name of the stage in a chain, in CapWords.
    """

    kind = "corpus_scores"
    version = 5

    scoring: Scoring
    weights: tuple[float, ...] = (1.0,)
    among: Listed | None = None
    known: KnownScores | None = None
    label: Annotated[str, identity.NotCounted("a name for people")] = "ScoreExamples"

    @property
    def name(self) -> str:
        return self.label

    def work(self, sizes: Sizes) -> Work:
        texts, num_scores = self.texts_of(sizes), len(self.weights)
        share = 1.0 if self.among is None else self.among.share_of(sizes.corpus)
        # A list differs in every run, and so do its files; but scores of the base are copied, not computed.
        scored = texts if self.known is None else sizes.new
        return dataclasses.replace(
            self.scoring_work(sizes, round(share * scored.documents), num_scores),
            bytes_read=scored.stored_bytes,
            bytes_stored=float(SCORE_DTYPE.itemsize * num_scores * texts.documents),
            # A list is read from two more files of each split.
            requests=texts.requests(6 if self.among is None else 8, 1),
        )

    def do(self, piece: Split, model: Scorer) -> ScoreSample:
        # Without a list, a row is scored even if its id is a duplicate now, so the file stays valid when other rows
        # change. A list has only rows that can be selected, and no others are scored.
        rows = self.corpus.own_rows(piece) if self.among is None else self.corpus.rows(piece)
        wanted = self.wanted(piece, rows)
        scores = np.full((len(rows.keys), len(self.weights)), np.nan)
        is_missing = wanted
        if self.known is not None and (found := self.known.read(piece)) is not None:
            known, is_known = found
            scores[is_known] = known[is_known]
            is_missing = wanted & ~is_known
        traffic.count("documents_scored", int(is_missing.sum()))
        # Without a row to score the input is not opened at all.
        if is_missing.any():
            traffic.count("bytes_read", piece.size_bytes)
            for at, prepared in prefetched(self._batches(piece, is_missing, model)):
                scores[at] = model.score(prepared)[:, : len(self.weights)]
        return self.write(piece, scores, wanted)

    def statistic(self, piece: Split) -> ScoreSample:
        sample = super().statistic(piece)
        is_known = None if self.known is None else self.known.is_scored(piece)
        if is_known is None:
            return sample
        wanted = self.wanted(piece, self.corpus.rows(piece))
        return dataclasses.replace(sample, known=int((is_known & wanted).sum()))

    @property
    def group_weights(self) -> tuple[float, ...]:
        return self.weights

    def num_wanted(self) -> int:
        return self.corpus.num_usable() if self.among is None else self.among.num_listed()

    def wanted(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        return rows.usable if self.among is None else self.among.is_listed(split, rows)

    def _batches(
        self, piece: Split, wanted: np.ndarray, model: Scorer
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Yields the wanted rows of each batch that has any, and their prepared texts."""
        # Texts come from the input, not from the reserve, which holds only a part of a large corpus.
        batches = read_rows(
            self.corpus.readable(piece), self.corpus.columns, batch_rows=_SCORED_ROWS
        )
        first = 0
        for batch in batches:
            at = first + np.flatnonzero(wanted[first : first + len(batch.texts)])
            if len(at):
                yield at, model.prepare([batch.texts[i - first] or "" for i in at])
            first += len(batch.texts)
