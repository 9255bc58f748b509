"""Builds the chain of a selection of `beam-quad select` from flags; each way to select has a chain of its own."""

from beam_quad.stages.influence.score import Scoring
from pipelines.bandit_chain import BanditBuilder
from pipelines.baseline_chain import BaselineBuilder
from pipelines.builder import Chain
from pipelines.inputs import Inputs
from pipelines.options import QuadOptions
from pipelines.shortlist_chain import ShortlistBuilder


def build(options: QuadOptions, inputs: Inputs, scoring: Scoring | None = None) -> Chain:
    """Builds the chain of stages.

    Args:
      options: The flags.
      inputs: The inputs found by `look`.
      scoring: Scores the pulls in place of influence; no curvature is fitted then.

    Returns:
      The chain; nothing is written yet.
    """
    if options.policy != "quad":
        return BaselineBuilder(options, inputs, scoring).build()
    if options.is_shortlist:
        return ShortlistBuilder(options, inputs, scoring).build()
    return BanditBuilder(options, inputs, scoring).build()
