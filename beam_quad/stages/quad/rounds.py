"""The bandit's rounds, one stage each, unrolled into the chain."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_quad import identity, seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files, traffic
from beam_quad.errors import IntegrityError
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring.groups import combine_scores
from beam_quad.stages.influence.score import Scorer, Scoring, ScoringStage
from beam_quad.stages.quad.bandit import ROUND_SCHEMA, Bandit, matrix
from beam_quad.stages.quad.combined import CombinedVectors
from beam_quad.stages.quad.score_store import SCORES_SCHEMA, Scores
from beam_quad.stages.read.prefetch import prefetched

# Id, score and tokens of a scored example, stored twice: in the files of its pulls and of its round.
_STORED_ROW_BYTES = 128
# Bytes of text in one call of the scorer, about a million tokens: enough to fill nearly all of its micro-batches.
_BYTES_AT_ONCE = 1 << 22


@dataclasses.dataclass(frozen=True)
class GroupPulls:
    """The pulls of one group of arms in one round: one piece of work, scored by one worker.

    Attributes:
      group: Number of the group, which has one file of candidates.
      arms: (cluster, block, pull key) of each pull.
    """

    group: int
    arms: tuple[tuple[int, int, str], ...]


@dataclasses.dataclass(frozen=True)
class RunRound(ScoringStage):
    """Scores the pulls of a round that have no scores yet, then decides what the round accepts and the next pulls.

    Takes `GroupPulls`, writes one file of scores for each, and returns counts. A score depends only on its own text, so many
    pulls go to the scorer together, and scores of whole pulls are reused across runs.

    Args:
      bandit: The bandit.
      number: Number of the round; 0 is the pilot, which pulls every arm once.
      scoring: Scoring of this round's pulls.
      combined: The combined vector that the pilot writes; None for a single query group.
    """

    kind = "rounds"

    bandit: Bandit
    number: int
    scoring: Annotated[
        Scoring, identity.NotCounted("it follows from the bandit's and from its pilot")
    ]
    combined: Annotated[CombinedVectors | None, identity.NotCounted("it follows from the bandit")]

    @property
    def root(self) -> str:
        return self.bandit.root

    @property
    def folder(self) -> str:
        """Folder of the rounds: the bandit's own, which reads them."""
        return self.bandit.folder

    @property
    def name(self) -> str:
        return f"Round{self.number}" if self.number else "Pilot"

    @property
    def artifact(self) -> str:
        return self.bandit.decision_path(self.number)

    @property
    def clock(self) -> str:
        return self.bandit.round_path(self.number)

    @property
    def scores(self) -> Scores:
        """The store that scores are reused from and written to."""
        return Scores(self.bandit, self.scoring)

    def work(self, sizes: Sizes) -> Work:
        documents = self.bandit.expected_documents(sizes, self.number)
        # Later rounds score under one vector, combined from those of the groups.
        num_scores = 1 if self.number else len(self.bandit.weights)
        combined = sizes.scoring.vector_bytes if self.combined and not self.number else 0
        return dataclasses.replace(
            self.scoring_work(sizes, documents, num_scores),
            line="rounds, at most" if self.number else "pilot",
            alone_s=rates.ROUND_S if self.number else 0.0,
            bytes_stored=float(documents * _STORED_ROW_BYTES + combined),
        )

    def prefixes(self) -> tuple[str, ...]:
        # Other runs write to this folder too. Files are reused by pull key, in `pieces`, and never by piece.
        return (self.scores.folder,)

    def pieces(self) -> list[GroupPulls]:
        # Pulls that any run has scored are left out; `finish` reads their scores from the store.
        store = self.scores.load()
        missing: dict[int, list[tuple[int, int, str]]] = {}
        for cluster, block, key, group in sorted(self._pulls()):
            if key not in store:
                missing.setdefault(group, []).append((cluster, block, key))
        return [GroupPulls(group, tuple(arms)) for group, arms in sorted(missing.items())]

    def do(self, piece: GroupPulls, model: Scorer) -> Tally:
        # Named by the pulls: a retry writes the same file again, and no two pieces share one.
        path = self.scores.path(f"{seeding.digest(*(key for _, _, key in piece.arms))}.parquet")
        num_scored = 0
        halvings_before = _num_halvings(model)
        with aligned.table_writer(path, SCORES_SCHEMA) as writer:
            for keys, table, prepared in prefetched(self._prepared(piece, model)):
                scores = model.score(prepared)
                writer.write(
                    {
                        "pull_key": keys,
                        "example_id": table.column("example_id").to_pylist(),
                        "key": table.column("key").to_numpy(),
                        "tokens": table.column("tokens").to_numpy(),
                        "scores": list(scores),
                    }
                )
                num_scored += table.num_rows
        traffic.count("documents_scored", num_scored)
        halvings = _num_halvings(model) - halvings_before
        return Tally({"scored": num_scored, "pulls": len(piece.arms), "halvings": halvings})

    def finish(self, total: Tally | None) -> None:
        scores = self.scores
        store = scores.load()
        tables = []
        for cluster, block, key, _ in sorted(self._pulls()):
            if key not in store:
                raise IntegrityError(
                    f"no scores of block {block} of cluster {cluster} in {scores.folder}; "
                    "were its files deleted while the job ran?"
                )
            tables.append(_with_arm(store[key], cluster, block))
        # The chain has a fixed number of rounds, so the rounds after the bandit has stopped pull nothing.
        table = pa.concat_tables(tables) if tables else _EMPTY
        num_groups = 1 if self.number else len(self.bandit.weights)
        groups = matrix(table.column("scores"), num_groups)
        weights = np.ones(1)
        if self.combined is not None and self.number == 0:
            weights = self.bandit.standardised(groups)
            # Other budgets find this vector too, so a pilot without pulls, which has no scores to scale by, leaves it to them.
            if tables:
                self.combined.write(weights)
        columns = {name: table.column(name).combine_chunks() for name in SCORES_SCHEMA.names[1:4]}
        columns["cluster"] = table.column("cluster").combine_chunks()
        columns["block"] = table.column("block").combine_chunks()
        columns["influence"] = combine_scores(groups, weights)
        columns["group_influence"] = list(groups)
        aligned.write_table(self.bandit.round_path(self.number), ROUND_SCHEMA, columns)
        halvings = total["halvings"] if total else 0
        files.write(self.bandit.halvings_path(self.number), str(halvings).encode())
        # The decision is the stage's artifact and depends on the scores, so it is written last.
        decided = self.bandit.decide(self.number).of_round(self.number)
        files.write_once(self.artifact, decided.to_bytes())

    def progress(self, total: Tally | None) -> dict[str, int]:
        return self.bandit.progress(self.number)

    def _prepared(
        self, piece: GroupPulls, model: Scorer
    ) -> Iterator[tuple[list[str], pa.Table, Any]]:
        """Yields many pulls at a time: the pull key of each row, the rows, and their prepared texts."""
        for pulls in _at_once(self._candidates(piece)):
            keys = [key for key, own in pulls for _ in range(own.num_rows)]
            table = pa.concat_tables([own for _, own in pulls])
            yield keys, table, model.prepare(table.column("text").to_pylist())

    def _candidates(self, piece: GroupPulls) -> Iterator[tuple[str, pa.Table]]:
        columns = ["block", "key", "tokens", "example_id", "text"]
        # Arms are sorted by cluster, so one read of a cluster serves all of its blocks.
        for cluster, arms in itertools.groupby(piece.arms, key=lambda arm: arm[0]):
            table = self.bandit.candidates.read_cluster(cluster, columns)
            for _, block, key in arms:
                yield key, table.filter(pc.equal(table.column("block"), block))

    def _pulls(self) -> list[tuple[int, int, str, int]]:
        candidates = self.bandit.candidates
        keys = candidates.pull_keys()
        return [
            (cluster, block, keys[cluster, block], candidates.group_of(cluster))
            for cluster, block in self.bandit.pulls(self.number)
        ]


def _at_once(
    pulls: Iterable[tuple[str, pa.Table]],
) -> Iterator[list[tuple[str, pa.Table]]]:
    """Joins pulls until they hold enough bytes to fill the scorer's micro-batches."""
    joined: list[tuple[str, pa.Table]] = []
    num_bytes = 0
    for pull in pulls:
        joined.append(pull)
        num_bytes += pull[1].nbytes
        if num_bytes >= _BYTES_AT_ONCE:
            yield joined
            joined, num_bytes = [], 0
    if joined:
        yield joined


_EMPTY = pa.schema(
    [*SCORES_SCHEMA, ROUND_SCHEMA.field("cluster"), ROUND_SCHEMA.field("block")]
).empty_table()


def _with_arm(table: pa.Table, cluster: int, block: int) -> pa.Table:
    for name, value in (("cluster", cluster), ("block", block)):
        table = table.append_column(name, pa.array([value] * table.num_rows, pa.int32()))
    return table


def _num_halvings(model: Scorer) -> int:
    # Only scorers with a proxy count halvings; the others have no device memory to exhaust.
    return int(getattr(model, "num_halvings", 0))
