"""The worth of a selection: continued training of a proxy on it and on its rivals, measured on held-out query texts."""

from beam_quad.proof.held_out import divide, fingerprints, held_out
from beam_quad.proof.training import (
    Recipe,
    continue_training,
    default_learning_rate,
    measure,
    packed,
    training_order,
)
from beam_quad.proof.verdict import RANDOM, Losses, Trial, Verdict, by_group, judge, price

__all__ = [
    "RANDOM",
    "Losses",
    "Recipe",
    "Trial",
    "Verdict",
    "by_group",
    "continue_training",
    "default_learning_rate",
    "divide",
    "fingerprints",
    "held_out",
    "judge",
    "measure",
    "packed",
    "price",
    "training_order",
]
