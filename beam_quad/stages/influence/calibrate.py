"""After the pilot: by which way the rounds score, and whether the query set is good enough."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from beam_quad import identity, seeding
from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.gradients.passes import is_out_of_memory
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.scoring import InfluenceScorer, calibrate
from beam_quad.scoring.calibration import why_not_two_forwards
from beam_quad.scoring.halves import HALVES, agreement
from beam_quad.stages.influence.proxy import ProxyModel, ProxyStage
from beam_quad.stages.influence.query_vectors import VectorFile, half_name
from beam_quad.stages.influence.score import EXACT, TWO_FORWARDS, InfluenceScoring
from beam_quad.stages.quad.rounds import Bandit

_log = logging.getLogger(__name__)
# Rank correlations of 64 examples are known to within about (1 - r²) / 8.
_NUM_EXAMPLES = 64


@dataclasses.dataclass(frozen=True)
class CalibrateScoring(ProxyStage):
    """Scores a few of the pilot's examples again, by the two forwards and under halves of the query set.

    Takes one piece, gives what it found, and writes `calibration.json`:
    `way` and `reason`, `relative_step`, `rank_correlation`, `relative_error` and `num_examples` of the two forwards
    against the exact scores (null where they were not tried), and by query group `halves`, the rank correlation of
    the scores under its halves (null where a half has no text).

    Args:
      bandit: The bandit, whose pilot is done.
      scoring: How the rounds score, exactly.
      groups: Names of the query groups.
      halves: Vectors of the groups' halves.
      reason: Why the two forwards are out of the question, or None where they are to be tried.
      is_asked_for: Whether they are asked for by name, however small the pilot.
    """

    kind = "calibration"
    version = 2
    artifact_name = "calibration.json"

    bandit: Annotated[Bandit, identity.CountedAs(Bandit.pilot, "the pilot knows no budget")]
    scoring: InfluenceScoring
    groups: tuple[str, ...]
    halves: VectorFile
    reason: str | None
    is_asked_for: bool

    @property
    def root(self) -> str:
        return self.bandit.root

    @property
    def proxy(self) -> ProxyModel:
        return self.scoring.tracked.proxy

    def pieces(self) -> range:
        return range(1)

    def read(self) -> dict[str, Any]:
        """Reads what was found."""
        return read_json(self.artifact)

    def do(self, piece: int, model: Proxy) -> dict[str, Any]:
        blocks = self.scoring.tracked.blocks(model)
        sample = self._sample()
        found: dict[str, Any] = {"halves": self._agreement(model, blocks, sample)}
        num_pilot = None if self.is_asked_for else len(self.bandit.all_scored(1)["key"])
        reason = self.reason or why_not_two_forwards(model.model, blocks, num_pilot)
        if reason is None:
            return found | self._compare(model, blocks, sample)
        return found | {"way": EXACT, "reason": reason}

    def finish(self, total: dict[str, Any]) -> None:
        write_json(self.artifact, total)

    def _sample(self) -> pa.Table:
        """Draws some of the pilot's examples, with their influence and texts, in the order of the draw."""
        scored = self.bandit.all_scored(1)
        usable = np.flatnonzero(np.isfinite(scored["influence"]))
        seed, keys = self.bandit.policy.seed, scored["key"][usable]
        at = usable[seeding.lowest(seed, "calibration", keys, _NUM_EXAMPLES)]
        arms, keys = (scored[name][at].tolist() for name in ("cluster", "key"))
        texts = list(files.in_parallel(self.bandit.candidates.read_text, arms, keys))
        return pa.table(
            {"influence": scored["influence"][at], "text": pa.array(texts, pa.string())}
        )

    def _agreement(
        self, proxy: Proxy, blocks: Sequence[Block], sample: pa.Table
    ) -> dict[str, float | None]:
        """Compares the scores under the halves of each group's texts; one group's vectors at a time on the device."""
        vectors = self.halves.load()
        documents = proxy.read(sample.column("text").to_pylist())
        found: dict[str, float | None] = {}
        for group in self.groups:
            halves = {n: vectors[n] for half in HALVES if (n := half_name(group, half)) in vectors}
            found[group] = None
            if len(halves) == len(HALVES):
                scorer = InfluenceScorer(proxy, blocks, halves, self.scoring.normalize)
                found[group] = agreement(*scorer.score(documents).T)
        return found

    def _compare(self, proxy: Proxy, blocks: Sequence[Block], sample: pa.Table) -> dict[str, Any]:
        (vector,) = self.scoring.vectors.load().values()
        exact = sample.column("influence").to_numpy()
        try:
            found = calibrate(proxy, blocks, vector, sample.column("text").to_pylist(), exact)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = f"The tracked weights do not fit into the memory of {proxy.device} once more beside the model."
            _log.warning("%s Scoring exactly.", reason)
            return {"way": EXACT, "reason": reason}
        if found.is_close:
            reason = "Two forward passes reproduce the exact scores."
        elif found.is_enough:
            reason = "Two forward passes do not reproduce the exact scores of the pilot."
        else:
            reason = (
                "The pilot has too few examples of different influence to compare two forwards on."
            )
        if not found.is_close:
            _log.warning("%s Scoring exactly; the rounds take longer.", reason)
        return {
            "way": TWO_FORWARDS if found.is_close else EXACT,
            "reason": reason,
            "relative_step": found.relative_step,
            "rank_correlation": _finite(found.rank_correlation),
            "relative_error": _finite(found.relative_error),
            "num_examples": found.num_examples,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
