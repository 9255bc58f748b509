"""The result of a replay of the bandit: the next pulls, the accepted blocks and examples, and the report's tables."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from beam_quad import archives

Array = np.ndarray[Any, np.dtype[Any]]

StopReason = Literal["budget_met", "no_arm_above_tau", "rounds_exhausted"]


@dataclasses.dataclass(frozen=True)
class AcceptedBlock:
    """A block accepted in whole or in part.

    Attributes:
      cluster_id: The block's cluster.
      block: Index of the block within the cluster.
      round: The round in which it was accepted.
      influence: Influence by which the rule judged it: the token-weighted mean of its scored examples, shrunk towards
        other knowledge of its cluster by some rules.
      tokens: Tokens of all its examples.
      take_tokens: Tokens taken; fewer than `tokens` if the budget or the cluster's share ends within the block, which is
        then cut in hash order.
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
    """Individually accepted examples, in order of acceptance.

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
        """Makes a record without examples."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none.astype(np.uint64), none, none.astype(np.float64), none, none, none)

    @classmethod
    def joined(cls, parts: Sequence["AcceptedExamples"]) -> "AcceptedExamples":
        """Concatenates one or more records."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        )


@dataclasses.dataclass(frozen=True)
class RoundRecord:
    """One finished round.

    Attributes:
      round: 0 is the pilot.
      tau: The threshold of the round; -inf if the arms are not expected to fill the budget at any level.
      num_pulls: Number of blocks pulled.
      num_accepted: Pulls from which something was accepted; if the rule predicts, pulls with a scored example that reaches
        tau.
      accepted_tokens: Tokens accepted in this and all earlier rounds; if the rule predicts, tokens expected to reach tau.
      mean_influence: Token-weighted mean of the round's scores; nan if nothing could be scored.
      scored_examples: Examples scored in this and all earlier rounds, without unscorable ones.
    """

    round: int
    tau: float
    num_pulls: int
    num_accepted: int
    accepted_tokens: int
    mean_influence: float
    scored_examples: int


def scored_by_round(log: Sequence[RoundRecord]) -> list[int]:
    """Counts the examples scored in each round, from the records of all rounds in order."""
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
      accepted_blocks: Number of blocks accepted, int64; 0 if the rule accepts examples. If the rule predicts, pulls with a
        scored example that reached the threshold of their round.
      accepted_tokens: Tokens accepted, int64; if the rule predicts, tokens expected to reach tau.
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
    """The state of the bandit after the replayed rounds.

    Attributes:
      round: The next round to run; after the bandit has stopped, one more than the last round.
      tau: The threshold of the next round or, after the bandit has stopped, of the last. None before the pilot, whose
        scores set it, unless the policy fixes one.
      pulls: (cluster_id, block) to pull in the next round, most promising first; empty after the bandit has stopped.
      stop_reason: Why there is no next round; None if there is one.
      accepted: Accepted blocks in order, if the rule accepts blocks.
      accepted_examples: Accepted examples in order, if the rule accepts examples.
      accepted_tokens: Tokens accepted, never above the budget; if the rule predicts, tokens expected to reach tau.
      deviation: Standard deviation of influence within clusters, pooled over the pilot; 0 before the pilot.
      log: One record for each finished round.
      arms: One row for each cluster.
      unreachable_blocks: Number of blocks with examples but no candidate, which cannot be pulled.
      unreachable_tokens: Tokens in the unreachable blocks.
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
        """Whether the bandit has stopped."""
        return self.stop_reason is not None

    def of_round(self, number: int) -> "BanditState":
        """Restricts the accepted blocks, the accepted examples and the log to one round."""
        of_examples = self.accepted_examples.round == number
        return dataclasses.replace(
            self,
            accepted=tuple(block for block in self.accepted if block.round == number),
            accepted_examples=AcceptedExamples(
                **{
                    name: column[of_examples]
                    for name, column in _columns_of(self.accepted_examples).items()
                }
            ),
            log=tuple(record for record in self.log if record.round == number),
        )

    @classmethod
    def joined(cls, rounds: Sequence["BanditState"]) -> "BanditState":
        """Joins the `of_round` states of one or more rounds into the state after the last."""
        return dataclasses.replace(
            rounds[-1],
            accepted=tuple(block for part in rounds for block in part.accepted),
            accepted_examples=AcceptedExamples.joined([part.accepted_examples for part in rounds]),
            log=tuple(record for part in rounds for record in part.log),
        )

    def to_bytes(self) -> bytes:
        """Writes the state as npz without pickles; equal states give equal bytes."""
        blocks: dict[str, Array] = {
            field.name: np.array([getattr(block, field.name) for block in self.accepted], dtype)
            for field, dtype in _block_fields()
        }
        tables = {
            "accepted": blocks,
            "accepted_examples": _columns_of(self.accepted_examples),
            "arms": _columns_of(self.arms),
        }
        # As JSON, because an array holds no None: neither a tau nor a reason to stop need be there.
        scalars = {name: getattr(self, name) for name in _SCALARS}
        scalars["log"] = [dataclasses.asdict(record) for record in self.log]
        return archives.dump(
            scalars=np.frombuffer(json.dumps(scalars).encode(), np.uint8),
            pulls=np.array(self.pulls, np.int64).reshape(-1, 2),
            **{
                f"{table}.{name}": column
                for table, columns in tables.items()
                for name, column in columns.items()
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "BanditState":
        """Reads what `to_bytes` wrote."""
        columns = archives.parse(data)
        scalars = json.loads(columns["scalars"].tobytes())
        log = tuple(RoundRecord(**record) for record in scalars.pop("log"))
        blocks = _table(columns, "accepted").values()
        return cls(
            **scalars,
            log=log,
            pulls=tuple((cluster, block) for cluster, block in columns["pulls"].tolist()),
            accepted=tuple(
                AcceptedBlock(*values)
                for values in zip(*(column.tolist() for column in blocks), strict=True)
            ),
            accepted_examples=AcceptedExamples(**_table(columns, "accepted_examples")),
            arms=ArmTable(**_table(columns, "arms")),
        )


_SCALARS = (
    "round", "tau", "stop_reason", "accepted_tokens", "deviation", "unreachable_blocks",
    "unreachable_tokens",
)  # fmt: skip


def _block_fields() -> list[tuple["dataclasses.Field[Any]", type]]:
    return [
        (field, np.float64 if field.type is float else np.int64)
        for field in dataclasses.fields(AcceptedBlock)
    ]


def _columns_of(table: AcceptedExamples | ArmTable) -> dict[str, Array]:
    return {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}


def _table(columns: Mapping[str, Array], table: str) -> dict[str, Array]:
    """Returns the columns of one table by name, in the order written."""
    prefix = f"{table}."
    return {k.removeprefix(prefix): v for k, v in columns.items() if k.startswith(prefix)}
