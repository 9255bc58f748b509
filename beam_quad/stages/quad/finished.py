"""Results of a finished bandit for the manifest and the report."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import aligned
from beam_quad.bandit import BanditState, shortfall_message
from beam_quad.bandit.scored import Scored, arm_code, mean_by_block
from beam_quad.bandit.state import scored_by_round
from beam_quad.columns import look_up
from beam_quad.records import finite_or_none
from beam_quad.report import data as page
from beam_quad.report.comparison import stratified_mean
from beam_quad.selection import RowCounts, cluster_weighted_mean, weighted_mean
from beam_quad.selection.shown import extremes, highest
from beam_quad.stages.quad.bandit import Bandit
from beam_quad.stages.quad.select import BanditSelection

_SHOWN_EXAMPLES = 8
_SHOWN_CHARACTERS = 2000
_TYPICAL_TEXTS = 40


@dataclasses.dataclass(frozen=True)
class FinishedBandit:
    """A bandit after its last round, by reference.

    Args:
      selection: The selection that follows from it.
    """

    selection: BanditSelection

    @property
    def bandit(self) -> Bandit:
        """The bandit."""
        return self.selection.pulled.bandit

    @property
    def num_rounds(self) -> int:
        """Number of rounds run, including the pilot."""
        return self.selection.pulled.num_rounds

    @property
    def state(self) -> BanditState:
        """State of the bandit at the end."""
        return self.selection.pulled.state()

    def num_scored(self) -> int:
        """Number of scored examples."""
        return len(self.selection.known_scores()["key"])

    def shortfall(self) -> str | None:
        """Describes the missing tokens and the option that helps; None if the budget is met.

        Examples that are accepted one by one fill the budget up to less than one example.
        """
        policy, blocks = self.bandit.sized_policy(), self.bandit.blocks()
        return shortfall_message(policy, blocks, self.state, self.selection.filled_tokens())

    def manifest(self, counts: RowCounts) -> dict[str, Any]:
        """Builds the bandit's part of the manifest.

        Args:
          counts: Counts of rows by outcome; only the selected tokens of each cluster are used.
        """
        state, scores = self.state, self.scores()
        blocks = self.bandit.blocks()
        corpus_tokens = blocks.per_cluster(blocks.tokens)
        selected = {c: counts.of_cluster(c).tokens for c in range(len(corpus_tokens))}
        # As in the report's headline: blocks are accepted for their own scores, so the mean of these alone would be
        # biased upwards. The stratified mean uses all scores of a cluster.
        cautious = stratified_mean(scores.scored, selected) if not scores.is_census else None
        return {
            "stop_reason": state.stop_reason,
            "rounds": len(state.log),
            "clusters": int(blocks.num_clusters),
            "unreachable": {"blocks": state.unreachable_blocks, "tokens": state.unreachable_tokens},
            "influence": {
                "selected_mean": cautious.mean if cautious else _mean(scores.selected),
                **self._held_out_mean(selected),
                "random_mean": _random_mean(scores.pilot, corpus_tokens),
                "scored_mean": _mean(scores.scored),
                "within_cluster_deviation": state.deviation,
                "intra_cluster_correlation": self.intra_cluster_correlation(),
                "tau": finite_or_none(state.tau),
            },
        }

    def intra_cluster_correlation(self) -> float | None:
        """Share of the variance of the pilot's influence between clusters; None if nothing varies."""
        return finite_or_none(self.bandit.variance_components().intra_cluster_correlation)

    def scores(self) -> page.Scores:
        """Reads all scores, those of the selection and those of the pilot."""
        scored = self.selection.pulled.scored()
        return page.Scores(
            scored=_sample(scored, np.ones(len(scored["key"]), bool)),
            selected=_sample(scored, self._stands_for_selection(scored)),
            pilot=_sample(scored, scored["round"] == 0),
            is_census=self.selection.is_census,
        )

    def arms(self) -> tuple[page.Arm, ...]:
        """Returns a row for every arm that was pulled."""
        arms = self.state.arms
        num = self.bandit.candidates.blocks.load().num_blocks
        return tuple(
            page.Arm(
                cluster_id=int(c),
                num_blocks=int(num[c]),
                pulls=int(arms.pulls[c]),
                accepted=int(arms.accepted_blocks[c]),
                mean_influence=float(arms.mean_influence[c]),
                tokens=int(arms.tokens[c]),
            )
            for c in arms.cluster_id
            # An arm without a scorable example has no mean to show.
            if arms.pulls[c]
        )

    def rounds(self, seconds: Mapping[str, float]) -> tuple[page.Round, ...]:
        """Returns a row for every round.

        Args:
          seconds: Wall-clock time of each stage, by name.
        """
        log = self.state.log
        return tuple(
            page.Round(
                number=record.round,
                tau=record.tau,
                pulls=record.num_pulls,
                accepted=record.num_accepted,
                scored=scored,
                accepted_tokens=record.accepted_tokens,
                seconds=seconds.get(f"Round{record.round}" if record.round else "Pilot"),
            )
            for record, scored in zip(log, scored_by_round(log), strict=True)
        )

    def extremes(self) -> tuple[tuple[page.Example, ...], tuple[page.Example, ...]]:
        """Reads the examples of highest and of lowest influence."""
        scored = self.selection.pulled.scored()
        best, worst = extremes(scored["influence"], _SHOWN_EXAMPLES)
        codes, means = mean_by_block(scored)
        of_block = look_up(codes, means, arm_code(scored["cluster"], scored["block"]), np.nan)

        def example(at: int) -> page.Example:
            cluster = int(scored["cluster"][at])
            text = self.bandit.candidates.read_text(cluster, int(scored["key"][at]))
            return page.Example(
                example_id=str(scored["example_id"][at]),
                text=text[:_SHOWN_CHARACTERS],
                influence=float(scored["influence"][at]),
                tokens=int(scored["tokens"][at]),
                cluster_id=cluster,
                block_influence=float(of_block[at]),
                key=int(scored["key"][at]),
            )

        return tuple(example(int(at)) for at in best), tuple(example(int(at)) for at in worst)

    def shown_keys(self) -> np.ndarray:
        """Returns the keys of the examples of `extremes`, uint64 [m]."""
        scored = self.selection.pulled.scored()
        return scored["key"][np.concatenate(extremes(scored["influence"], _SHOWN_EXAMPLES))]

    def typical_texts(self, cluster: int) -> list[str]:
        """Reads the candidates nearest to a cluster's center."""
        candidates = self.bandit.candidates
        if not candidates.has_any(cluster):
            return []
        table = candidates.read_cluster(cluster, ["similarity", "text"])
        nearest = highest(table.column("similarity").to_numpy(), _TYPICAL_TEXTS)
        texts = table.column("text").take(pa.array(nearest)).to_pylist()
        return [text[:_SHOWN_CHARACTERS] for text in texts]

    def group_influence(self) -> list[np.ndarray]:
        """Reads the pilot's scores under each query group, float64 [n] in the order of the examples' keys."""
        table = aligned.read_table(self.bandit.round_path(0))
        if not table.num_rows:
            return []
        keys, tokens = (table.column(name).to_numpy() for name in ("key", "tokens"))
        kept = np.flatnonzero(self.bandit.is_candidate(keys, tokens))
        order = kept[np.argsort(keys[kept], kind="stable")]
        values = np.array(table.column("group_influence").to_pylist(), np.float64)
        return list(values.reshape(table.num_rows, -1)[order].T)

    def _held_out_mean(self, selected: dict[int, int]) -> dict[str, float]:
        """Estimates the selection's mean influence without bias if the selection is by prediction; empty otherwise."""
        if self.selection.would_be_selected(self.selection.pulled.scored()) is None:
            return {}
        estimate = stratified_mean(self.scores().selected, selected)
        return {"selected_mean_held_out": estimate.mean} if estimate else {}

    def _stands_for_selection(self, scored: Scored) -> np.ndarray:
        """Returns which scored examples represent the selection, bool [n]."""
        # A selection by prediction is represented by examples chosen without their own scores; see `would_be_selected`.
        would_be = self.selection.would_be_selected(scored)
        return self.selection.is_selected(scored) if would_be is None else would_be


def _sample(scored: Scored, kept: np.ndarray) -> page.ScoredSample:
    kept = kept & np.isfinite(scored["influence"])
    return page.ScoredSample(
        scored["influence"][kept], scored["tokens"][kept], scored["cluster"][kept].astype(np.int64)
    )


def _mean(sample: page.ScoredSample) -> float | None:
    return weighted_mean(sample.influence, sample.tokens)


def _random_mean(sample: page.ScoredSample | None, cluster_tokens: np.ndarray) -> float | None:
    """Estimates the mean influence of a random draw from the pilot."""
    if sample is None:
        return None
    return cluster_weighted_mean(sample.influence, sample.tokens, sample.cluster_id, cluster_tokens)
