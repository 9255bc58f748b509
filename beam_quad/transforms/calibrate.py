"""After the pilot: by which way the rounds score, and whether the query set is good enough."""

import dataclasses
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad import seeding
from beam_quad.gradients.tracked import find_blocks
from beam_quad.io import files
from beam_quad.scoring import InfluenceScorer, calibrate
from beam_quad.scoring.calibration import rank_correlation
from beam_quad.scoring.vectors import load_vectors
from beam_quad.transforms.candidates import (
    load_blocks,
    load_samples_per_pull,
    num_groups,
    read_cluster,
)
from beam_quad.transforms.corpus import write_json
from beam_quad.transforms.curvature import HALVES, half_name
from beam_quad.transforms.rounds import Bandit
from beam_quad.transforms.score import EXACT, TWO_FORWARDS, InfluenceScoring, ScoringTask

_log = logging.getLogger(__name__)
# Rank correlations of 64 examples are known to within about (1 - r²) / 8.
_MOST_EXAMPLES = 64
_LEAST_EXAMPLES = 16
# Of the pilot: what is looked at again costs a few percent of it.
_SHARE = 1 / 8
# Comparing the steps takes about 250 forward passes, and two forwards save about half of one an example.
WORTHWHILE_PILOT = 1024


@dataclasses.dataclass
class CalibrateScoring(ScoringTask):
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

    def do(self, piece: int, model: InfluenceScorer) -> dict[str, Any]:
        sample = self._sample()
        found: dict[str, Any] = {"halves": self._agreement(sample)}
        reason = self.reason
        num_pilot = len(self.bandit.scored(1)["key"])
        if reason is None and num_pilot < WORTHWHILE_PILOT and not self.is_asked_for:
            reason = f"A pilot of {num_pilot:,} examples is too small for two forwards to pay."
        if reason is None:
            return found | self._compare(sample)
        return found | {"way": EXACT, "reason": reason}

    def finish(self, total: dict[str, Any]) -> None:
        write_json(self.artifact, total)

    def _sample(self) -> pa.Table:
        """Draws some of the pilot's examples, with their influence and texts, in the order of the draw."""
        scored = self.bandit.scored(1)
        usable = np.flatnonzero(np.isfinite(scored["influence"]))
        size = int(np.clip(_SHARE * len(usable), _LEAST_EXAMPLES, _MOST_EXAMPLES))
        draws = seeding.mix(self.bandit.policy.seed, "calibration", scored["key"][usable])
        at = usable[np.argsort(draws, kind="stable")[:size]]
        with ThreadPoolExecutor(16) as pool:
            texts = list(pool.map(self._text, scored["cluster"][at], scored["key"][at]))
        return pa.table(
            {"influence": scored["influence"][at], "text": pa.array(texts, pa.string())}
        )

    def _text(self, cluster: int, key: int) -> str:
        folder = self.bandit.blocks_dir
        samples, _ = load_samples_per_pull(folder)
        group = int(cluster) % num_groups(load_blocks(folder), samples)
        table = read_cluster(folder, group, int(cluster), ["key", "text"])
        row = np.flatnonzero(table.column("key").to_numpy() == key)[0]
        return str(table.column("text")[int(row)].as_py())

    def _agreement(self, sample: pa.Table) -> dict[str, float | None]:
        vectors = load_vectors(files.read_bytes(self.halves_path))
        if not vectors or not sample.num_rows:
            return dict.fromkeys(self.groups)
        proxy = self.scoring.load_proxy()
        blocks = find_blocks(proxy.model, self.scoring.layers)
        scorer = InfluenceScorer(proxy, blocks, vectors, self.scoring.normalize)
        scores = scorer.score(sample.column("text").to_pylist())
        columns = dict(zip(vectors, scores[np.isfinite(scores).all(axis=1)].T, strict=True))
        return {group: _agreement(columns, group) for group in self.groups}

    def _compare(self, sample: pa.Table) -> dict[str, Any]:
        proxy = self.scoring.load_proxy()
        blocks = find_blocks(proxy.model, self.scoring.layers)
        (vector,) = load_vectors(files.read_bytes(self.scoring.vectors_path)).values()
        exact = sample.column("influence").to_numpy()
        found = calibrate(proxy, blocks, vector, sample.column("text").to_pylist(), exact)
        if found.is_close:
            reason = "Two forward passes give the exact scores for less."
        else:
            reason = "Two forward passes do not reproduce the exact scores of the pilot."
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


def _agreement(columns: dict[str, np.ndarray], group: str) -> float | None:
    names = [half_name(group, half) for half in HALVES]
    if not all(name in columns for name in names):
        return None
    left, right = (columns[name] for name in names)
    return _finite(rank_correlation(left, right))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
