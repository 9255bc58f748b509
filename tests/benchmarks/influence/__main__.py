"""What does influence cost, beside a forward pass and beside other programs?

    python -m tests.benchmarks.influence [--quick] [--models DIR] [--device cpu|cuda] [--only demo-256,smollm2-1024]

The demo's proxy and SmolLM2-135M, on real texts of exactly 256 and 1,024 tokens. Every method works through the same
documents, in rounds over all methods; a ratio is the median over the rounds of the ratio to the forward pass of the same
round. A micro-batch holds the number of tokens that is best for the method, among a few. With one thread the ratios are
of CPU time, which a busy machine changes least; with more threads, or on a GPU, of the clock. Documents and tokens per
second are by the same.

The column MB is the most that a method takes over the loaded model while it works through two of the largest
micro-batches, in 10**6 bytes: what it holds from batch to batch (the query's vectors; of the
fit, the eigenbases) and what comes and goes. On a CPU that is resident memory,
which varies by tens of MB, on a GPU what torch has allocated. A peer's own copy of the model is not counted, nor what
it does before the candidates: kronfluence is measured from the first request for a candidate's loss, with what it
still holds by then.

How the upper half of the layers ranks is given for a query of each of four domains, once per model; in the JSON the
mean, the lowest and the highest.

In the JSON, `launches_over_forward_backward` counts what one micro-batch of exact scores launches (one query group or
eight, whichever is more) beside a training pass; `padding_share` and `micro_batch_fill` are of the corpus's first 4,096
documents, which go to the scorer at once, in micro-batches of a run's default size.

A K-FAC vector has the shape of an EK-FAC vector, so that scores cost the same with either.
"""

import argparse
import json
import os
import pathlib
import tempfile
import warnings

# Before torch is imported: threads that spin while they wait would count as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from beam_quad.gradients import ProxySpec, load_proxy
from pipelines.demo.command import Clock
from tests.benchmarks.influence import case, material
from tests.benchmarks.influence.material import Plan
from tests.benchmarks.influence.race import Rules

LENGTHS = (256, 1024)
QUICK = (Plan("demo", "proxy", 2048, (2048,), {256: 16, 1024: 8}, 8, 8, (64, 64, 8), num_query=8),)
FULL = (
    Plan("demo", "proxy", 4096, (1024, 4096), {256: 128, 1024: 64}, None, 256, (400, 300, 24)),
    Plan(
        "smollm2",
        "smollm2",
        1024,
        (1024,),
        {256: 64, 1024: 24},
        8,
        16,
        (48, 128, 8),
        prepared_length=128,
    ),
)
# A GPU is filled by more tokens at a time, and wants more work in a round.
CUDA = (
    Plan(
        "demo", "proxy", 262144, (65536, 262144), {256: 512, 1024: 256}, None, 256, (400, 300, 24)
    ),
    Plan(
        "smollm2", "smollm2", 131072, (16384, 65536), {256: 512, 1024: 256}, 64, 64, (400, 300, 24)
    ),
)


def main() -> None:
    options = _options()
    # Of the peers: what is slow or deprecated in them.
    warnings.filterwarnings("ignore", category=UserWarning, message="There is a performance drop")
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(options.threads)
    plans = CUDA if options.device == "cuda" else QUICK if options.quick else FULL
    chosen = {f"{p.name}-{length}" for p in plans for length in LENGTHS}
    if options.only:
        chosen &= set(options.only.split(","))
    say = Clock()
    texts = material.prepare(
        pathlib.Path(options.models).expanduser(),
        any(name.startswith("smollm2") for name in chosen),
        options.quick,
        say,
    )
    by_cpu_time = options.device == "cpu" and options.threads == 1
    print(
        f"{options.threads} threads on {options.device}, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
        f"cores; ratios are of {'CPU time' if by_cpu_time else 'the clock'}"
    )
    results: dict[str, dict[str, float | None]] = {}
    for plan in plans:
        lengths = [length for length in LENGTHS if f"{plan.name}-{length}" in chosen]
        if not lengths:
            continue
        # The fit needs float32; bfloat16 is what scoring takes on a GPU.
        spec = ProxySpec(
            str(texts.folder / plan.folder),
            device=options.device,
            num_threads=options.threads,
            context_length=plan.prepared_length,
            max_windows=1,
        )
        with tempfile.TemporaryDirectory(prefix="influence-") as scratch:
            rules = Rules(
                plan.micro_batches,
                options.rounds,
                by_cpu_time,
                counts_flops=options.device == "cuda",
            )
            bench = case.Bench.prepare(
                plan, texts, load_proxy(spec), rules, pathlib.Path(scratch), say
            )
            for key, value in (bench.ranks() | bench.batching()).items():
                results.setdefault(key, {})[bench.label] = value
            benches = [bench] + ([bench.in_bfloat16()] if options.device == "cuda" else [])
            for each in benches:
                for length in lengths:
                    for key, value in each.run(length).items():
                        results.setdefault(key, {})[f"{each.label}-{length}"] = value
    print(json.dumps(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.influence", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="the demo's proxy only, hardly trained, few documents")
    add("--models", default="~/.cache/beam_quad/influence", help="where models and texts are kept")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=1)
    add("--rounds", type=int, help="over all methods; default 5, and 2 with --quick")
    add("--only", help="model-length, with commas, such as demo-256,smollm2-1024")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    return options


if __name__ == "__main__":
    main()
