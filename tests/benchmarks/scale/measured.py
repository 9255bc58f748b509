"""A real run of the whole chain with a scorer that costs nothing, stage by stage: `... measured FOLDER POLICY BUDGET`.

Beam runs each stage by itself in this process, so that its CPU time is known; the last line is JSON.
"""

import dataclasses
import json
import pathlib
import resource
import sys
import time

import apache_beam as beam
import pyarrow.parquet as pq

from beam_quad.transforms import RunStage, start
from pipelines import chain, options, quad_plan
from pipelines.demo import proxy
from pipelines.inputs import look
from tests.benchmarks.overhead.scoring import LengthScoring

POLICIES = ("block", "shortlist")
_TOKENIZER_TEXTS = 2000
_QUERY_TEXTS = 200


def prepare(folder: pathlib.Path) -> None:
    """Makes the query set and the proxy, whose tokenizer counts n-grams and whose weights nothing reads."""
    shard = min((folder / "corpus").glob("*.parquet"))
    texts = next(pq.ParquetFile(shard).iter_batches(_TOKENIZER_TEXTS)).column("text").to_pylist()
    rows = [json.dumps({"text": text}) for text in texts[:_QUERY_TEXTS]]
    (folder / "query.jsonl").write_text("\n".join(rows))
    proxy.train_tokenizer(texts).save_pretrained(folder / "proxy")
    proxy.new_model(0).save_pretrained(folder / "proxy")


def run(folder: pathlib.Path, acceptance: str, budget_tokens: int) -> dict[str, object]:
    """Runs the chain and returns the plan it was given beside what each of its stages took."""
    parsed, _ = options.parse(
        [
            f"--input={folder / 'corpus'}", f"--output={folder / acceptance}", f"--budget_tokens={budget_tokens}",
            "--embedder=hashing", "--tokens_column=tokens", f"--acceptance={acceptance}",
            f"--query={folder / 'query.jsonl'}", f"--proxy_model={folder / 'proxy'}",
        ]
    )  # fmt: skip
    inputs = look(parsed)
    built = chain.build(parsed, inputs, LengthScoring())
    planned = quad_plan.price(parsed, inputs, built)
    built.write_plans()
    stages = []
    for stage in built.stages:
        began, cpu_began = time.perf_counter(), time.process_time()
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            start(pipeline, built.plan_path) | stage.name >> RunStage(stage, None)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        stages.append({"name": stage.name, "seconds": seconds, "cpu_seconds": cpu})
        sys.stderr.write(f"{stage.name:20}{cpu:8.2f} s of CPU time\n")
    kilobyte = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte
    return {"stages": stages, "peak_bytes": peak, "planned": dataclasses.asdict(planned)}


def main() -> None:
    folder, acceptance, budget = sys.argv[1:]
    print(json.dumps(run(pathlib.Path(folder), acceptance, int(budget)), default=str))


if __name__ == "__main__":
    main()
