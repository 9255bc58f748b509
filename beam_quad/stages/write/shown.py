"""The scored examples shown in the report."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad import seeding
from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.report import data as page
from beam_quad.scoring.sample import SAMPLED_SCORES
from beam_quad.selection import weighted_mean
from beam_quad.selection.shown import ShownScores, extremes
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.influence.score import ScoreExamples
from beam_quad.stages.read.examples import read_examples
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.write.ranked import Selection

_SHOWN_EXAMPLES = 8
_SHOWN_CHARACTERS = 2000
_SHOWN = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("influence", pa.float64()),
        pa.field("tokens", pa.int64()),
        pa.field("cluster", pa.int64()),
        pa.field("is_selected", pa.bool_()),
        pa.field("is_drawn", pa.bool_()),
        pa.field("split", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("example_id", pa.string()),
        pa.field("text", pa.large_string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class ShowScores(SplitStage):
    """Samples the scored examples, and finds the best and the worst with their texts.

    Takes splits and gives `ShownScores`.

    Args:
      corpus: The corpus, within the budget.
      selection: The selection.
      influence: The scores.
      clusters: The clusters, or None if nothing was clustered.
    """

    kind = "shown"
    version = 3
    artifact_name = "shown.parquet"

    selection: Selection
    influence: ScoreExamples
    clusters: AssignClusters | None

    def work(self, sizes: Sizes) -> Work:
        requests = self.texts_of(sizes).requests(10)
        return dataclasses.replace(super().work(sizes), alone_s=rates.SHOWN_S, requests=requests)

    def pieces(self) -> list[tuple[int, Split]]:
        return list(enumerate(self.corpus.splits()))

    def do(self, piece: tuple[int, Split], model: Any) -> ShownScores:
        number, split = piece
        rows = self.corpus.rows(split)
        influence = self.influence.read(split)
        is_selected = np.zeros(len(influence), bool)
        is_selected[self.selection.keep(split, rows).rows] = True
        at = np.flatnonzero(np.isfinite(influence) & rows.usable)
        # The report's figures need a sample of bounded size, however many examples were scored.
        rate = SAMPLED_SCORES / max(1, self.influence.facts()["scored"])
        clusters = np.zeros(len(influence), np.int64)
        if self.clusters is not None:
            clusters = self.clusters.read(split)[0].astype(np.int64)
        columns = {
            "key": rows.keys[at],
            "influence": influence[at],
            "tokens": rows.tokens[at],
            "cluster": clusters[at],
            "is_selected": is_selected[at],
            "is_drawn": seeding.is_drawn(self.corpus.seed, "shown", rows.keys[at], rate),
            "split": np.full(len(at), number),
            "row": at,
        }
        return ShownScores.of(columns, _SHOWN_EXAMPLES)

    def finish(self, total: ShownScores | None) -> None:
        columns: dict[str, Any] = {field.name: pa.array([], field.type) for field in _SHOWN}
        if total is not None:
            columns = dict(total.columns)
            # Scores are stored without texts, so the few that are shown are read from the input again.
            num_rows = len(columns["key"])
            ids: list[str | None] = [None] * num_rows
            texts: list[str | None] = [None] * num_rows
            for at in np.concatenate(extremes(columns["influence"], _SHOWN_EXAMPLES)).tolist():
                where = (int(columns["split"][at]), int(columns["row"][at]))
                ids[at], texts[at] = self._example(*where)
            columns |= {"example_id": ids, "text": texts}
        aligned.write_table(self.artifact, _SHOWN, columns)

    def manifest(self) -> dict[str, Any]:
        """Makes its part of the manifest: mean influence per token of the scored and of the selected examples."""
        scores = self.scores()
        means = {
            "selected_mean": weighted_mean(scores.selected.influence, scores.selected.tokens),
            "scored_mean": weighted_mean(scores.scored.influence, scores.scored.tokens),
        }
        return {"influence": means}

    def scores(self) -> page.Scores:
        """Reads the sample; every selected example in it was scored itself."""
        table = self._load()
        drawn = table["is_drawn"].astype(bool)
        selected = drawn & table["is_selected"].astype(bool)
        return page.Scores(_sample(table, drawn), _sample(table, selected), None, is_census=True)

    def extremes(self) -> tuple[tuple[page.Example, ...], tuple[page.Example, ...]]:
        """Reads the examples of the highest and of the lowest influence."""
        table = self._load()

        def example(at: int) -> page.Example:
            return page.Example(
                example_id=str(table["example_id"][at]),
                text=str(table["text"][at]),
                influence=float(table["influence"][at]),
                tokens=int(table["tokens"][at]),
                cluster_id=int(table["cluster"][at]) if self.clusters is not None else None,
                key=int(table["key"][at]),
            )

        best, worst = extremes(table["influence"], _SHOWN_EXAMPLES)
        return tuple(map(example, best.tolist())), tuple(map(example, worst.tolist()))

    def shown_keys(self) -> np.ndarray:
        """Returns the keys of the examples of `extremes`, uint64 [m]."""
        table = self._load()
        return table["key"][np.concatenate(extremes(table["influence"], _SHOWN_EXAMPLES))]

    @once_per_process
    def _load(self) -> dict[str, np.ndarray]:
        return aligned.read_columns(self.artifact)

    def _example(self, number: int, row: int) -> tuple[str, str]:
        """Reads id and text of a row of a split."""
        examples = read_examples(self.corpus, self.corpus.splits()[number], [row])
        return next(((own, text[:_SHOWN_CHARACTERS]) for _, own, text in examples), ("", ""))


def _sample(table: dict[str, np.ndarray], kept: np.ndarray) -> page.ScoredSample:
    return page.ScoredSample(
        table["influence"][kept], table["tokens"][kept], table["cluster"][kept]
    )
