"""What a selection is worth: a proxy goes on training on it and on its rivals, and texts that steered nobody measure."""

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
