"""What is asked of Dataflow, over HTTP, before a lock is taken over."""

import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow_v1beta3 as dataflow
from google.cloud.dataflow_v1beta3.services.jobs_v1_beta3.transports import JobsV1Beta3RestTransport

from beam_quad.errors import LockedError
from beam_quad.io.lock import OutputLock
from pipelines import jobs

OPTIONS = ["--runner=DataflowRunner", "--project=p", "--region=r", "--job_name=mine"]


class Service(http.server.BaseHTTPRequestHandler):
    """Lists the active jobs of project p in region r, one a page."""

    active = ("2026-01-01-id", "2026-01-02-id")

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        if url.path != "/v1b3/projects/p/locations/r/jobs" or query["filter"] not in (
            ["3"],
            ["ACTIVE"],
        ):
            self.send_error(403)
            return
        page = int(query.get("pageToken", ["0"])[0])
        body: dict[str, object] = {"jobs": [{"id": self.active[page], "name": f"job-{page}"}]}
        if page + 1 < len(self.active):
            body["nextPageToken"] = str(page + 1)
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def client() -> Iterator[dataflow.JobsV1Beta3Client]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        transport = JobsV1Beta3RestTransport(
            host=f"127.0.0.1:{server.server_port}",
            url_scheme="http",
            credentials=AnonymousCredentials(),
        )
        yield dataflow.JobsV1Beta3Client(transport=transport)
        server.shutdown()


@pytest.mark.parametrize(
    ("job", "is_done"),
    [("2026-01-02-id", False), ("job-1", False), ("failed-long-ago", True), ("mine", True)],
)
def test_a_job_has_ended_unless_it_is_among_the_active_ones(client, job, is_done):
    ask = jobs.is_done(PipelineOptions(OPTIONS), client)
    assert ask(job) is is_done


def test_a_job_of_which_the_service_does_not_tell_has_not_ended(client, caplog):
    ask = jobs.is_done(PipelineOptions([*OPTIONS, "--region=another"]), client)
    assert not ask("failed-long-ago")
    assert "does not tell" in caplog.text


def test_the_lock_of_a_job_that_has_ended_is_taken_over(client, tmp_path):
    ask = jobs.is_done(PipelineOptions(OPTIONS), client)
    for job in ("failed-long-ago", "job-0"):
        lock = OutputLock(str(tmp_path), ask)
        lock.acquire()
        lock.hand_over(job)
    with pytest.raises(LockedError, match="job-0"):
        OutputLock(str(tmp_path), ask).acquire()
