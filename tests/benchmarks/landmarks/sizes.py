"""How much each setting of the benchmark measures."""

import dataclasses

from tests.benchmarks.counterfactual.sizes import QUERY_DOMAINS


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
      source: Which corpus and proxy: a size of `tests.benchmarks.counterfactual`.
      num_documents: Documents of the pool, at most.
      max_characters: Documents are cut there, so that all methods read the same text and it fits a window.
      targets: Domains whose held-out documents are a target each.
      num_query: Documents of a target.
      num_factors: Documents of the pool that curvature is fitted on.
      num_landmarks: Numbers of landmarks, ascending, all below the documents of the pool.
      num_seeds: Draws of landmarks.
      num_timed: Documents over which costs are counted and timed.
      timed_tokens: Tokens of these.
    """

    source: str
    num_documents: int
    max_characters: int
    targets: tuple[str, ...]
    num_query: int
    num_factors: int
    num_landmarks: tuple[int, ...]
    num_seeds: int
    num_timed: int
    timed_tokens: int


SIZES = {
    "demo": Size(
        source="scratch",
        num_documents=2000,
        max_characters=600,
        targets=QUERY_DOMAINS,
        num_query=40,
        num_factors=300,
        num_landmarks=(64, 128, 256, 512, 1024),
        num_seeds=5,
        num_timed=64,
        timed_tokens=256,
    ),
    "demo, quick": Size(
        source="scratch, quick",
        num_documents=400,
        max_characters=200,
        targets=("biomedicine", "code"),
        num_query=16,
        num_factors=64,
        num_landmarks=(64, 128, 256),
        num_seeds=2,
        num_timed=8,
        timed_tokens=96,
    ),
    "smollm2": Size(
        source="smollm2",
        num_documents=400,
        max_characters=240,
        targets=("biomedicine", "news", "code"),
        num_query=12,
        num_factors=32,
        num_landmarks=(32, 64, 128, 256),
        num_seeds=5,
        num_timed=4,
        timed_tokens=128,
    ),
    "smollm2, quick": Size(
        source="smollm2, quick",
        num_documents=64,
        max_characters=120,
        targets=("news",),
        num_query=4,
        num_factors=8,
        num_landmarks=(8, 16),
        num_seeds=2,
        num_timed=1,
        timed_tokens=64,
    ),
}
