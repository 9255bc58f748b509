"""How much memory does the fit of a 7B model take? Curvature and query vectors, beside the model.

    python -m tests.benchmarks.fit [--quick]

The peak at the shapes of Llama-2-7B is priced from them (`ScoringCosts.fit_peak_bytes`). The price is held against the resident
memory of processes that run the stages as a pipeline does, on models of random weights whose layers have an eighth of the
width, and whose slices a 64th of the bytes; and on a single layer of true width, whose decompositions a stand-in replaces,
since they take minutes. What a process held before the first stage, the model
included, does not count; the activations of a micro-batch of 64 tokens do, which the price leaves out.
"""

import argparse
import dataclasses
import gc
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import torch
import transformers

from beam_quad.artifacts.cache import cached_proxy
from beam_quad.gradients import find_blocks
from beam_quad.gradients.proxy import ProxySpec
from beam_quad.scoring import ScoringCosts, products, slices
from beam_quad.scoring.shapes import fitted_bytes
from beam_quad.stages import run_in_process
from beam_quad.stages.influence.query_vectors import FitQueryVectors
from pipelines import chain, options
from pipelines.inputs import look
from tests.benchmarks.scale.proxies import MODELS
from tests.pipelines.world import World, make_world

# Of a worker that fits a 7B model, beside the model.
LIMITS = {"attention": 16 << 30, "all": 24 << 30}
_SHRINK = 8
_COLUMNS = ("shapes", "layers", "slices", "all at once", "priced", "measured", "in", "limit")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of random weights that is fitted in a process of its own.

    Attributes:
      layers: What is tracked.
      hidden_size: Width; the others are in the proportions of Llama-2-7B.
      num_layers: Layers.
      slice_bytes: Bytes of a slice at most.
      decomposes: Whether covariances are decomposed; otherwise the axes stand in for their eigenvectors.
    """

    layers: str
    hidden_size: int
    num_layers: int
    slice_bytes: int
    decomposes: bool = True

    def config(self, vocabulary: int = 512) -> transformers.LlamaConfig:
        """The model's configuration."""
        large = MODELS["7B"]
        # An MLP that is not tracked only makes activations.
        inner = large.intermediate_size * self.hidden_size // large.hidden_size
        return transformers.LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=self.hidden_size,
            intermediate_size=inner if self.layers == "all" else 128,
            num_hidden_layers=self.num_layers,
            num_attention_heads=max(1, self.hidden_size // 128),
            max_position_embeddings=64,
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """What was priced and measured of a case.

    Attributes:
      num_slices: Slices of the layers.
      at_once: Bytes of eigenvectors and eigenvalues of all layers, which are not in memory together.
      priced: Peak by `ScoringCosts.fit_peak_bytes`.
      measured: Peak of the resident memory, over that before the first stage; None if nothing was run.
      stage: The stage that had it.
    """

    num_slices: int
    at_once: int
    priced: int
    measured: int | None = None
    stage: str = ""

    @classmethod
    def priced_of(cls, config: transformers.LlamaConfig, layers: str) -> "Found":
        """Prices a model without weights."""
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        costs = ScoringCosts.of(model, find_blocks(model, layers))
        return cls(len(costs.slice_backwards), fitted_bytes(costs.blocks), costs.fit_peak_bytes)


def measure(case: Case, folder: pathlib.Path) -> Found:
    """Runs a case in a process of its own.

    Args:
      case: The case.
      folder: An empty folder, for a small corpus, the model and the artifacts.
    """
    # Small tensors would otherwise come from an arena, which keeps what is freed.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "200000", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.benchmarks.fit", "--folder", str(folder)]
    command += ["--case", json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def _run(case: Case, folder: pathlib.Path) -> Found:
    slices._SLICE_BYTES = case.slice_bytes
    products.GRADIENT_ENTRIES //= (MODELS["7B"].hidden_size // case.hidden_size) ** 2
    world = make_world(folder / "world", num_documents=60)
    flags = {"curvature_examples": 16, "context_length": 64, "max_batch_tokens": 64}
    flags["layers"] = case.layers
    # What is imported and started at the first use is there before anything is measured.
    _fit(world, folder / "small", flags)
    proxy = folder / "proxy"
    transformers.AutoTokenizer.from_pretrained(world.proxy).save_pretrained(proxy)
    transformers.LlamaForCausalLM(case.config()).save_pretrained(proxy)
    if not case.decomposes:
        torch.linalg.eigh = lambda matrix: (matrix.diagonal(), torch.eye(len(matrix)))
    spec = ProxySpec(str(proxy), num_threads=1, context_length=64, max_batch_tokens=64)
    cached_proxy(spec).model(torch.zeros(1, 2, dtype=torch.long))  # reads what is mapped
    peaks = _fit(world, folder / "large", flags | {"proxy_model": proxy})
    stage = max(peaks, key=peaks.__getitem__)
    found = Found.priced_of(case.config(), case.layers)
    return dataclasses.replace(found, measured=peaks[stage], stage=stage)


def _fit(world: World, output: pathlib.Path, flags: dict[str, object]) -> dict[str, int]:
    """Runs the stages of a selection up to the query vectors: the peak of each, over what was held before."""
    parsed, _ = options.parse(world.arguments(output, **flags))
    built = chain.build(parsed, look(parsed))
    built.write_plans()
    gc.collect()
    before, peaks = _status("VmRSS"), {}
    for stage in built.stages:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        run_in_process([stage])
        peaks[stage.name] = _status("VmHWM") - before
        if isinstance(stage, FitQueryVectors):
            break
    return peaks


def _status(name: str) -> int:
    """Reads a number of bytes of this process."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])


def main() -> None:
    """Prints a table, and its figures as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="price only; no model is run")
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        found = _run(Case(**json.loads(arguments.case)), arguments.folder)
        print(json.dumps(dataclasses.asdict(found)))
        return
    width, depth = MODELS["7B"].hidden_size, MODELS["7B"].num_hidden_layers
    rows = {("7B", own): Found.priced_of(MODELS["7B"], own) for own in LIMITS}
    if not arguments.quick:
        small, fewer = width // _SHRINK, slices._SLICE_BYTES // _SHRINK**2
        cases = {
            (f"{small} wide", "attention"): Case("attention", small, depth // 2, fewer),
            (f"{small} wide", "all"): Case("all", small, depth // 4, fewer),
            ("one layer of 7B", "attention"): Case(
                "attention", width, 1, slices._SLICE_BYTES, False
            ),
        }
        for name, case in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                rows[name] = measure(case, pathlib.Path(folder))
            print(*name, rows[name], file=sys.stderr, flush=True)
    _print(rows)
    figures = {f"peak_bytes_{own}": rows["7B", own].priced for own in LIMITS}
    measured = {
        f"{shapes} {own}": [found.measured, found.priced]
        for (shapes, own), found in rows.items()
        if found.measured is not None
    }
    print(json.dumps(figures | {"limit": LIMITS, "measured_and_priced": measured}))


def _print(rows: dict[tuple[str, str], Found]) -> None:
    table = [_COLUMNS]
    for (shapes, layers), found in rows.items():
        limit = f"{LIMITS[layers] / 1e9:.1f}" if shapes == "7B" else ""
        measured = "" if found.measured is None else f"{found.measured / 1e9:.3f}"
        sizes = (f"{found.at_once / 1e9:.3f}", f"{found.priced / 1e9:.3f}", measured)
        table.append((shapes, layers, str(found.num_slices), *sizes, found.stage, limit))
    widths = [max(len(row[i]) for row in table) for i in range(len(_COLUMNS))]
    print("GB beside the model")
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
