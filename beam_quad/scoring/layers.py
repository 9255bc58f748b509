"""Which parts of a model tell examples apart: the attention and the MLP of each layer."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

Kind = Literal["attention", "mlp", "both", "other"]
# As in `model.layers.3.self_attn.q_proj` and `transformer.h.3.mlp.c_fc`.
_IN_LAYER = re.compile(r"\.(\d+)\.(.+)")


def part_of(modules: Iterable[str]) -> tuple[int, Kind]:
    """Finds the layer of modules with the same input, and whether they belong to its attention or its MLP.

    Args:
      modules: Names of the modules. If attention and MLP of a layer have the same input, the kind is "both".

    Returns:
      Number of the layer, -1 outside all layers, and the kind.
    """
    found = [match for name in modules if (match := _IN_LAYER.search(name))]
    if not found:
        return -1, "other"
    kinds: set[Kind] = {"attention" if "att" in match[2] else "mlp" for match in found}
    return int(found[0][1]), kinds.pop() if len(kinds) == 1 else "both"


def shares_of_variance(
    influence: np.ndarray, parts: Sequence[tuple[int, Kind]]
) -> dict[tuple[int, Kind], float]:
    """Divides the variance of influence among the parts of the model that add up to it.

    Args:
      influence: Contribution of each part to the influence of each example, float64 [n, num_parts].
      parts: The parts; the shares of equal ones are added up.

    Returns:
      The covariance of each part with the whole, over the variance of the whole, by part in ascending order. The shares sum to
      1; a negative one belongs to a part that works against the rest. Empty if influence does not vary.
    """
    # An example that could not be scored would make every share nan.
    finite = influence[np.isfinite(influence).all(axis=1)]
    whole = finite.sum(axis=1)
    if len(whole) < 2 or np.ptp(whole) == 0:
        return {}
    centered = whole - whole.mean()
    shares = centered @ finite / (centered @ centered)
    found: dict[tuple[int, Kind], float] = {}
    for part, share in sorted(zip(parts, shares.tolist(), strict=True)):
        found[part] = found.get(part, 0.0) + share
    return found
