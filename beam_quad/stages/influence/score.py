"""How examples are scored, as small configurations, and the stage that scores every example of a corpus."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from beam_quad import seeding
from beam_quad.artifacts import aligned, files, traffic
from beam_quad.artifacts.cache import cached, cached_proxy
from beam_quad.corpus.rows import read_rows
from beam_quad.gradients.proxy import ProxySpec
from beam_quad.gradients.tracked import find_blocks
from beam_quad.records import Split
from beam_quad.scoring.dsir import DSIRScorer, NgramCounts, sampling_priority
from beam_quad.scoring.influence import InfluenceScorer
from beam_quad.scoring.perplexity import PerplexityScorer
from beam_quad.scoring.sample import ScoreSample
from beam_quad.scoring.two_forwards import TwoForwardsScorer
from beam_quad.scoring.vectors import load_vectors
from beam_quad.selection import nearest_ranks, random_ranks
from beam_quad.stages.base import ModelTask
from beam_quad.stages.read.corpus import Corpus, content_name, piece_path, read_json, write_json
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.prefetch import prefetched

# The two ways to score, as `CalibrateScoring` names them.
EXACT = "exact"
TWO_FORWARDS = "two forwards"


class Scorer(Protocol):
    """Scores the texts of one batch, whatever else is scored before or after it."""

    def prepare(self, texts: list[str]) -> Any:
        """Does what needs no device, such as tokenising; runs in another thread, ahead of `score`."""

    def score(self, prepared: Any) -> np.ndarray:
        """Returns float64 [num_texts, num_scores] of prepared texts; nan where a text cannot be scored."""


class Scoring(Protocol):
    """The configuration of a scorer: a frozen dataclass, picklable, named by its content."""

    @property
    def device(self) -> str:
        """The device that it needs."""

    @property
    def key(self) -> str:
        """Names everything that the scores depend on besides the text."""

    def load(self) -> Scorer:
        """Loads the scorer, on a worker."""


def content_spec(proxy: ProxySpec) -> ProxySpec:
    """Leaves out of a spec what says where a model lies and runs: its content has a fingerprint.

    The kind of the device stays. The number of threads changes last bits only, and a run must go on on a machine with
    another number of cores.
    """
    device = proxy.device.split(":")[0]
    return dataclasses.replace(proxy, path="", revision=None, num_threads=None, device=device)


@dataclasses.dataclass(frozen=True)
class InfluenceScoring:
    """Influence on the query set: one score for each query vector, higher where training lowers the query loss.

    Args:
      proxy: The proxy model.
      proxy_fingerprint: Content of the proxy model.
      layers: Tracked layers.
      vectors_path: Preconditioned query vectors, one set a group.
      normalize: Whether a score is divided by the norm of the example's gradient.
      calibration_path: Artifact of `CalibrateScoring`, which says by which way to score; None scores exactly.
    """

    proxy: ProxySpec
    proxy_fingerprint: str
    layers: str
    vectors_path: str
    normalize: bool
    calibration_path: str | None = None

    @property
    def device(self) -> str:
        return self.proxy.device

    @property
    def key(self) -> str:
        return seeding.digest(
            "influence",
            1,
            self.proxy_fingerprint,
            content_spec(self.proxy),
            self.layers,
            content_name(self.vectors_path),
            self.normalize,
            *([content_name(self.calibration_path)] if self.calibration_path else []),
        )

    def load(self) -> Scorer:
        proxy = cached_proxy(self.proxy)
        vectors = load_vectors(files.read_bytes(self.vectors_path))
        blocks = find_blocks(proxy.model, self.layers)
        way = read_json(self.calibration_path) if self.calibration_path else {}
        if way.get("way") == TWO_FORWARDS:
            return TwoForwardsScorer(proxy, blocks, vectors, way["relative_step"])
        return InfluenceScorer(proxy, blocks, vectors, self.normalize)


@dataclasses.dataclass(frozen=True)
class PerplexityScoring:
    """Mean loss of the proxy model in nats per token; lower is likelier.

    Args:
      proxy: The proxy model.
      proxy_fingerprint: Content of the proxy model.
    """

    proxy: ProxySpec
    proxy_fingerprint: str

    @property
    def device(self) -> str:
        return self.proxy.device

    @property
    def key(self) -> str:
        return seeding.digest("perplexity", 2, self.proxy_fingerprint, content_spec(self.proxy))

    def load(self) -> Scorer:
        return PerplexityScorer(cached_proxy(self.proxy))


@dataclasses.dataclass(frozen=True)
class DSIRScoring:
    """Log importance weight of hashed n-grams, query set against corpus (Xie et al. 2023).

    Args:
      counts_dir: Folder of `CountNgrams`.
    """

    counts_dir: str

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def key(self) -> str:
        return seeding.digest("dsir", 1, content_name(self.counts_dir))

    def load(self) -> Scorer:
        query, corpus = (
            NgramCounts.from_bytes(files.read_bytes(files.join(self.counts_dir, name)))
            for name in ("query.npz", "corpus.npz")
        )
        return DSIRScorer(query, corpus)


class ScoringTask(ModelTask):
    """A task whose model is a scorer."""

    scoring: Scoring

    @property
    def model_key(self) -> str:
        return self.scoring.key

    @property
    def device(self) -> str:
        return self.scoring.device

    def load(self) -> Scorer:
        return self.scoring.load()


_SCORES = pa.schema([pa.field("score", pa.float64())])


@dataclasses.dataclass
class ScoreExamples(ScoringTask):
    """Scores every example of the corpus, for the baselines that know no clusters.

    Takes splits, writes one row-aligned score file each (nan for a rejected row), and gives a `ScoreSample`.

    Args:
      corpus: The corpus.
      scoring: What scores; its first score is used.
      folder: Where the scores by split and `scores.json` go.
    """

    corpus: Corpus
    scoring: Scoring
    folder: str

    @property
    def name(self) -> str:
        return "ScoreExamples"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "scores.json")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "rows"),)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (piece_path(self.prefixes()[0], piece),)

    def read(self, piece: Split) -> ScoreSample:
        return self._sample(self.corpus.rows(piece), read_scores(self.folder, piece))

    def do(self, piece: Split, model: Scorer) -> ScoreSample:
        rows = self.corpus.rows(piece)
        scores = np.full(len(rows.keys), np.nan)
        if rows.usable.any():
            traffic.count("bytes_read", piece.size_bytes)
            for at, prepared in prefetched(self._batches(piece, rows.usable, model)):
                scores[at] = model.score(prepared)[:, 0]
        aligned.write_table(self.paths(piece)[0], _SCORES, {"score": scores})
        return self._sample(rows, scores)

    def finish(self, total: ScoreSample | None) -> None:
        median = total.median if total else 0.0
        counts = {"scored": total.scored, "unscorable": total.unscorable} if total else {}
        write_json(self.artifact, {"median": median, **counts})

    def _batches(
        self, piece: Split, usable: np.ndarray, model: Scorer
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Yields the rows of each batch that holds usable ones, and their prepared texts."""
        # The reserve would do for a small corpus, but not for a large one, of which it is a part.
        batches = read_rows(piece, self.corpus.columns(), batch_rows=BATCH_ROWS)
        first = 0
        for batch in batches:
            at = first + np.flatnonzero(usable[first : first + len(batch.texts)])
            if len(at):
                yield at, model.prepare([batch.texts[i - first] or "" for i in at])
            first += len(batch.texts)

    def _sample(self, rows: aligned.Rows, scores: np.ndarray) -> ScoreSample:
        corpus = self.corpus
        return ScoreSample.of(scores, rows.usable, rows.keys, corpus.seed, corpus.num_usable())


def read_scores(folder: str, split: Split) -> np.ndarray:
    """Reads the row-aligned scores of a split, float64 [n]."""
    return aligned.read_columns(piece_path(files.join(folder, "rows"), split))["score"]


class Preference(Protocol):
    """Ranks the examples of a split for a baseline: higher is taken first, nan never, ties by hash."""

    def rank(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns float64 [n]."""

    def influence(self, split: Split) -> np.ndarray | None:
        """Returns the influence of each row, float64 [n], or None where it was not computed."""


@dataclasses.dataclass(frozen=True)
class Random:
    """A uniform draw by hash."""

    def rank(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        return random_ranks(corpus.seed, rows.keys)

    def influence(self, split: Split) -> np.ndarray | None:
        return None


@dataclasses.dataclass(frozen=True)
class HighestScore:
    """The highest scores first: influence without clusters, which is what Quad argues against.

    Args:
      folder: Folder of `ScoreExamples`.
    """

    folder: str

    def rank(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        return read_scores(self.folder, split)

    def influence(self, split: Split) -> np.ndarray | None:
        return read_scores(self.folder, split)


@dataclasses.dataclass(frozen=True)
class MiddleScore:
    """The scores nearest to the corpus's median first: the middle band of perplexity.

    Args:
      folder: Folder of `ScoreExamples`.
    """

    folder: str

    def rank(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        path = files.join(self.folder, "scores.json")
        median = cached(("scores.json", path), lambda: read_json(path))["median"]
        return nearest_ranks(read_scores(self.folder, split), median)

    def influence(self, split: Split) -> np.ndarray | None:
        return None


@dataclasses.dataclass(frozen=True)
class Resampled:
    """Importance resampling without replacement: log weight plus Gumbel noise, highest first.

    Args:
      folder: Folder of `ScoreExamples` with `DSIRScoring`.
    """

    folder: str

    def rank(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        return sampling_priority(read_scores(self.folder, split), rows.keys, corpus.seed)

    def influence(self, split: Split) -> np.ndarray | None:
        return None
