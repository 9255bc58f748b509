"""How large the duel is with each proxy."""

import dataclasses

from pipelines.demo import proxy
from pipelines.demo.command import FULL, QUICK
from tests.benchmarks.duel.domains import DOMAINS


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is selected from, trained and measured.

    Attributes:
      num_documents: Documents of the corpus.
      num_query: Texts of a query, at most.
      num_heldout: Held-out texts of a query's source, at most.
      num_general: Texts of each of the corpus's kinds of prose in the general mix.
      max_characters: All texts are cut there.
      budget_tokens: Tokens to select.
      recipe: How the proxy goes on training, by the demo's protocol; `num_tokens` is the budget.
      proxy_tokens: Tokens that the proxy from scratch was trained on.
      curvature_examples: Texts that the curvature is fitted on.
      embedder_max_tokens: Tokens of a text that the sentence encoder reads.
      num_seeds: Orders, unless asked for otherwise.
      num_workers: Trainings at a time; None for as many as there are cores.
      domains: Query domains, unless asked for otherwise.
    """

    num_documents: int
    num_query: int
    num_heldout: int
    num_general: int
    max_characters: int
    budget_tokens: int
    recipe: proxy.Recipe
    proxy_tokens: int
    curvature_examples: int
    embedder_max_tokens: int
    num_seeds: int
    num_workers: int | None
    domains: tuple[str, ...]


SMALL = Size(
    num_documents=FULL.num_documents,
    num_query=FULL.num_query,
    num_heldout=100,
    num_general=10,
    max_characters=1400,
    budget_tokens=FULL.budget_tokens,
    recipe=FULL.evaluation,
    proxy_tokens=FULL.training.num_tokens,
    curvature_examples=300,
    embedder_max_tokens=128,
    num_seeds=FULL.num_seeds,
    num_workers=None,
    domains=tuple(DOMAINS),
)
# A third of the corpus and of the budget: a token costs five times as much.
MIDDLE = dataclasses.replace(
    SMALL,
    num_documents=1500,
    num_heldout=80,
    num_general=6,
    budget_tokens=33_000,
    recipe=dataclasses.replace(FULL.evaluation, num_tokens=33_000),
    proxy_tokens=1_500_000,
    num_seeds=2,
)
# As many steps as the budget has pairs of windows. At 5e-5 the loss falls by a tenth to a third of a nat.
SMOLLM2 = Size(
    num_documents=320,
    num_query=24,
    num_heldout=32,
    num_general=3,
    max_characters=400,
    budget_tokens=3_200,
    recipe=proxy.Recipe(num_tokens=3_200, window=128, learning_rate=5e-5),
    proxy_tokens=0,
    curvature_examples=64,
    embedder_max_tokens=128,
    num_seeds=1,
    num_workers=1,
    domains=("medicine", "caselaw", "stories"),
)
_QUICK = {"domains": ("medicine", "python", "caselaw"), "num_seeds": 2, "num_heldout": 24}
SIZES = {
    "small": SMALL,
    "small, quick": dataclasses.replace(
        SMALL,
        **_QUICK,
        num_documents=600,
        num_query=40,
        num_general=2,
        budget_tokens=12_000,
        recipe=dataclasses.replace(QUICK.evaluation, num_tokens=12_000),
        proxy_tokens=60_000,
        curvature_examples=48,
    ),
    "middle": MIDDLE,
    "middle, quick": dataclasses.replace(
        MIDDLE,
        **_QUICK,
        num_documents=300,
        num_query=20,
        num_general=2,
        budget_tokens=6_000,
        recipe=dataclasses.replace(QUICK.evaluation, num_tokens=6_000),
        proxy_tokens=30_000,
        curvature_examples=24,
    ),
    "smollm2": SMOLLM2,
    "smollm2, quick": dataclasses.replace(
        SMOLLM2,
        num_documents=48,
        num_query=6,
        num_heldout=6,
        num_general=1,
        budget_tokens=600,
        recipe=dataclasses.replace(SMOLLM2.recipe, num_tokens=600),
        curvature_examples=8,
        domains=("medicine",),
    ),
}
