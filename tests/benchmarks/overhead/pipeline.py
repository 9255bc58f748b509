"""The pipeline in one process: `python -m tests.benchmarks.overhead.pipeline INPUT OUTPUT BUDGET_TOKENS`."""

import dataclasses
import json
import pathlib
import sys
import time

import apache_beam as beam

from pipelines import chain, launch, options
from pipelines.inputs import look
from tests.benchmarks.overhead.scoring import LengthScoring


def select(corpus: pathlib.Path, output: pathlib.Path, budget_tokens: int) -> None:
    """Runs the whole chain of stages on the local runner."""
    parsed, _ = options.parse(
        [
            f"--input={corpus}",
            f"--output={output}",
            f"--budget_tokens={budget_tokens}",
            "--embedder=hashing",
            "--tokens_column=tokens",
            "--policy=random",
            "--acceptance=block",
        ]
    )
    # The command line asks for a query set and a proxy with this policy, and a scoring of one's own needs neither.
    parsed = dataclasses.replace(parsed, policy="quad")
    built = chain.build(parsed, look(parsed), LengthScoring())
    built.write_plans()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        launch.wire(pipeline, built)


def main() -> None:
    corpus, output, budget = sys.argv[1:]
    began, cpu_began = time.perf_counter(), time.process_time()
    select(pathlib.Path(corpus), pathlib.Path(output), int(budget))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    manifest = json.loads((pathlib.Path(output) / "manifest.json").read_text())
    documents = manifest["counts"]["selected"]
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "selected": documents}))


if __name__ == "__main__":
    main()
