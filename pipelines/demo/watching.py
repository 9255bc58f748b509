"""Tells how far a running selection is, from the files that its stages leave behind."""

import contextlib
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

# What a stage does, by the name of its artifact.
_TITLES = {
    "totals": "reading and embedding the corpus",
    "centers": "fitting clusters",
    "clusters": "assigning every document to its cluster",
    "blocks": "cutting clusters into blocks",
    "candidates": "setting candidates aside",
    "covariances": "curvature: covariances of the tracked layers",
    "bases": "curvature: eigenvectors",
    "eigenvalues": "curvature: eigenvalues",
    "vectors": "gradient of the query set",
    "sample": "curvature: a sample of the corpus",
    "selection": "choosing documents",
}
_RESULTS = {".parquet", ".safetensors", ".npz", ".json"}
_POLL_S = 1.0
_HEARTBEAT_S = 20.0


@contextlib.contextmanager
def watched(artifacts: pathlib.Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Tells of each stage that starts in a folder of artifacts, and counts finished files now and then, until the block ends."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(artifacts, progress, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(artifacts: pathlib.Path, progress: Callable[[str], None], done: threading.Event) -> None:
    told = set(_started(artifacts))
    last = time.monotonic()
    while not done.wait(_POLL_S):
        for path in _started(artifacts):
            if path not in told:
                told.add(path)
                name = path.name.split(".", 1)[0]
                progress(_TITLES.get(name, name.replace("-", " ")))
                last = time.monotonic()
        if time.monotonic() - last > _HEARTBEAT_S:
            progress(f"... {_num_files(artifacts)} files of results so far")
            last = time.monotonic()


def _num_files(artifacts: pathlib.Path) -> int:
    return sum(path.suffix in _RESULTS for path in artifacts.rglob("*"))


def _started(artifacts: pathlib.Path) -> list[pathlib.Path]:
    return sorted(artifacts.rglob("*.started"), key=lambda path: path.stat().st_mtime)
