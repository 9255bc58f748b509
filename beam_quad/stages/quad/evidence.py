"""After the rounds: what they scored is put to what was known, for the run that goes on from this one."""

import dataclasses
from typing import Any

from beam_quad.stages.base import Stage
from beam_quad.stages.quad.known import write_evidence
from beam_quad.stages.quad.rounds import Bandit


@dataclasses.dataclass(frozen=True)
class GatherEvidence(Stage):
    """Writes all that was scored up to this run in one file, however many runs there were.

    Args:
      bandit: The bandit that has played.
      num_rounds: Rounds that were run, the pilot included.
    """

    kind = "evidence"
    artifact_name = "evidence.parquet"

    bandit: Bandit
    num_rounds: int

    @property
    def root(self) -> str:
        return self.bandit.root

    def pieces(self) -> tuple[Any, ...]:
        return ()

    def do(self, piece: Any, model: Any) -> None:
        raise TypeError(f"{self.name} has no pieces")

    def finish(self, total: None) -> None:
        evidence = self.bandit.evidence(self.num_rounds)
        write_evidence(self.artifact, evidence, self.bandit.group_weights())
