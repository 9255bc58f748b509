"""After the pilot: by which way the rounds score, and whether the query set is good enough."""

import dataclasses
import functools
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad import seeding
from beam_quad.artifacts import files
from beam_quad.artifacts.cache import cached_proxy, proxy_key
from beam_quad.gradients.passes import is_out_of_memory
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block, find_blocks
from beam_quad.scoring import InfluenceScorer, calibrate
from beam_quad.scoring.calibration import why_not_two_forwards
from beam_quad.scoring.halves import HALVES, agreement
from beam_quad.scoring.vectors import load_vectors
from beam_quad.stages.base import ModelTask
from beam_quad.stages.influence.query_vectors import half_name
from beam_quad.stages.influence.score import EXACT, TWO_FORWARDS, InfluenceScoring
from beam_quad.stages.quad.candidates import read_text
from beam_quad.stages.quad.rounds import Bandit
from beam_quad.stages.read.corpus import write_json

_log = logging.getLogger(__name__)
# Rank correlations of 64 examples are known to within about (1 - r²) / 8.
_NUM_EXAMPLES = 64


@dataclasses.dataclass
class CalibrateScoring(ModelTask):
    """Scores a few of the pilot's examples again, by the two forwards and under halves of the query set.

    Takes one piece, gives what it found, and writes `calibration.json`:
    `way` and `reason`, `relative_step`, `rank_correlation`, `relative_error` and `num_examples` of the two forwards
    against the exact scores (null where they were not tried), and by query group `halves`, the rank correlation of
    the scores under its halves (null where a half has no text).

    Args:
      scoring: How the rounds score, exactly.
      bandit: The bandit, whose pilot is done.
      groups: Names of the query groups.
      halves_path: Vectors of the groups' halves.
      reason: Why the two forwards are out of the question, or None where they are to be tried.
      is_asked_for: Whether they are asked for by name, however small the pilot.
      folder: Where `calibration.json` goes.
    """

    scoring: InfluenceScoring
    bandit: Bandit
    groups: tuple[str, ...]
    halves_path: str
    reason: str | None
    is_asked_for: bool
    folder: str

    @property
    def name(self) -> str:
        return "CalibrateScoring"

    @property
    def artifact(self) -> str:
        return calibration_path(self.folder)

    def pieces(self) -> range:
        return range(1)

    @property
    def model_key(self) -> str:
        return proxy_key(self.scoring.proxy, self.scoring.proxy_fingerprint)

    @property
    def device(self) -> str:
        return self.scoring.device

    def load(self) -> Proxy:
        return cached_proxy(self.scoring.proxy)

    def do(self, piece: int, model: Proxy) -> dict[str, Any]:
        blocks = find_blocks(model.model, self.scoring.layers)
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
        read = functools.partial(read_text, self.bandit.blocks_dir)
        arms, keys = (scored[name][at].tolist() for name in ("cluster", "key"))
        texts = list(files.in_parallel(read, arms, keys))
        return pa.table(
            {"influence": scored["influence"][at], "text": pa.array(texts, pa.string())}
        )

    def _agreement(
        self, proxy: Proxy, blocks: Sequence[Block], sample: pa.Table
    ) -> dict[str, float | None]:
        """Compares the scores under the halves of each group's texts; one group's vectors at a time on the device."""
        vectors = load_vectors(files.read_bytes(self.halves_path))
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
        (vector,) = load_vectors(files.read_bytes(self.scoring.vectors_path)).values()
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


def calibration_path(folder: str) -> str:
    """Where `CalibrateScoring` writes."""
    return files.join(folder, "calibration.json")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
