"""Influence-based selection of pre-training data at web scale, as Apache Beam pipelines.

In a notebook, on a list of texts, without Beam and without files:

    from beam_quad import select
    selection = select(texts, query_texts, "HuggingFaceTB/SmolLM2-135M", budget_tokens=1_000_000)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beam_quad.answers import answer as answer
    from beam_quad.answers import conversation as conversation
    from beam_quad.influence import score_influence as score_influence
    from beam_quad.influence_distillation import distill as distill
    from beam_quad.quad import select as select

__all__ = ["answer", "conversation", "distill", "score_influence", "select"]

_PAGES = {
    "answer": "beam_quad.answers",
    "conversation": "beam_quad.answers",
    "distill": "beam_quad.influence_distillation",
    "score_influence": "beam_quad.influence",
    "select": "beam_quad.quad",
}


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import, which `beam-quad --help` and the pure rooms need not wait for.
    if name not in _PAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PAGES[name]), name)
