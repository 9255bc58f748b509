"""Scores of documents drawn from each group that a share asks for, and how far they lie from the bandit's estimates."""

import dataclasses
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files, traffic
from beam_quad.artifacts.cache import once_per_process
from beam_quad.bandit.group_shifts import GroupShifts, draws_of_shares
from beam_quad.bandit.scored import Scored
from beam_quad.columns import look_up
from beam_quad.distillation import LandmarkDraw, LandmarkDraws
from beam_quad.plan.work import Sizes, Work, pass_over
from beam_quad.records import Split
from beam_quad.selection import known_influence
from beam_quad.selection.shares import Bound, asking, members_of
from beam_quad.stages.distillation.landmarks import LandmarkStage
from beam_quad.stages.influence.score import Scorer, Scoring, ScoringStage
from beam_quad.stages.quad.known import KnownEvidence
from beam_quad.stages.quad.pulled import Pulled
from beam_quad.stages.read.patterns import CountPatterns
from beam_quad.stages.read.splits import SplitStage

_SCORES = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("tokens", pa.int64()),
        pa.field("influence", pa.float64()),
    ]
)
_ROW_BYTES = 24


@dataclasses.dataclass(frozen=True)
class DrawForShares(SplitStage):
    """Draws documents from each group that a share asks for, among those that the bandit did not score.

    Takes splits and returns `LandmarkDraws`.

    Args:
      corpus: The corpus, within the budget.
      pulled: The bandit's pulls.
      counted: The shares.
    """

    kind = "share_draws"
    artifact_name = "draw.npz"
    what: ClassVar[str] = "ShareDraws"
    line: ClassVar[str] = "shares"

    pulled: Pulled
    counted: CountPatterns

    def work(self, sizes: Sizes) -> Work:
        return pass_over(self.texts_of(sizes), self.line)

    def expected(self, sizes: Sizes) -> int:
        """Returns the expected number of documents; those of two groups count twice."""
        num_pilot = self.pulled.bandit.expected_documents(sizes, 0)
        return sum(draws_of_shares([bound.share for bound in self._asked], num_pilot))

    @property
    def _asked(self) -> tuple[Bound, ...]:
        return asking(self.counted.bounds)

    def do(self, piece: Split, model: Any) -> LandmarkDraws:
        rows, scored = self.corpus.rows(piece), self.pulled.scored()
        # Only the reserve has its texts stored.
        is_drawable = self.corpus.in_reserve(rows) & self.corpus.is_candidate(rows)
        at = np.flatnonzero(is_drawable & ~np.isin(rows.keys, scored["key"]))
        asked, patterns = self._asked, self.counted.patterns
        parts = members_of(asked, patterns.conditions, patterns.read(piece)[at])
        num_pilot = int(np.count_nonzero(scored["round"] == 0))
        numbers = draws_of_shares([bound.share for bound in asked], num_pilot)
        draws = (
            LandmarkDraw.of(rows.keys[at[own]], self.corpus.seed, number)
            for own, number in zip(parts, numbers, strict=True)
        )
        return LandmarkDraws(tuple(draws))

    def finish(self, total: LandmarkDraws) -> None:
        files.write_once(self.artifact, total.together().to_bytes())

    @once_per_process
    def load(self) -> LandmarkDraw:
        """Loads the draw, once per process."""
        return LandmarkDraw.from_bytes(files.read_bytes(self.artifact))


@dataclasses.dataclass(frozen=True)
class ScoreShareDraws(LandmarkStage, ScoringStage):
    """Scores the drawn documents that no earlier run scored.

    Takes group numbers, writes a file of scores for each, and returns counts.

    Args:
      landmarks: The drawn documents.
      scoring: The scoring of the bandit's last rounds.
      known: Scores of earlier runs if this run refreshes one; None otherwise.
    """

    kind = "share_draw_scores"
    version = 2
    artifact_name = "scores.json"

    scoring: Scoring
    known: KnownEvidence | None

    def work(self, sizes: Sizes) -> Work:
        number = self.landmarks.drawn.expected(sizes)
        scored = self.scoring_work(sizes, number, 1)
        return dataclasses.replace(
            scored, line=self.landmarks.drawn.line, bytes_stored=float(number * _ROW_BYTES)
        )

    def do(self, piece: int, model: Scorer) -> Tally:
        drawn = self.landmarks.read(piece, ["key", "tokens", "text"])
        columns = {name: drawn.column(name).combine_chunks() for name in ("key", "tokens")}
        # Draws are the lowest hashes: with --reselect, most were drawn, and scored, by the base.
        influence, is_known = self._known(drawn.column("key").to_numpy())
        at = np.flatnonzero(~is_known)
        traffic.count("documents_scored", len(at))
        if len(at):
            texts = drawn.column("text").take(pa.array(at)).to_pylist()
            influence[at] = model.score(model.prepare(texts))[:, 0]
        aligned.write_table(self.group_path(piece), _SCORES, {**columns, "influence": influence})
        return Tally({"scored": drawn.num_rows})

    def statistic(self, piece: int) -> Tally:
        return Tally({"scored": aligned.read_table(self.group_path(piece)).num_rows})

    def progress(self, total: Tally | None) -> dict[str, int]:
        return {"scored": total["scored"] if total else 0}

    def _known(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.known is None:
            return np.full(len(keys), np.nan), np.zeros(len(keys), bool)
        evidence = self.known.load()
        scored = {"key": evidence.key, "influence": evidence.influence}
        return known_influence(scored, keys, np.ones(len(keys), bool))

    @once_per_process
    def scored(self) -> Scored:
        """Reads the drawn documents, once per process: ascending `key`, `tokens` and `influence`."""
        tables = [_SCORES.empty_table()]
        tables += [aligned.read_table(self.group_path(group)) for group in self.pieces()]
        table = pa.concat_tables(tables).sort_by("key")
        return {name: table.column(name).to_numpy() for name in _SCORES.names}


class Estimates(Protocol):
    """Estimates the influence of every example."""

    def estimate(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Estimates the influence of each row, float64 [n]."""


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnRows:
    """What is known of drawn documents. An additive statistic.

    Attributes:
      keys: uint64 [n].
      tokens: int64 [n].
      clusters: int64 [n].
      patterns: Numbers of their patterns, int64 [n].
      estimates: The bandit's estimates of their influence, float64 [n].
    """

    keys: np.ndarray
    tokens: np.ndarray
    clusters: np.ndarray
    patterns: np.ndarray
    estimates: np.ndarray

    def __add__(self, other: "DrawnRows") -> "DrawnRows":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return DrawnRows(*(np.concatenate(pair) for pair in pairs))


@dataclasses.dataclass(frozen=True)
class ShiftGroups(SplitStage):
    """Compares the scores of drawn documents with the bandit's estimates, by cluster and pattern.

    Takes splits and gives `DrawnRows`; see `bandit.group_shifts`.

    Args:
      corpus: The corpus, within the budget.
      scores: The scores of the drawn documents.
      estimates: The bandit's estimates.
      pulled: The bandit's pulls.
      counted: The shares.
    """

    kind = "group_shifts"
    version = 2
    artifact_name = "shifts.npz"

    scores: ScoreShareDraws
    estimates: Estimates
    pulled: Pulled
    counted: CountPatterns

    def work(self, sizes: Sizes) -> Work:
        return pass_over(self.texts_of(sizes), "shares")

    def do(self, piece: Split, model: Any) -> DrawnRows:
        rows, scored = self.corpus.rows(piece), self.scores.scored()
        # A row rejected for a repeated id shares its key with the row that stays.
        at = np.flatnonzero(rows.usable & np.isin(rows.keys, scored["key"]))
        clusters = self.pulled.counted.clusters.of_rows(piece)
        # Without a drawn document there is nothing to estimate.
        estimates = self.estimates.estimate(piece, rows)[at] if len(at) else np.zeros(0)
        patterns = self.counted.of(piece)
        return DrawnRows(
            rows.keys[at], rows.tokens[at], clusters[at].astype(np.int64), patterns[at], estimates
        )

    def finish(self, total: DrawnRows) -> None:
        # Splits arrive in any order, on which sums of floats would depend.
        order = np.argsort(total.keys)
        found = DrawnRows(*(column[order] for column in vars(total).values()))
        scored = self.scores.scored()
        influence = look_up(scored["key"], scored["influence"], found.keys, np.nan)
        shifts = GroupShifts.of(
            influence - found.estimates,
            found.tokens,
            found.clusters,
            found.patterns,
            self.counted.system().asked,
            self.pulled.state().deviation,
        )
        files.write_once(self.artifact, shifts.to_bytes())

    @once_per_process
    def load(self) -> GroupShifts:
        """Loads the shifts, once per process."""
        return GroupShifts.from_bytes(files.read_bytes(self.artifact))

    def of(self, split: Split, clusters: np.ndarray) -> np.ndarray:
        """Reads the shift of each row of a split by its cluster, int [n]: float64 [n]."""
        return self.load().at(clusters, self.counted.of(split))
