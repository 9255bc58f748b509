"""A real run of the whole chain with a scorer that costs nothing, stage by stage: `... measured FOLDER ACCEPTANCE BUDGET`.

Beam runs each stage by itself in this process, so that its CPU time and its files are known; the last line is JSON.
"""

import dataclasses
import functools
import json
import math
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq

from beam_quad.artifacts import files
from beam_quad.plan.cost import Machines
from beam_quad.plan.devices import Device
from beam_quad.transforms import RunStage, start
from pipelines import chain, options, plan
from pipelines.demo import proxy
from pipelines.inputs import look
from tests.benchmarks.overhead.scoring import LengthScoring

ACCEPTANCES = ("block", "shortlist")
_TOKENIZER_TEXTS = 2000
_QUERY_TEXTS = 200
# What an object store is asked for, by what it is paid as.
_READS, _WRITES = ("open_read", "exists", "stat"), ("writing", "find")


def prepare(folder: pathlib.Path) -> None:
    """Makes the query set and the proxy, whose tokenizer counts n-grams and whose weights nothing reads."""
    shard = min((folder / "corpus").glob("*.parquet"))
    texts = next(pq.ParquetFile(shard).iter_batches(_TOKENIZER_TEXTS)).column("text").to_pylist()
    rows = [json.dumps({"text": text}) for text in texts[:_QUERY_TEXTS]]
    (folder / "query.jsonl").write_text("\n".join(rows))
    proxy.train_tokenizer(texts).save_pretrained(folder / "proxy")
    proxy.new_model(0).save_pretrained(folder / "proxy")


def run(folder: pathlib.Path, acceptance: str, budget_tokens: int) -> dict[str, Any]:
    """Runs the chain, and returns what each of its stages took beside the plan."""
    parsed, _ = options.parse(
        [
            f"--input={folder / 'corpus'}", f"--output={folder / acceptance}", f"--budget_tokens={budget_tokens}",
            "--embedder=hashing", "--tokens_column=tokens", f"--acceptance={acceptance}",
            f"--query={folder / 'query.jsonl'}", f"--proxy_model={folder / 'proxy'}",
        ]
    )  # fmt: skip
    inputs = look(parsed)
    built = chain.build(parsed, inputs, LengthScoring())
    # The scorer computes nothing, and a stage waits for nothing but what is measured as its own.
    nothing = Device("nothing", math.inf)
    machines = Machines(nothing, nothing, 1, 1, stage_s=0.0)
    planned = plan.price(parsed, inputs, built, machines)
    built.write_plans()
    asked = _count_requests()
    stages = []
    for stage in built.stages:
        began, cpu_began, before = time.perf_counter(), time.process_time(), dict(asked)
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            start(pipeline, built.plan_path) | stage.name >> RunStage(stage, None)
        stages.append(
            {
                "name": stage.name,
                "seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - cpu_began,
                **{kind: asked[kind] - before[kind] for kind in asked},
            }
        )
        cpu_seconds, peak = stages[-1]["cpu_seconds"], peak_bytes() / 1e6
        sys.stderr.write(f"{stage.name:20}{cpu_seconds:8.2f} s of CPU time, peak {peak:,.0f} MB\n")
    return {
        "stages": stages,
        "peak_bytes": peak_bytes(),
        "planned": [dataclasses.asdict(line) for line in planned.stages],
    }


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


def _count_requests() -> dict[str, int]:
    """Counts from now on what an object store would be asked for; reads of parts of a file count once."""
    asked = {"reads": 0, "writes": 0}

    def counting(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            asked[kind] += 1
            return function(*args, **kwargs)

        return call

    for kind, names in (("reads", _READS), ("writes", _WRITES)):
        for name in names:
            setattr(files, name, counting(kind, getattr(files, name)))
    return asked


def main() -> None:
    folder, acceptance, budget = sys.argv[1:]
    print(json.dumps(run(pathlib.Path(folder), acceptance, int(budget))))


if __name__ == "__main__":
    main()
