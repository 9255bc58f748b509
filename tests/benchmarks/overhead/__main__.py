"""What does the pipeline itself cost, beside a plain single-process program that does the same to the same files?

    python -m tests.benchmarks.overhead [--quick] [--documents 10000,100000,1000000]

The hashing embedder and a scorer that costs nothing leave the cost of the graph: stages, artifacts, the reserve,
candidates, rounds, accounting, manifest and report. Both programs run one after the other, each in a fresh process, on
shards of about 50 MB that were just written (so that both find them in the page cache). Times leave out the start of
the interpreter and the imports, of both; peak memory holds everything. On a machine that others use too, the ratio of
the CPU times is the steadier one.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from tests.benchmarks.overhead.corpus import write_corpus

# Words are tokens here, 135 a document on average; a tenth of them is selected.
_BUDGET_PER_DOCUMENT = 13.5


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run took.

    Attributes:
      seconds: By the clock, without start-up.
      cpu_seconds: Of all threads, without start-up.
      peak_mb: Highest resident memory, with start-up, in 10**6 bytes.
      selected: Documents selected.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    selected: int


def measure(program: str, corpus: pathlib.Path, output: pathlib.Path, budget: int) -> Cost:
    """Runs one of the two programs in a process of its own."""
    command = [sys.executable, "-m", f"tests.benchmarks.overhead.{program}"]
    process = subprocess.Popen(
        [*command, str(corpus), str(output), str(budget)], stdout=subprocess.PIPE, text=True
    )
    with process.stdout as stream:  # type: ignore[union-attr]
        lines = stream.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{program} failed with exit code {process.returncode}")
    result = json.loads(lines[-1])
    kilobyte = 1 if sys.platform == "darwin" else 1024
    peak_mb = usage.ru_maxrss * kilobyte / 1e6
    return Cost(result["seconds"], result["cpu_seconds"], peak_mb, result["selected"])


def compare(num_documents: int) -> tuple[Cost, Cost]:
    """Measures the plain program and the pipeline on one corpus."""
    budget = int(_BUDGET_PER_DOCUMENT * num_documents)
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        root = pathlib.Path(folder)
        write_corpus(root / "corpus", num_documents)
        plain = measure("plain", root / "corpus", root / "plain", budget)
        return plain, measure("pipeline", root / "corpus", root / "pipeline", budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 documents only")
    parser.add_argument("--documents", default="10000,100000,1000000", help="sizes, with commas")
    arguments = parser.parse_args()
    sizes = "10000" if arguments.quick else arguments.documents
    result: dict[str, dict[str, Any]] = {
        "pipeline_over_plain_loop": {},
        "cpu_pipeline_over_plain_loop": {},
        "peak_rss_mb": {},
        "documents_per_second": {},
        "plain_documents_per_second": {},
        "plain_peak_rss_mb": {},
    }
    print(
        f"{'documents':>10}{'program':>10}{'seconds':>10}{'docs/s':>10}{'peak MB':>10}{'selected':>10}"
    )
    for size in map(int, sizes.split(",")):
        plain, pipeline = compare(size)
        for name, cost in (("plain", plain), ("pipeline", pipeline)):
            print(
                f"{size:>10,}{name:>10}{cost.seconds:>10.1f}{size / cost.seconds:>10,.0f}"
                f"{cost.peak_mb:>10,.0f}{cost.selected:>10,}",
                flush=True,
            )
        ratio = pipeline.seconds / plain.seconds
        cpu_ratio = pipeline.cpu_seconds / plain.cpu_seconds
        print(f"{'':>10}pipeline over plain: {ratio:.2f}, in CPU time {cpu_ratio:.2f}")
        key = str(size)
        result["pipeline_over_plain_loop"][key] = round(ratio, 3)
        result["cpu_pipeline_over_plain_loop"][key] = round(cpu_ratio, 3)
        result["peak_rss_mb"][key] = round(pipeline.peak_mb)
        result["documents_per_second"][key] = round(size / pipeline.seconds)
        result["plain_documents_per_second"][key] = round(size / plain.seconds)
        result["plain_peak_rss_mb"][key] = round(plain.peak_mb)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
