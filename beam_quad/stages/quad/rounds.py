"""The bandit's rounds, one stage each, unrolled into the chain."""

import dataclasses
import itertools
import math
import threading
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_quad import identity, seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files, traffic
from beam_quad.artifacts.cache import cached, once_per_process
from beam_quad.bandit import (
    BanditState,
    Blocks,
    Evidence,
    Prior,
    QuadPolicy,
    RoundScores,
    replay,
)
from beam_quad.bandit.arms import PullTable
from beam_quad.bandit.posterior import VarianceComponents
from beam_quad.bandit.rules import ROUND_MARGIN
from beam_quad.bandit.scored import pulls_of
from beam_quad.columns import run_bounds
from beam_quad.errors import IntegrityError
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Budget
from beam_quad.scoring.groups import combine_scores, standardised_weights
from beam_quad.scoring.vectors import Vectors, combine_vectors, write_vectors
from beam_quad.stages.base import Stored
from beam_quad.stages.influence.query_vectors import VectorFiles, read_slice, read_slices
from beam_quad.stages.influence.score import Scorer, Scoring, ScoringStage
from beam_quad.stages.quad.blocks import CountPassedOver
from beam_quad.stages.quad.candidates import GatherCandidates
from beam_quad.stages.quad.known import KnownEvidence
from beam_quad.stages.read.prefetch import prefetched
from beam_quad.stages.refresh.free import CountFree, FreeBudget

_SCORES = pa.schema(
    [
        pa.field("pull_key", pa.string()),
        pa.field("example_id", pa.string()),
        pa.field("key", pa.uint64()),
        pa.field("tokens", pa.int64()),
        pa.field("scores", pa.list_(pa.float64())),
    ]
)

ROUND_SCHEMA = pa.schema(
    [
        pa.field("cluster", pa.int32()),
        pa.field("block", pa.int32()),
        pa.field("example_id", pa.string()),
        pa.field("key", pa.uint64()),
        pa.field("tokens", pa.int64()),
        pa.field("influence", pa.float64()),
        pa.field("group_influence", pa.list_(pa.float64())),
    ]
)


# Pulls of a round that a plan assumes at least.
_LEAST_PULLS = 8
# Id, score and tokens of a scored example, stored twice: in the files of its pulls and of its round.
_STORED_ROW_BYTES = 128
# Bytes of text in one call of the scorer, about a million tokens: enough to fill nearly all of its micro-batches.
_BYTES_AT_ONCE = 1 << 22
# Columns of a round kept in memory; the scores by query group are read only for the report.
_SCORED = ["cluster", "block", "example_id", "key", "tokens", "influence"]


@dataclasses.dataclass(frozen=True)
class Bandit(Stored):
    """The bandit of a run, by reference: its policy, its arms and its scoring.

    `RunRound.finish` writes two files per round, the scores and the decision that follows from them. Every later stage
    reads these files.

    Args:
      policy: Rules of the bandit; its `samples_per_pull` is replaced by that of the blocks, and its budget by `free`.
      candidates: The texts that pulls score.
      passed_over: Counts of the examples that cannot be selected because they are too long for the budget or leak.
      scoring: How the pilot scores its pulls; later rounds score under the combined query groups.
      weights: Weight of each query group.
      known: Scores of earlier runs if this run refreshes one; None otherwise.
      free: Counts the budget if this run refreshes one; None otherwise.
    """

    kind = "rounds"
    version = 4

    policy: QuadPolicy
    candidates: GatherCandidates
    passed_over: CountPassedOver
    scoring: Scoring
    weights: tuple[float, ...]
    known: KnownEvidence | None = None
    free: CountFree | None = None

    @property
    def root(self) -> str:
        return self.candidates.root

    def pilot(self) -> list[object]:
        """Lists all that the scores of the pilot depend on: it pulls every arm once, independently of policy and budget.

        With a budget of 0 nothing is pulled, so there are no scores.
        """
        return [self.candidates, self.scoring, self.weights, self.known]

    def round_path(self, number: int) -> str:
        """Path of the scores of a round."""
        return self.path(f"round-{number:02d}.parquet")

    def decision_path(self, number: int) -> str:
        """Path of the decision of a round: the accepted blocks and the next pulls."""
        return self.path(f"decision-{number:02d}.npz")

    def halvings_path(self, number: int) -> str:
        """Path of the number of times a round ran out of memory and halved a micro-batch."""
        return self.path(f"halvings-{number:02d}")

    def num_halvings(self, num_rounds: int) -> int:
        """Counts the halvings in the first `num_rounds` rounds."""
        paths = [self.halvings_path(number) for number in range(num_rounds)]
        return sum(int(files.read_bytes(path)) for path in paths if files.exists(path))

    def expected_documents(self, sizes: Sizes, number: int) -> int:
        """Estimates the examples that a round scores: its share of blocks worth two budgets, at least 8 pulls a round."""
        blocks, policy = self.candidates.blocks, self.policy
        expected, tokens = blocks.expected(sizes), blocks.texts_of(sizes).tokens
        if not number:
            return expected.num_clusters * expected.samples_per_pull
        wanted = math.ceil(
            ROUND_MARGIN * policy.budget_tokens / max(1, tokens) * expected.num_blocks
        )
        pulls = max(wanted, _LEAST_PULLS * policy.num_rounds)
        # The pilot has pulled one block of each cluster.
        pulls = max(0, min(pulls, expected.num_blocks - expected.num_clusters))
        of_round = pulls * number // policy.num_rounds - pulls * (number - 1) // policy.num_rounds
        return of_round * expected.samples_per_pull

    @property
    def budget(self) -> Budget:
        """The budget."""
        amount = self.policy.budget_tokens
        return Budget(amount) if self.free is None else FreeBudget(amount, counted=self.free)

    def sized_policy(self) -> QuadPolicy:
        """Returns the policy with the budget and the `samples_per_pull` that were counted in the run."""
        samples, _ = self.candidates.blocks.samples_per_pull()
        budget_tokens = self.budget.exact()
        return dataclasses.replace(
            self.policy, samples_per_pull=samples, budget_tokens=budget_tokens
        )

    def decide(self, number: int) -> BanditState:
        """Replays all rounds up to a scored one; returns what they accept and the next pulls."""
        # The state is a function of the scores alone, so a retried or resumed round decides the same.
        scores = [self._scores(earlier) for earlier in range(number + 1)]
        return replay(self.sized_policy(), self.blocks(), scores, self._prior())

    def pulls(self, number: int) -> tuple[tuple[int, int], ...]:
        """Returns the pulls (cluster, block) of a round, as decided by the previous one; the pilot's need no scores."""
        if number:
            return self._decision(number - 1).pulls
        return replay(self.sized_policy(), self.blocks(), [], self._prior()).pulls

    @once_per_process
    def state(self, num_rounds: int) -> BanditState:
        """Reads the state of the bandit after its first `num_rounds` >= 1 rounds, once per process."""
        return BanditState.joined([self._decision(number) for number in range(num_rounds)])

    def _decision(self, number: int) -> BanditState:
        return BanditState.from_bytes(files.read_bytes(self.decision_path(number)))

    def blocks(self) -> Blocks:
        """Returns the blocks without the examples that cannot be selected."""
        blocks, passed_over = self.candidates.blocks.load(), self.passed_over.load()
        return blocks if passed_over is None else blocks.without(passed_over)

    @once_per_process
    def scored(self, num_rounds: int) -> dict[str, np.ndarray]:
        """Reads the scored examples that can be selected, once per process; columns as in `all_scored`."""
        table = self.all_scored(num_rounds)
        kept = self.is_candidate(table["key"], table["tokens"])
        return {name: column[kept] for name, column in table.items()}

    def progress(self, number: int) -> dict[str, int]:
        """Counts the finite scores of a round, new or reused, and the tokens accepted by its end."""
        finite = np.isfinite(self._columns(number)["influence"])
        accepted = self._decision(number).accepted_tokens
        return {"scored": int(finite.sum()), "accepted": accepted}

    def variance_components(self) -> VarianceComponents:
        """Estimates the variance of influence within and between clusters from the pilot."""
        pilot, prior = PullTable.of(self._scores(0)), self._prior()
        if prior is None:
            return VarianceComponents.of(pilot)
        return (prior.evidence + Evidence.of_pilot(pilot)).components()

    def evidence(self, num_rounds: int) -> Evidence:
        """Returns the scores of the first `num_rounds` rounds and of all earlier runs."""
        own = Evidence.of(self.scored(num_rounds), PullTable.of(self._scores(0)))
        return own if self.known is None else own + self.known.load()

    def group_weights(self) -> np.ndarray:
        """Returns the weight of the scores under each query group, float64 [num_groups], as the first pilot set it."""
        table = aligned.read_table(self.round_path(0))
        return self.standardised(matrix(table.column("group_influence"), len(self.weights)))

    def standardised(self, groups: np.ndarray) -> np.ndarray:
        """Returns `group_weights` from the pilot's scores under each query group, float64 [n, num_groups]."""
        if groups.shape[1] == 1:
            return np.ones(1)
        # A refreshed run keeps the weights of the first pilot: its scores are compared with those of earlier runs.
        if self.known is not None and self.known.load().has_clusters:
            return self.known.group_weights()
        return standardised_weights(self.weights, groups)

    def _prior(self) -> Prior | None:
        evidence = None if self.known is None else self.known.load()
        # The base has no scores if it was fitted anew and its budget was full; this run then begins with a pilot of its own.
        if evidence is None or not evidence.has_clusters:
            return None
        return self.candidates.blocks.prior(evidence)

    def is_candidate(self, keys: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Returns which scored examples can be selected, bool [n]; see `Corpus.can_be`."""
        return self.passed_over.corpus.can_be(keys, tokens)

    def all_scored(self, num_rounds: int) -> dict[str, np.ndarray]:
        """Reads all scored examples: `round` and columns of `ROUND_SCHEMA`, ascending by key.

        Those of the pilot do not depend on the budget.
        """
        rounds = [self._columns(number) for number in range(num_rounds)]
        table = {name: np.concatenate([r[name] for r in rounds]) for name in _SCORED}
        table["round"] = np.repeat(np.arange(num_rounds), [len(r["key"]) for r in rounds])
        order = np.argsort(table["key"], kind="stable")
        return {name: column[order] for name, column in table.items()}

    @once_per_process
    def _columns(self, number: int) -> dict[str, np.ndarray]:
        return aligned.read_columns(self.round_path(number), _SCORED)

    def _scores(self, number: int) -> RoundScores:
        table = self._columns(number)
        return pulls_of(table, self.is_candidate(table["key"], table["tokens"]))


@dataclasses.dataclass(frozen=True)
class CombinedVectors(Stored):
    """The combined vector of all query groups, written at the end of the pilot; scores are linear in it.

    One slice of the layers is in memory at a time, with the vectors of all groups.

    Args:
      bandit: The bandit, with the vectors and the weights of the groups.
      vectors: The vectors of the groups.
    """

    kind = "combined"

    bandit: Annotated[
        Bandit, identity.CountedAs(Bandit.pilot, "the scores of a pilot know no budget")
    ]
    vectors: VectorFiles

    @property
    def root(self) -> str:
        return self.bandit.root

    def load(self) -> Vectors:
        """Reads the combined vector."""
        return read_slices([self._path(number) for number in range(len(self.vectors.paths))])

    def write(self, weights: np.ndarray) -> None:
        """Writes the sum of the groups' vectors times their weights, float64 [num_groups]."""
        for number, path in enumerate(self.vectors.paths):
            vectors = read_slice(path)
            combined = combine_vectors(vectors, dict(zip(vectors, weights.tolist(), strict=True)))
            with files.writing(self._path(number)) as file:
                write_vectors(file, {"combined": combined})

    def _path(self, number: int) -> str:
        return self.path(f"{number:03d}.safetensors")


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
class Scores(Stored):
    """The scores of pulls, shared by all runs with the same scoring.

    Args:
      bandit: A bandit with this scoring.
      scoring: The scoring.
    """

    kind = "scores"
    version = 2

    bandit: Annotated[Bandit, identity.NotCounted("others that score in this way find the scores")]
    scoring: Scoring

    @property
    def root(self) -> str:
        return self.bandit.root

    def load(self) -> "ScoreStore":
        """Returns the process's store of these scores, refreshed."""
        return cached(("scores", self.folder), lambda: ScoreStore(self.folder)).refresh()


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
        with aligned.table_writer(path, _SCORES) as writer:
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
        columns = {name: table.column(name).combine_chunks() for name in _SCORES.names[1:4]}
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


class ScoreStore:
    """All scores in a folder, by pull key. `refresh` reads only files that it has not read yet."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._read: set[str] = set()
        self._tables: dict[str, pa.Table] = {}
        self._lock = threading.Lock()

    def refresh(self) -> "ScoreStore":
        """Reads the files written since the last call."""
        with self._lock:
            new = sorted({info.path for info in files.find(self._folder)} - self._read)
            for table in files.in_parallel(aligned.read_table, new):
                self._add(table)
            self._read.update(new)
        return self

    def __contains__(self, pull_key: str) -> bool:
        return pull_key in self._tables

    def __getitem__(self, pull_key: str) -> pa.Table:
        return self._tables[pull_key]

    def _add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        keys = table.column("pull_key").to_numpy(zero_copy_only=False)
        for a, b in run_bounds(keys):
            # Two runs at the same time may both score a pull; the first file by name is used.
            self._tables.setdefault(keys[a], table.slice(a, b - a))


_EMPTY = pa.schema(
    [*_SCORES, ROUND_SCHEMA.field("cluster"), ROUND_SCHEMA.field("block")]
).empty_table()


def _with_arm(table: pa.Table, cluster: int, block: int) -> pa.Table:
    for name, value in (("cluster", cluster), ("block", block)):
        table = table.append_column(name, pa.array([value] * table.num_rows, pa.int32()))
    return table


def matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Reads lists of `width` numbers, float64 [n, width]."""
    values = np.array(column.to_pylist(), np.float64)
    return values.reshape(len(column), -1) if len(column) else np.zeros((0, width))


def _num_halvings(model: Scorer) -> int:
    # Only scorers with a proxy count halvings; the others have no device memory to exhaust.
    return int(getattr(model, "num_halvings", 0))
