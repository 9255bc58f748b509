"""What do larger proxies cost? Bytes of curvature and query vectors, FLOPs of a scored token, hours of a GPU.

From shapes alone, by `beam_quad.scoring.ScoringCosts`, whose formulas `tests/scoring/test_costs.py` holds against what the
code computes and writes. Nothing is downloaded and no model is run. Hours are those of one H100 at the rate that a plan
assumes.
"""

import dataclasses
import json

import torch
import transformers

from beam_quad.gradients import find_blocks
from beam_quad.plan.devices import HOPPER, Device
from beam_quad.scoring import ScoringCosts
from tests.benchmarks.shapes import MODELS

NUM_DOCUMENTS = 1_000_000
# Tokens of a document, one window.
_LENGTH = 1000
COLUMNS = (
    "proxy", "layers", "factors", "eigenvectors", "eigenvalues", "query vector",
    "forward", "exact", "H100-hours",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One choice of layers; bytes, FLOPs per token, and GPU-hours of exact scoring per million documents."""

    factor_bytes: int
    eigenvector_bytes: int
    eigenvalue_bytes: int
    vector_bytes: int
    forward_flops: float
    exact_flops: float
    gpu_hours: float

    def cells(self) -> list[str]:
        forward = self.forward_flops
        sizes = (
            self.factor_bytes,
            self.eigenvector_bytes,
            self.eigenvalue_bytes,
            self.vector_bytes,
        )
        return [
            *(gigabytes(size) for size in sizes),
            f"{forward / 1e9:.3g}",
            f"{self.exact_flops / 1e9:.3g} ({self.exact_flops / forward:.2f}x)",
            f"{self.gpu_hours:.2g}",
        ]


def gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


def cost(model: transformers.PreTrainedModel, layers: str, length: int, flops_per_s: float) -> Row:
    costs = ScoringCosts.of(model, find_blocks(model, layers))
    exact = costs.exact_flops(length)
    return Row(
        costs.covariance_bytes,
        costs.eigenbasis_bytes,
        costs.eigenvalue_bytes,
        costs.vector_bytes,
        costs.forward_flops(length),
        exact,
        exact * length * NUM_DOCUMENTS / flops_per_s / 3600,
    )


def table(length: int, flops_per_s: float) -> dict[str, dict[str, Row]]:
    rows: dict[str, dict[str, Row]] = {}
    for name, config in MODELS.items():
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        half = f"last:{config.num_hidden_layers // 2}"
        rows[name] = {
            layers: cost(model, layers, length, flops_per_s) for layers in ("attention", half, "all")
        }  # fmt: skip
    return rows


def report() -> None:
    """Prints the table, and JSON in the last line."""
    device = Device.gpu(HOPPER, "bfloat16")
    rows = table(_LENGTH, device.flops_per_s)
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * 2}{'--:|' * (len(COLUMNS) - 2)}")
    for name, by_layers in rows.items():
        for layers, row in by_layers.items():
            print(f"| {' | '.join([name, f'`{layers}`', *row.cells()])} |")
    print(
        f"\nforward, exact: GFLOPs a token at {_LENGTH:,} tokens, over forward; H100-hours: exact, a million documents, {device.name}"
    )
    print(json.dumps({n: {k: dataclasses.asdict(r) for k, r in v.items()} for n, v in rows.items()}))  # fmt: skip
