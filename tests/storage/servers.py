"""Servers that speak the protocols of object stores, each in a process of its own on a free port of loopback."""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence

import pyarrow.fs

# Of every Azurite, as its manual gives it.
_AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_REQUEST = re.compile(r'"(?:\x1b\[\d+m)*([A-Z]+ \S+ HTTP/1\.[01])')


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
      scheme: `gs`, `s3` or `abfs`.
      endpoint: Where it listens.
      log: What it says of every request.
    """

    scheme: str
    endpoint: str
    log: pathlib.Path

    @property
    def bucket(self) -> str:
        return f"{self.scheme}://corpora"

    @property
    def environment(self) -> dict[str, str]:
        """What tells clients of the server."""
        if self.scheme == "gs":
            return {"STORAGE_EMULATOR_HOST": self.endpoint}
        if self.scheme == "abfs":
            return {
                "AZURE_STORAGE_USE_EMULATOR": "true",
                "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
                "AZURITE_BLOB_STORAGE_URL": self.endpoint,
            }
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def requests(self) -> list[str]:
        """Reads the requests so far, as `GET /path HTTP/1.1`."""
        return _REQUEST.findall(self.log.read_text(errors="replace"))


def lacks(scheme: str) -> str:
    """Says what is missing for a server, or nothing."""
    if scheme == "abfs":
        is_there = os.path.isfile(os.environ.get("BEAM_QUAD_AZURITE", ""))
        how = "BEAM_QUAD_AZURITE names no azurite-blob; get one with `npm install azurite`"
        return "" if is_there else how
    packages = {"gs": ("gcp_storage_emulator",), "s3": ("moto", "flask")}[scheme]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"no {', '.join(missing)} for {scheme}://; pip install '.[test]'" if missing else ""


@contextlib.contextmanager
def serving(scheme: str, folder: pathlib.Path) -> Iterator[Server]:
    """Runs a server with an empty bucket."""
    port = _free_port()
    server = Server(scheme, f"http://127.0.0.1:{port}", folder / f"{scheme}.log")
    with server.log.open("wb") as log:
        process = subprocess.Popen(_command(scheme, port), stdout=log, stderr=log)
    try:
        _await(server.endpoint, process)
        if scheme == "s3":
            put = urllib.request.Request(f"{server.endpoint}/corpora", method="PUT")
            urllib.request.urlopen(put).close()
        if scheme == "abfs":
            account = pyarrow.fs.AzureFileSystem(
                "devstoreaccount1",
                account_key=_AZURITE_KEY,
                blob_storage_authority=f"127.0.0.1:{port}",
                blob_storage_scheme="http",
            )
            account.create_dir("corpora")
        yield server
    finally:
        process.kill()
        process.wait()


def _command(scheme: str, port: int) -> Sequence[str]:
    if scheme == "s3":
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    if scheme == "abfs":
        start = ["--inMemoryPersistence", "--loose", "--skipApiVersionCheck", "--disableTelemetry"]
        return [os.environ["BEAM_QUAD_AZURITE"], "--blobPort", str(port), *start]
    start = ["start", "--host", "127.0.0.1", "--port", str(port), "--in-memory"]
    return [
        sys.executable,
        "-m",
        "tests.storage.cloud_storage",
        *start,
        "--default-bucket",
        "corpora",
    ]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _await(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the server at {endpoint} did not start")
