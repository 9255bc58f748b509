"""What a replay of the bandit yields: the next pulls, what was accepted, and the tables of the report."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

StopReason = Literal["budget_met", "no_arm_above_tau", "rounds_exhausted"]


@dataclasses.dataclass(frozen=True)
class AcceptedBlock:
    """A block that was taken, whole or in part.

    Attributes:
      cluster_id: Its cluster.
      block: Its number within the cluster.
      round: The round in which it was pulled and accepted.
      influence: Token-weighted mean influence of its scored examples.
      tokens: Tokens of all its examples.
      take_tokens: How many of them are taken; fewer than `tokens` where the budget or the cluster's share ends within
        the block, which is then cut in hash order.
    """

    cluster_id: int
    block: int
    round: int
    influence: float
    tokens: int
    take_tokens: int

    @property
    def is_cut(self) -> bool:
        """Whether only a part of the block is taken."""
        return self.take_tokens < self.tokens


@dataclasses.dataclass(frozen=True, eq=False)
class AcceptedExamples:
    """The examples that `instance` acceptance took, in the order taken.

    Attributes:
      keys: uint64 [n].
      tokens: int64 [n].
      influence: float64 [n].
      cluster_id: int64 [n].
      block: int64 [n].
      round: int64 [n].
    """

    keys: Array
    tokens: Array
    influence: Array
    cluster_id: Array
    block: Array
    round: Array

    @classmethod
    def empty(cls) -> "AcceptedExamples":
        """Makes the record of no example."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none.astype(np.uint64), none, none.astype(np.float64), none, none, none)

    @classmethod
    def joined(cls, parts: Sequence["AcceptedExamples"]) -> "AcceptedExamples":
        """Puts at least one record after another."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        )


@dataclasses.dataclass(frozen=True)
class RoundRecord:
    """One finished round.

    Attributes:
      round: 0 is the pilot.
      tau: The threshold of the round; -inf where the whole corpus is wanted.
      num_pulls: Blocks that were pulled.
      num_accepted: Pulls of which something was taken; with `propagate` acceptance, those with a scored example that
        reaches tau.
      accepted_tokens: Tokens taken in this and all earlier rounds; with `propagate` acceptance, those that are expected
        to reach tau.
      mean_influence: Token-weighted mean of the round's scores; nan where nothing could be scored.
      scored_examples: Examples scored in this and all earlier rounds, without the unscorable ones.
    """

    round: int
    tau: float
    num_pulls: int
    num_accepted: int
    accepted_tokens: int
    mean_influence: float
    scored_examples: int


def scored_by_round(log: Sequence[RoundRecord]) -> list[int]:
    """Counts the examples that each round scored, from the records of all rounds in order."""
    totals = [record.scored_examples for record in log]
    return [after - before for before, after in itertools.pairwise([0, *totals])]


@dataclasses.dataclass(frozen=True, eq=False)
class ArmTable:
    """One row for each cluster, empty ones included.

    Attributes:
      cluster_id: int64 [num_clusters].
      pulls: Pulls with a scorable example, int64.
      mean_influence: Token-weighted mean influence of the scored examples, float64; nan before the first.
      upper_bound: The arm's score in the next round, float64; inf before the first scored example.
      accepted_blocks: Blocks of which something was taken, int64; 0 with `instance` acceptance. With `propagate`
        acceptance, pulls with a scored example that reached the threshold of their round.
      accepted_tokens: Tokens taken, int64; with `propagate` acceptance, those expected to reach tau.
      tokens: Tokens of the cluster, int64.
    """

    cluster_id: Array
    pulls: Array
    mean_influence: Array
    upper_bound: Array
    accepted_blocks: Array
    accepted_tokens: Array
    tokens: Array


@dataclasses.dataclass(frozen=True, eq=False)
class BanditState:
    """The state of the bandit after the rounds that were replayed.

    Attributes:
      round: The next round to run; once stopped, the one after the last that was run.
      tau: The threshold of the next round or, once stopped, of the last; None before the pilot, whose scores set it,
        unless the policy fixes one.
      pulls: (cluster_id, block) to pull in the next round, most promising first; empty once stopped.
      stop_reason: Why there is no next round; None while there is.
      accepted: Blocks in the order taken, with `block` acceptance.
      accepted_examples: Examples in the order taken, with `instance` acceptance.
      accepted_tokens: Tokens taken, never above the budget; with `propagate` acceptance, those expected to reach tau.
      deviation: Standard deviation of influence within clusters, pooled over the pilot; 0 before it.
      log: One record for each finished round.
      arms: One row for each cluster.
      unreachable_blocks: Blocks with examples but without a candidate: they can be neither pulled nor accepted.
      unreachable_tokens: The tokens in them.
    """

    round: int
    tau: float | None
    pulls: tuple[tuple[int, int], ...]
    stop_reason: StopReason | None
    accepted: tuple[AcceptedBlock, ...]
    accepted_examples: AcceptedExamples
    accepted_tokens: int
    deviation: float
    log: tuple[RoundRecord, ...]
    arms: ArmTable
    unreachable_blocks: int
    unreachable_tokens: int

    @property
    def is_done(self) -> bool:
        """Whether no further round is to be run."""
        return self.stop_reason is not None
