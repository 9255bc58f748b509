"""The bandit of a run, read from the files of its rounds."""

import dataclasses
import math

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
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
from beam_quad.plan.work import Sizes
from beam_quad.records import Budget
from beam_quad.scoring.groups import standardised_weights
from beam_quad.stages.base import Stored
from beam_quad.stages.influence.score import Scoring
from beam_quad.stages.quad.blocks import CountPassedOver
from beam_quad.stages.quad.candidates import GatherCandidates
from beam_quad.stages.quad.known import KnownEvidence
from beam_quad.stages.refresh.free import CountFree, FreeBudget

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
        # Scored for every budget and list of forbidden texts; here only examples that can be selected speak for their block.
        table = self._columns(number)
        return pulls_of(table, self.is_candidate(table["key"], table["tokens"]))


def matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Reads lists of `width` numbers, float64 [n, width]."""
    values = np.array(column.to_pylist(), np.float64)
    return values.reshape(len(column), -1) if len(column) else np.zeros((0, width))
