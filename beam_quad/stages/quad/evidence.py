"""All scores up to and including this run, in one file for the runs that refresh its selection."""

import dataclasses
from typing import Any

from beam_quad.bandit import Evidence
from beam_quad.stages.base import Stage
from beam_quad.stages.quad.bandit import Bandit
from beam_quad.stages.quad.known import write_evidence
from beam_quad.stages.quad.share_draws import ScoreShareDraws


@dataclasses.dataclass(frozen=True)
class GatherEvidence(Stage):
    """Writes the scores of this run and of all runs before it to one file.

    Args:
      bandit: The bandit, after its last round.
      num_rounds: Number of rounds run, including the pilot.
      drawn: The scores of documents drawn for shares; None without any.
    """

    kind = "evidence"
    artifact_name = "evidence.parquet"

    bandit: Bandit
    num_rounds: int
    drawn: ScoreShareDraws | None = None

    @property
    def root(self) -> str:
        return self.bandit.root

    def pieces(self) -> tuple[Any, ...]:
        # The scores are in the small files of the rounds, so `finish` does it all.
        return ()

    def do(self, piece: Any, model: Any) -> None:
        raise TypeError(f"{self.name} has no pieces")

    def finish(self, total: None) -> None:
        evidence = self.bandit.evidence(self.num_rounds)
        if self.drawn is not None:
            scored = self.drawn.scored()
            evidence += Evidence.of_drawn(scored["key"], scored["tokens"], scored["influence"])
        write_evidence(self.artifact, evidence, self.bandit.group_weights())
