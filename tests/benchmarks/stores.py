"""Selects on every engine from and into every store, and compares the ids with those of a run on a disk in this process.

    BEAM_QUAD_PRISM=... BEAM_QUAD_FLINK=... BEAM_QUAD_AZURITE=... python -m tests.benchmarks.stores

Prints, engine by engine, how many ids are the same of those selected, and whether all artifacts that decide them are.
What is lacking is left out.
"""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pyarrow.parquet as pq

from beam_quad.artifacts import files
from templates.flink import local_cluster
from tests.engines.deciding import contents
from tests.hub import connected
from tests.pipelines.world import World, make_world
from tests.storage import hub
from tests.storage.servers import lacks, serving


def main() -> None:
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = make_world(folder / "world")
        roots = {"disk": str(folder / "disk"), **dict(_servers(folder, stack))}
        for root in roots.values():
            for path in [*(world.root / "corpus").iterdir(), *(world.root / "query").iterdir()]:
                target = f"{root}/{path.parent.name}/{path.name}"
                files.write_once(target, path.read_bytes())
        expected = str(folder / "expected")
        _select(world, expected, world.corpus, world.query, [])
        for engine, flags in _engines(folder, stack):
            for store, root in roots.items():
                output = f"{root}/out/{engine.replace(' ', '-')}"
                started = time.monotonic()
                _select(world, output, f"{root}/corpus", f"{root}/query", flags)
                ids, of = _ids(output), _ids(expected)
                artifacts = "same" if contents(output) == contents(expected) else "other"
                told = f"{len(ids & of)} of {len(of)} ids, {artifacts} artifacts"
                print(f"{engine}, {store}: {told}, {time.monotonic() - started:.0f} s", flush=True)


def _servers(folder: pathlib.Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, str]]:
    for scheme in ("gs", "s3", "abfs"):
        if not lacks(scheme):
            server = stack.enter_context(serving(scheme, folder))
            os.environ |= server.environment
            yield f"`{scheme}://`", f"{server.bucket}/table"
    address, _ = stack.enter_context(hub.serving())
    os.environ |= {"HF_ENDPOINT": address, "HF_TOKEN": hub.TOKEN, "HF_HUB_OFFLINE": "0"}
    stack.enter_context(connected(address, folder / "hub"))
    yield "`hf://`", f"hf://{hub.REPOSITORY}/table"


def _engines(folder: pathlib.Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, list[str]]]:
    yield "this process", []
    if prism := os.environ.get("BEAM_QUAD_PRISM"):
        yield "Prism", ["--runner=PrismRunner", f"--prism_location={prism}"]
    if parts := os.environ.get("BEAM_QUAD_FLINK"):
        cluster = local_cluster.Cluster(folder / "flink", pathlib.Path(parts))
        stack.callback(cluster.down)
        cluster.up(local_cluster.Ports(*local_cluster.free_ports(3)))
        yield f"Flink {local_cluster.FLINK_VERSION}", [*cluster.flags, "--parallelism=2"]
    direct = ["--runner=DirectRunner", "--direct_running_mode=multi_processing"]
    yield "two processes", [*direct, "--direct_num_workers=2"]


def _select(world: World, output: str, corpus: str, query: str, flags: list[str]) -> None:
    arguments = world.arguments(
        output, input=corpus, query=query, policy="ngram", near_duplicates="keep"
    )  # type: ignore[arg-type]
    command = [sys.executable, "-m", "pipelines.quad", *arguments, *flags]
    subprocess.run(command, check=True, capture_output=True)


def _ids(output: str) -> set[str]:
    parts = files.find(f"{output}/selected/part-*.parquet")
    tables = [pq.read_table(io.BytesIO(files.read_bytes(info.path))) for info in parts]
    return {row["example_id"] for table in tables for row in table["beam_quad"].to_pylist()}


if __name__ == "__main__":
    main()
