"""A small corpus of known influence, and the loop that a pipeline unrolls."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from beam_quad import seeding
from beam_quad.bandit import BanditState, Blocks, PullScores, QuadPolicy, RoundScores, replay


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Examples with their block, tokens, influence and whether they can be scored."""

    blocks: Blocks
    place: np.ndarray
    keys: np.ndarray
    tokens: np.ndarray
    influence: np.ndarray
    in_reserve: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, num_blocks: list[int], size: int) -> "Corpus":
        counts = np.array(num_blocks, dtype=np.int32)
        cluster_id = rng.choice(np.flatnonzero(counts), size)
        block = (rng.uniform(size=size) * counts[cluster_id]).astype(np.int64)
        tokens = rng.integers(2, 40, size)
        in_reserve = rng.uniform(size=size) < 0.7
        blocks = Blocks.of(counts, cluster_id, block, tokens, in_reserve)
        influence = rng.normal(size=counts.size)[cluster_id] + rng.normal(size=size)
        influence[rng.uniform(size=size) < 0.1] = np.nan
        keys = seeding.mix(0, "key", np.arange(size, dtype=np.uint64))
        return cls(blocks, blocks.offsets[cluster_id] + block, keys, tokens, influence, in_reserve)

    def score(self, pulls: tuple[tuple[int, int], ...], samples: int | None) -> RoundScores:
        return tuple(self._pull(cluster_id, block, samples) for cluster_id, block in pulls)

    def _pull(self, cluster_id: int, block: int, samples: int | None) -> PullScores:
        place = self.blocks.offsets[cluster_id] + block
        at = np.flatnonzero((self.place == place) & self.in_reserve)[:samples]
        return PullScores(cluster_id, block, self.keys[at], self.tokens[at], self.influence[at])


def play_out(policy: QuadPolicy, corpus: Corpus) -> tuple[BanditState, list[RoundScores]]:
    """Runs rounds until the bandit stops."""
    samples = policy.samples_per_pull if policy.acceptance == "block" else None
    rounds: list[RoundScores] = []
    state = replay(policy, corpus.blocks, rounds)
    while not state.is_done:
        rounds.append(corpus.score(state.pulls, samples))
        state = replay(policy, corpus.blocks, rounds)
    return state, rounds


@pytest.fixture(scope="session")
def draw_corpus() -> Callable[[np.random.Generator, list[int], int], Corpus]:
    return Corpus.draw


@pytest.fixture(scope="session")
def play() -> Callable[[QuadPolicy, Corpus], tuple[BanditState, list[RoundScores]]]:
    return play_out
