"""Is the code right on this GPU, and how much of the GPU does it use?

    python -m tests.benchmarks.gpu

Takes at most eight minutes on an H100 or H200. First every family of models is scored on the device: in float32 against
the CPU, in bfloat16 against float32, and everything that a run does twice, with deterministic kernels, bit by bit. Then
embedding (MiniLM), scoring and the fit of the curvature (the shapes of SmolLM2-135M, random weights) are timed and
profiled. On a machine without a GPU nothing is run. Exit code 1 if a family is not right.
"""

import argparse
import dataclasses
import json
import math
import sys
import time

import torch

from beam_quad.gradients.proxy import ProxySpec, set_up_torch
from beam_quad.plan.devices import Chip, chip_named
from tests.benchmarks.gpu import families, rates
from tests.benchmarks.gpu.families import Family
from tests.benchmarks.gpu.rates import Rate, Size
from tests.benchmarks.shapes import MODELS

# Some dozen micro-batches of a run's default: the profiler keeps every event, some thousands each.
_SIZE = Size(
    config=MODELS["135M"], layers="attention", micro_batch=ProxySpec("").max_batch_tokens, scored=128,
    fitted=64, embedded=4096, mean_tokens=1000,
)  # fmt: skip
# What is left of eight minutes for checks; the rates take the rest.
_CHECKS_S = 300


def run(
    device: torch.device,
    dtype: torch.dtype,
    size: Size,
    names: tuple[str, ...],
    peak: float | None,
    checks_s: float = _CHECKS_S,
) -> dict[str, object]:
    """Checks families, then measures rates, and prints both.

    Args:
      device: Where.
      dtype: Of proxy and encoder while they are timed.
      size: How much is measured.
      names: Families to check.
      peak: The chip's dense bfloat16 matrix rate, FLOPs a second; None if it is not known.
      checks_s: Families whose turn has not come by then are left out, and named.

    Returns:
      What goes into the JSON.
    """
    set_up_torch(ProxySpec(""))
    checked, began = [], time.monotonic()
    for name in names:
        if time.monotonic() - began > checks_s:
            break
        checked.append(families.check(name, device))
        print(_family(checked[-1]), flush=True)
    measured = []
    for work in rates.works(device, dtype, size):
        measured.append(rates.measure(work, device, peak))
        print(_rate(measured[-1]), flush=True)
    return {
        "right": all(family.is_right for family in checked),
        "unchecked": list(names[len(checked) :]),
        "families": [_finite(dataclasses.asdict(family)) for family in checked],
        "rates": [dataclasses.asdict(rate) for rate in measured],
    }


def _family(found: Family) -> str:
    verdict = "right" if found.is_right else "WRONG"
    if found.failure:
        return f"{found.name:14}{verdict}  {found.failure}"
    repeats = "repeats" if found.is_repeatable else "does not repeat"
    return f"{found.name:14}{verdict}  float32 off by {found.error:.1e}, bfloat16 ranks alike at {found.rank_correlation:.4f}, {repeats}"


def _rate(found: Rate) -> str:
    share = "" if found.share_of_rate is None else f" = {found.share_of_rate:.1%} of the chip's"
    return (
        f"{found.name:14}{found.tokens_per_s:,.0f} tokens/s, {found.flops_per_s / 1e12:.3g} TFLOP/s{share}, busy {found.busy:.0%}, "
        f"{found.profile.kernels:,} kernels, {found.profile.synchronisations:,} synchronisations"
    )


def _finite(values: dict[str, object]) -> dict[str, object]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="three families only")
    names = families.FAMILIES[::7] if parser.parse_args().quick else families.FAMILIES
    if not torch.cuda.is_available():
        print("there is no CUDA GPU here: nothing was run")
        return
    name = torch.cuda.get_device_name()
    chip = chip_named(name)
    print(f"{name}, torch {torch.__version__}: {_about(chip)}")
    peak = None if chip is None else chip.bfloat16_flops_per_s
    found = run(torch.device("cuda"), torch.bfloat16, _SIZE, names, peak)
    print(json.dumps({"gpu": name, "torch": torch.__version__, **found}))
    sys.exit(0 if found["right"] else 1)


def _about(chip: Chip | None) -> str:
    return "its matrix rate is not in beam_quad.plan.devices" if chip is None else str(chip)


if __name__ == "__main__":
    main()
