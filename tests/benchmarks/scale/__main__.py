"""What would a run at a billion documents take, and what holds it up? Simulated from unit costs, held against a real run.

    python -m tests.benchmarks.scale [--documents 1e9] [--budget_tokens 30e9] [--devices 64] [--prices FILE]
    python -m tests.benchmarks.scale --measure 1000000
    python -m tests.benchmarks.scale --proxies

Every stage is priced by the functions of `--plan`, whose unit costs (`beam_quad.plan.rates`) were measured here. `--measure`
runs the whole chain of real stages over so many documents of Zipf words, with hashed embeddings and a scorer that costs nothing,
and holds CPU time and memory against what the same functions say of it. `--proxies` prints bytes of curvature and query vectors
of larger proxies instead. Not in a simulation: what a service takes to start workers and to hand out work (`--stage_s` adds
seconds to every stage), and the speed of an object store.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

from beam_quad.plan import rates
from beam_quad.plan.cost import CostPlan, format_plan
from beam_quad.plan.prices import LIST_PRICES
from pipelines.plan import read_prices
from tests.benchmarks.overhead.corpus import write_corpus
from tests.benchmarks.scale import measured, proxies
from tests.benchmarks.scale.simulated import PIPELINES, Case, Fleet, simulate

# A tenth of what is measured is selected: words are tokens there, 135 a document on average.
_BUDGET_PER_DOCUMENT = 13.5
_QUICK_DOCUMENTS = 2000


def simulated(case: Case, fleet: Fleet, pipelines: Sequence[str]) -> dict[str, Any]:
    """Simulates pipelines and prints a table of each; what goes into the JSON."""
    machines, found = fleet.machines(), {}
    for pipeline in pipelines:
        costs = simulate(pipeline, case, machines)
        print(f"{pipeline}\n\n{format_plan(costs)}\n")  # fmt: skip
        found[pipeline] = summary(costs)
    return found


def summary(costs: CostPlan) -> dict[str, Any]:
    """Puts a plan in JSON: a row a line, and what they come to."""
    total = costs.total
    return {
        "stages": [dataclasses.asdict(line) for line in costs.lines],
        "bottleneck": costs.bottleneck.name,
        "hours": total.hours,
        "core_hours": total.core_hours,
        "device_hours": total.device_hours,
        "memory_bytes": total.memory_bytes,
        "dollars": total.dollars,
    }


def held_against(record: dict[str, Any]) -> dict[str, Any]:
    """Holds what a run took against its plan.

    Args:
      record: What `measured.run` returned.

    Returns:
      By line of the plan, CPU seconds by both and their ratio; the ratio of the whole chain; and the largest process by both.
    """
    took: dict[str, float] = collections.defaultdict(float)
    simulated: dict[str, float] = collections.defaultdict(float)
    for stage, planned in zip(record["stages"], record["planned"], strict=True):
        took[planned["line"]] += stage["cpu_seconds"]
        simulated[planned["line"]] += 3600 * planned["core_hours"] + rates.STAGE_S
    largest = max(planned["memory_bytes"] for planned in record["planned"])
    return {
        "cpu_seconds": {name: _compared(took[name], simulated[name]) for name in took},
        "measured_over_simulated": _compared(sum(took.values()), sum(simulated.values()))["ratio"],
        "memory": _compared(record["peak_bytes"], largest),
    }


def _compared(measured: float, simulated: float) -> dict[str, float | None]:
    ratio = measured / simulated if simulated else None
    return {"measured": measured, "simulated": simulated, "ratio": ratio}


def measure(num_documents: int, acceptances: Iterable[str]) -> dict[str, Any]:
    """Runs chains over so many documents, and prints how they compare with their plans."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="scale-") as root:
        folder = pathlib.Path(root)
        write_corpus(folder / "corpus", num_documents)
        measured.prepare(folder)
        for acceptance in acceptances:
            found[acceptance] = held_against(_run(folder, acceptance, num_documents))
            print(_report(acceptance, num_documents, found[acceptance]), flush=True)
    return found


def _run(folder: pathlib.Path, acceptance: str, num_documents: int) -> dict[str, Any]:
    budget = str(int(_BUDGET_PER_DOCUMENT * num_documents))
    command = [sys.executable, "-m", measured.__name__, str(folder), acceptance, budget]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def _report(acceptance: str, num_documents: int, found: dict[str, Any]) -> str:
    def row(name: str, line: dict[str, float | None]) -> str:
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f}"
        return f"{name:24}{line['measured']:>12,.1f}{line['simulated']:>12,.1f}{ratio:>8}"

    memory = {k: v if k == "ratio" else v / 1e6 for k, v in found["memory"].items()}
    lines = [
        f"{acceptance}, {num_documents:,} documents",
        f"{'CPU seconds':24}{'measured':>12}{'simulated':>12}{'ratio':>8}",
        *(row(name, line) for name, line in found["cpu_seconds"].items()),
        row("largest process, MB", memory),
        f"all stages: {found['measured_over_simulated']:.2f} of what was simulated\n",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scale", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--documents", type=float, default=1e9)
    add("--document_bytes", type=int, default=5000, help="of a text")
    add(
        "--token_bytes",
        type=float,
        default=4.0,
        help="of a token: English under 32,000 to 128,000 tokens has about 4",
    )
    add(
        "--compression",
        type=float,
        default=4.0,
        help="bytes of text for each that is stored, an assumption",
    )
    add("--shards", type=float, default=1e5, help="Parquet files, a piece of work each")
    add("--budget_tokens", type=float, default=30e9)
    add(
        "--num_clusters",
        type=int,
        help="by default as many as a run has: 10,000 from 2e8 documents on",
    )
    add("--query_documents", type=int, default=1000)
    add("--proxy", choices=list(proxies.MODELS), default="135M")
    add("--pipelines", default=",".join(PIPELINES), help="with commas")
    add("--chip", default="L4", help="a GPU of beam_quad.plan.devices")
    add("--devices", type=int, default=64, help="workers with a GPU")
    add("--device_cores", type=int, default=8, help="of each of them")
    add("--workers", type=int, default=100, help="workers without one")
    add("--worker_cores", type=int, default=4, help="of each of them")
    add("--stage_s", type=float, default=rates.STAGE_S, help="seconds that a stage takes at least")
    add("--prices", help="JSON as for --prices of beam-quad")
    add("--measure", type=float, help="run the chain over so many documents instead")
    add(
        "--proxies",
        action="store_true",
        help="print the bytes of curvature by size of the proxy instead",
    )
    add("--quick", action="store_true", help=f"measure {_QUICK_DOCUMENTS:,} documents too")
    options = parser.parse_args()
    if options.proxies:
        proxies.report()
        return
    if options.measure:
        print(json.dumps(measure(round(options.measure), measured.ACCEPTANCES)))
        return
    case = Case(
        round(options.documents), options.document_bytes, options.token_bytes, options.compression, round(options.shards),
        round(options.budget_tokens), options.num_clusters, options.query_documents, options.proxy,
    )  # fmt: skip
    prices = LIST_PRICES if options.prices is None else read_prices(options.prices)
    fleet = Fleet(
        options.chip, options.devices, options.device_cores, options.workers, options.worker_cores, options.stage_s, prices
    )  # fmt: skip
    found = simulated(case, fleet, options.pipelines.split(","))
    if options.quick:
        found["measured"] = measure(_QUICK_DOCUMENTS, ["block"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
