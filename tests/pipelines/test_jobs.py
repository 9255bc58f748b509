"""What is asked of Dataflow and of Flink, over HTTP, before a lock is taken over."""

import http.server
import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow_v1beta3 as dataflow
from google.cloud.dataflow_v1beta3.services.jobs_v1_beta3.transports import (
    JobsV1Beta3RestTransport,
)

from beam_quad.errors import LockedError
from beam_quad.io.lock import OutputLock
from pipelines import jobs

DATAFLOW = ["--runner=DataflowRunner", "--project=project", "--region=r", "--job_name=mine"]
PATH = "/v1b3/projects/project/locations/r/jobs"


class Service(http.server.BaseHTTPRequestHandler):
    """Lists Dataflow's active jobs, one a page, and all jobs of a Flink cluster."""

    active = ("2026-01-01-id", "2026-01-02-id")
    on_flink = (("quad-a", "FAILED"), ("quad-a", "RUNNING"), ("quad-b", "CANCELED"))

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        if url.path == "/jobs/overview":
            self._answer({"jobs": [{"name": n, "state": s, "jid": "0"} for n, s in self.on_flink]})
        elif url.path == PATH and query["filter"] in (["3"], ["ACTIVE"]):
            page = int(query.get("pageToken", ["0"])[0])
            body: dict[str, Any] = {"jobs": [{"id": self.active[page], "name": f"job-{page}"}]}
            if page + 1 < len(self.active):
                body["nextPageToken"] = str(page + 1)
            self._answer(body)
        else:
            self.send_error(403)

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("job", "is_done"),
    [("2026-01-02-id", False), ("job-1", False), ("failed-long-ago", True), ("mine", True)],
)
def test_a_job_on_dataflow_has_ended_unless_it_is_among_the_active_ones(address, job, is_done):
    transport = JobsV1Beta3RestTransport(
        host=address, url_scheme="http", credentials=AnonymousCredentials()
    )
    client = dataflow.JobsV1Beta3Client(transport=transport)
    assert jobs._ask_dataflow(PipelineOptions(DATAFLOW), job, client) is is_done


@pytest.mark.parametrize(("job", "is_done"), [("quad-a", False), ("quad-b", True), ("c", True)])
def test_a_job_on_flink_has_ended_unless_one_of_its_name_goes_on(address, job, is_done):
    options = PipelineOptions(["--runner=FlinkRunner", f"--flink_master={address}"])
    assert jobs.is_done(options)(job) is is_done


def test_a_job_of_which_nobody_tells_has_not_ended(address, caplog):
    options = PipelineOptions(["--runner=FlinkRunner", f"--flink_master={address}/elsewhere"])
    assert not jobs.is_done(options)("quad-b")
    assert "it is not known" in caplog.text


def test_a_job_that_goes_on_holds_the_lock_of_the_launcher_that_died_or_left(tmp_path):
    active = {"died", "left"}
    for job, leave in (("died", "name_job"), ("left", "hand_over")):
        output = str(tmp_path / job)
        launcher = (
            "from beam_quad.io.lock import OutputLock; "
            f"lock = OutputLock({output!r}); lock.acquire(); lock.{leave}({job!r})"
        )
        subprocess.run([sys.executable, "-c", launcher], check=True)
        with pytest.raises(LockedError, match=f"job {job}"):
            OutputLock(output, lambda name: name not in active).acquire()
        active.remove(job)
        OutputLock(output, lambda name: name not in active).acquire()


def test_a_launcher_that_lives_holds_the_lock_before_its_job_is_there(tmp_path):
    lock = OutputLock(str(tmp_path))
    lock.acquire()
    lock.name_job("about-to-start")
    with pytest.raises(LockedError):
        OutputLock(str(tmp_path), lambda name: True).acquire()
