"""The whole pipeline on object stores, by the command that a user types."""

import http.server
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts import files
from pipelines import quad
from tests.engines.deciding import contents

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")

_S3_FLAGS = ("s3_access_key_id=key", "s3_secret_access_key=secret", "s3_region_name=us-east-1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_told_of_s3_by_flags_alone_writes_what_a_local_run_writes(
    world, finished, reach, upload, monkeypatch
):
    server = reach("s3")
    root = f"{server.bucket}/flags"
    upload(root)
    environment = {name: value for name, value in os.environ.items() if "AWS" not in name}
    flags = [f"--s3_endpoint_url={server.endpoint}", *(f"--{flag}" for flag in _S3_FLAGS)]
    command = [*_command(world, root), *flags]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert contents(f"{root}/out") == contents(str(finished))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_on_gs_that_is_killed_in_its_rounds_ends_in_what_a_local_run_writes(
    world, finished, reach, upload
):
    root = f"{reach('gs').bucket}/killed"
    output = f"{root}/out"
    upload(root)
    _run_until(_command(world, root), f"{output}/_run/rounds")
    assert not files.exists(f"{output}/COMPLETE")
    _assert_whole(output)
    made = {
        info.path: info.version
        for info in files.find(f"{output}/_run")
        if info.path.endswith((".parquet", ".safetensors"))
    }
    subprocess.run(_command(world, root), check=True, capture_output=True)
    assert contents(output) == contents(str(finished))
    assert {path: files.stat(path).version for path in made} == made
    assert not [info for info in files._found(files.Search(output)) if "/.tmp-" in info.path and "_run" not in info.path]  # fmt: skip


@pytest.mark.timeout(300)
def test_what_a_finished_run_costs_again_does_not_grow_with_its_files(
    world, reach, upload, tmp_path, capsys
):
    server = reach("gs")
    counts = []
    for num_shards in (2, 8):
        corpus = tmp_path / str(num_shards)
        corpus.mkdir()
        lines = pathlib.Path(f"{world.corpus}/part-2.jsonl").read_bytes().splitlines()[:80]
        for shard in range(num_shards):
            (corpus / f"{shard}.jsonl").write_bytes(b"\n".join(lines[shard::num_shards]))
        output = f"{server.bucket}/again-{num_shards}"
        arguments = world.arguments(output, input=corpus, policy="random", budget_tokens=300)
        assert quad.main(arguments) == 0
        files.delete([f"{output}/COMPLETE"])
        before = len(server.requests())
        assert quad.main(arguments) == 0
        counts.append(len(server.requests()) - before)
    # The lock may be renewed in one of them.
    assert abs(counts[0] - counts[1]) <= 2


@pytest.fixture
def denying() -> Iterator[str]:
    """A server that refuses every request."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PUT = _refuse  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_what_a_store_denies_is_one_line_that_says_what_to_do(
    world, reach, denying, monkeypatch, capsys, scheme
):
    reach(scheme)
    for name in ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, denying)
    arguments = world.arguments(f"{scheme}://denied/out", input=f"{scheme}://denied/*.parquet")
    assert quad.main(arguments) == 2
    remedy = {"gs": "gcloud auth application-default login", "s3": "AWS_ACCESS_KEY_ID"}[scheme]
    _assert_one_line(capsys, remedy)


def test_without_credentials_for_s3_a_run_is_refused_at_once(
    world, reach, tmp_path, monkeypatch, capsys
):
    reach("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert quad.main(world.arguments(tmp_path / "out", input="s3://corpora/*.parquet")) == 2
    _assert_one_line(capsys, "no credentials; set AWS_ACCESS_KEY_ID")


@pytest.mark.parametrize(
    ("scheme", "flags", "words"),
    [
        ("gs", {"input": "gs://nowhere/*.parquet"}, "no such bucket"),
        ("s3", {"input": "s3://nowhere/*.parquet"}, "no such bucket"),
        ("gs", {"output": "gs://nowhere/out"}, "no such bucket"),
        ("s3", {"output": "s3://nowhere/out"}, "no such bucket"),
        ("gs", {"input": "gcs://corpora/*.parquet"}, "write gs://"),
        ("gs", {"output": "gcs://corpora/out"}, "write gs://"),
    ],
)
def test_a_path_that_leads_nowhere_is_one_line(
    world, reach, tmp_path, capsys, scheme, flags, words
):
    reach(scheme)
    arguments = world.arguments(**({"output": tmp_path / "out"} | flags))
    assert quad.main(arguments) == 2
    _assert_one_line(capsys, words)
    assert not (tmp_path / "out").exists()


def test_without_boto3_a_profile_for_s3_names_the_extra(
    world, reach, tmp_path, monkeypatch, capsys
):
    reach("s3")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    assert quad.main(world.arguments(tmp_path / "out", input="s3://bucket/*.parquet")) == 2
    _assert_one_line(capsys, "pip install 'beam_quad[aws]'")


def _assert_one_line(capsys: pytest.CaptureFixture[str], words: str) -> None:
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    assert words in message


def _command(world: Any, root: str) -> list[str]:
    flags = world.arguments(f"{root}/out", input=f"{root}/corpus", query=f"{root}/query")
    return [sys.executable, "-m", "pipelines.quad", *flags]


def _run_until(command: list[str], folder: str) -> None:
    """Runs a command until there is a file in a folder, then kills it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not files.find(folder):
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def _assert_whole(output: str) -> None:
    for info in files.find(output):
        if info.path.endswith(".parquet"):
            with files.open_read(info.path) as file:
                pq.read_table(file)
