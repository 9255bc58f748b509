"""What do many small files cost, and one large compressed one? Pieces, plans, and the launcher's time.

    python -m tests.benchmarks.pieces [--files 10000] [--rows 200000]

The small files are links of a few, of 1,000 rows each, in five folders. The large one is read with no model: what an embedder
takes is said by `--rate`.
"""

import argparse
import gzip
import json
import math
import os
import pathlib
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import zstandard

from beam_quad.corpus import jsonl, splits
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.joining import Joins
from beam_quad.corpus.kept import KeptSummaries
from beam_quad.corpus.plan import read_plan, write_plan
from beam_quad.corpus.rows import read_rows
from beam_quad.corpus.splits import InputPlan, plan_input

_ROWS = 1000
_WORDS = 100
_FOLDERS = 5
# Rows, embeddings, reserve, clusters, and which rows are selected.
_FILES_OF_A_PIECE = 5
# All files of so small a part are opened, as before: of all it would take minutes.
_PART = 20

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.pieces", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--files", type=int, default=10_000, help="small files")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the large file")
    parser.add_argument("--rate", type=float, default=1000, help="rows that a worker embeds in 1 s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small(pathlib.Path(folder), options.files)
        large(pathlib.Path(folder), options.rows, options.rate)


def small(folder: pathlib.Path, num_files: int) -> None:
    """Plans many small files, as pieces of their own and joined."""
    corpus = folder / "small"
    _link(corpus, _originals(folder), range(num_files))
    print("| small files | opened | CPU s | pieces | files of pieces | plan, MB | in memory, MB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    some = folder / "some"
    _link(some, _originals(folder), range(num_files // _PART))
    seconds, part = _timed(lambda: plan_input([str(some)]))
    if part.num_shards > splits.SAMPLED_FILES:
        raise SystemExit(f"--files is {splits.SAMPLED_FILES * _PART:,} at most")
    own, alone = _timed(lambda: plan_input([str(corpus)]))
    _show(folder, "each a piece, all opened", num_files, seconds * _PART, alone)
    _show(folder, "each a piece, a sample opened", min(splits.SAMPLED_FILES, num_files), own, alone)
    launches = {"joined, first launch": 0, "restart": 0, "with 1 % more": num_files // 100}
    for name, added in launches.items():
        _link(corpus, _originals(folder), range(num_files, num_files + added))
        seconds, (plan, opened) = _timed(lambda: _launch(folder, corpus))
        _show(folder, name, opened, seconds, plan)


def large(folder: pathlib.Path, num_rows: int, rate: float) -> None:
    """Cuts one compressed file, and times what a piece passes over."""
    path = folder / "large" / "all.jsonl.zst"
    path.parent.mkdir()
    packer = zstandard.ZstdCompressor()
    rng = np.random.default_rng(0)
    with open(path, "wb") as raw, packer.stream_writer(raw) as file:
        for _ in range(0, num_rows, _ROWS):
            file.write(_rows(rng))
    plan = plan_input([str(path)], split_bytes=math.ceil(path.stat().st_size / jsonl.MOST_CUTS))
    passed, _ = _timed(lambda: sum(1 for _ in jsonl.lines_of(str(path))))
    last = plan.splits[-1]
    numbers = [split.num_groups for split in plan.splits]
    numbers[-1] = num_rows - last.first_row
    own, _ = _timed(lambda: [len(batch) for batch in read_rows(last, Columns(), 256)])
    whole = num_rows / rate
    piece = passed + max(numbers) / rate
    print(
        f"\nlarge file: {path.stat().st_size / 1e6:.0f} MB, {num_rows:,} rows, estimated {plan.num_rows:,}"
    )
    print(
        f"{len(plan.splits)} pieces, the longest of {max(numbers):,} rows, the last of {numbers[-1]:,}"
    )
    print(f"passing over all rows: {passed:.1f} CPU s; the last piece, read: {own:.1f} CPU s")
    print(f"longest piece at {rate:,.0f} rows a second: {whole:.0f} s whole, {piece:.0f} s cut")
    share = passed * sum(split.first_row for split in plan.splits) / num_rows / whole
    print(f"passing over in all, if no piece reads on from another: {share:.1%} of that work")


def _launch(folder: pathlib.Path, corpus: pathlib.Path) -> tuple[InputPlan, int]:
    """Plans as a launcher does, and writes what it keeps; gives how many files it opened, too."""
    kept = KeptSummaries(str(folder / "kept"), Columns())
    joins = Joins(str(folder / "joins"))
    plan = plan_input([str(corpus)], kept=kept, joins=joins)
    for path, data in (kept.unwritten | joins.unwritten).items():
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_bytes(data)
    opened = [len(json.loads(gzip.decompress(data))) for data in kept.unwritten.values()]
    return plan, sum(opened)


def _show(folder: pathlib.Path, name: str, opened: int, seconds: float, plan: InputPlan) -> None:
    path = str(folder / f"{name}.json.gz")
    write_plan(path, plan)
    tracemalloc.start()
    read = read_plan(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pieces = len(read.splits)
    cells = [
        name,
        f"{opened:,}",
        f"{seconds:.1f}",
        f"{pieces:,}",
        f"{_FILES_OF_A_PIECE * pieces:,}",
        f"{os.path.getsize(path) / 1e6:.2f}",
        f"{held / 1e6:.1f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def _originals(folder: pathlib.Path) -> list[pathlib.Path]:
    paths = [folder / "originals" / f"{i}.jsonl.zst" for i in range(8)]
    rng = np.random.default_rng(0)
    for path in paths:
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(zstandard.compress(_rows(rng)))
    return paths


def _rows(rng: np.random.Generator) -> bytes:
    words = rng.integers(0, 20_000, (_ROWS, _WORDS)).astype(str)
    return b"".join(json.dumps({"text": " ".join(own)}).encode() + b"\n" for own in words)


def _link(corpus: pathlib.Path, originals: list[pathlib.Path], numbers: range) -> None:
    for i in numbers:
        path = corpus / f"{i % _FOLDERS}" / f"{i:07}.jsonl.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals[i % len(originals)], path)


if __name__ == "__main__":
    main()
