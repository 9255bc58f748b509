"""Measures after the pilot whether the query set is good enough, and which parts of the proxy separate examples."""

import dataclasses
from typing import Annotated, Any

import numpy as np

from beam_quad import identity, seeding
from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.gradients.proxy import Proxy
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring import InfluenceScorer
from beam_quad.scoring.halves import HALVES, agreement
from beam_quad.scoring.influence import total
from beam_quad.scoring.layers import part_of, shares_of_variance
from beam_quad.stages.influence.proxy import ProxyModel, ProxyStage
from beam_quad.stages.influence.query_vectors import VectorFiles, half_name
from beam_quad.stages.influence.score import InfluenceScoring
from beam_quad.stages.quad.bandit import Bandit

# With 64 examples, the standard error of a rank correlation r is about (1 - r²) / 8.
_NUM_EXAMPLES = 64


@dataclasses.dataclass(frozen=True)
class CompareHalves(ProxyStage):
    """Scores a few examples of the pilot under both halves of each query group's texts, and compares the scores.

    Takes one piece and returns, by query group, the rank correlation of the scores under its halves (split-half
    reliability), None if a half has no text, and each layer's share of their variance; see `scoring.layers`.

    Args:
      bandit: The bandit, after its pilot.
      scoring: How the pilot was scored.
      groups: Names of the query groups.
      halves: Vectors of the groups' halves.
    """

    kind = "halves"
    version = 2
    artifact_name = "halves.json"

    bandit: Annotated[Bandit, identity.CountedAs(Bandit.pilot, "the pilot knows no budget")]
    scoring: InfluenceScoring
    groups: tuple[str, ...]
    halves: VectorFiles

    @property
    def root(self) -> str:
        return self.bandit.root

    @property
    def proxy(self) -> ProxyModel:
        return self.scoring.tracked.proxy

    def work(self, sizes: Sizes) -> Work:
        documents = min(self.bandit.expected_documents(sizes, 0), _NUM_EXAMPLES)
        scored = self.scoring.work(sizes, documents, len(HALVES) * len(self.groups))
        return dataclasses.replace(scored, line="halves")

    def pieces(self) -> range:
        return range(1)

    def do(self, piece: int, model: Proxy) -> dict[str, dict[str, Any]]:
        """Scores the sample, with the vectors of one group at a time on the device."""
        blocks = self.scoring.tracked.blocks(model)
        vectors = self.halves.load()
        documents = model.read(self._sample())
        found: dict[str, dict[str, Any]] = {}
        for group in self.groups:
            halves = {n: vectors[n] for half in HALVES if (n := half_name(group, half)) in vectors}
            found[group] = {"agreement": None, "layers": []}
            if len(halves) == len(HALVES):
                scorer = InfluenceScorer(model, blocks, halves, self.scoring.normalize)
                by_stack = scorer.score_stacks(documents)
                parts = [part_of(stack.modules) for stack in scorer.stacks]
                # The mean over both halves stands for the whole group: they differ only if the number of texts is odd.
                shares = shares_of_variance(by_stack.mean(axis=1), parts)
                found[group] = {
                    "agreement": agreement(*total(by_stack).T),
                    "layers": [[*part, share] for part, share in shares.items()],
                }
        return found

    def finish(self, total: dict[str, dict[str, Any]]) -> None:
        write_json(self.artifact, total)

    def read(self) -> dict[str, float | None]:
        """Reads the rank correlations by query group."""
        return {group: own["agreement"] for group, own in read_json(self.artifact).items()}

    def layers(self) -> dict[str, list[tuple[int, str, float]]]:
        """Reads layer, kind and share of the variance of each part of the proxy, by query group."""
        found = read_json(self.artifact)
        return {group: [tuple(part) for part in own["layers"]] for group, own in found.items()}

    def _sample(self) -> list[str]:
        """Draws the texts of `_NUM_EXAMPLES` scored examples of the pilot by hash."""
        scored = self.bandit.all_scored(1)
        usable = np.flatnonzero(np.isfinite(scored["influence"]))
        seed, keys = self.bandit.policy.seed, scored["key"][usable]
        at = usable[seeding.lowest(seed, "calibration", keys, _NUM_EXAMPLES)]
        arms, keys = (scored[name][at].tolist() for name in ("cluster", "key"))
        return list(files.in_parallel(self.bandit.candidates.read_text, arms, keys))
