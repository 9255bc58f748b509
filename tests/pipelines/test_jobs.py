"""What is asked of Dataflow and of Flink, over HTTP, before a lock is taken over."""

import concurrent.futures
import dataclasses
import http.server
import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2_grpc
from apache_beam.runners.portability.local_job_service import LocalJobServicer
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow_v1beta3 as dataflow
from google.cloud.dataflow_v1beta3.services.jobs_v1_beta3.transports import (
    JobsV1Beta3RestTransport,
)

from beam_quad.artifacts.lock import OutputLock
from beam_quad.artifacts.owners import Owner
from beam_quad.errors import LockedError, UsageError
from pipelines import jobs

DATAFLOW = ["--runner=DataflowRunner", "--project=project", "--region=r"]
PATH = "/v1b3/projects/project/locations/r/jobs"
LONG_AGO = "2026-01-01T00:00:00+00:00"


class Service(http.server.BaseHTTPRequestHandler):
    """Lists the jobs of one name of Dataflow, one a page, and all jobs of a Flink cluster."""

    jobs = (("a", "FAILED"), ("a", "RUNNING"), ("b", "CANCELLED"), ("b", "FAILED"))

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        if url.path == "/jobs/overview":
            states = [(name, state.replace("CANCELLED", "CANCELED")) for name, state in self.jobs]
            self._answer({"jobs": [{"name": n, "state": s, "jid": "0"} for n, s in states]})
        elif url.path == PATH and query["filter"] in (["1"], ["ALL"]):
            page = int(query.get("pageToken", ["0"])[0])
            own = [(n, s) for n, s in self.jobs if [n] == query["name"]]
            body: dict[str, Any] = {
                "jobs": [
                    {"name": n, "currentState": f"JOB_STATE_{s}"} for n, s in own[page : page + 1]
                ]
            }
            if page + 1 < len(own):
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


@pytest.mark.parametrize(("job", "ended"), [("a", [True, False]), ("b", [True, True]), ("c", [])])
def test_dataflow_tells_of_all_jobs_of_a_name(address, job, ended):
    transport = JobsV1Beta3RestTransport(
        host=address, url_scheme="http", credentials=AnonymousCredentials()
    )
    client = dataflow.JobsV1Beta3Client(transport=transport)
    assert jobs._ended_on_dataflow(PipelineOptions(DATAFLOW), job, client) == ended


def test_a_template_s_own_job_is_not_taken_for_the_one_before_it(address):
    options = PipelineOptions([*DATAFLOW, "--job_name=a", "--template_location=gs://b/graph"])
    assert jobs._ended_on_dataflow(options, "a") == [True]


@pytest.mark.parametrize(
    ("job", "started", "is_done"),
    [
        ("a", LONG_AGO, False),
        ("b", LONG_AGO, True),
        ("not-there-yet", None, False),
        ("never-came", LONG_AGO, True),
    ],
)
def test_a_job_on_flink_has_ended_unless_one_of_its_name_goes_on_or_may_come(
    address, job, started, is_done
):
    options = PipelineOptions(["--runner=FlinkRunner", f"--flink_master={address}"])
    owner = dataclasses.replace(Owner.here(), job=f"flink:{address}/{job}")
    owner = dataclasses.replace(owner, started=started or owner.started)
    assert jobs.is_done(options)(owner) is is_done
    assert jobs.is_done_by_name(owner) is is_done


def test_only_the_service_of_a_job_is_asked(address):
    options = PipelineOptions(["--runner=FlinkRunner", f"--flink_master={address}"])
    owner = dataclasses.replace(Owner.here(), started=LONG_AGO)
    for service in ("dataflow:project/r", "flink:elsewhere:8081", "SparkRunner"):
        assert not jobs.is_done(options)(dataclasses.replace(owner, job=f"{service}/b"))


def test_a_job_of_which_nobody_tells_has_not_ended(address, caplog):
    master = f"{address}/elsewhere"
    options = PipelineOptions(["--runner=FlinkRunner", f"--flink_master={master}"])
    owner = dataclasses.replace(Owner.here(), started=LONG_AGO, job=f"flink:{master}/b")
    assert not jobs.is_done(options)(owner)
    assert "it is not known" in caplog.text


def test_a_cluster_that_does_not_answer_is_refused_before_anything_is_submitted(address):
    jobs.check_service(PipelineOptions(["--runner=FlinkRunner", f"--flink_master={address}"]))
    for own in ([], ["--runner=FlinkRunner"], ["--runner=FlinkRunner", "--flink_master=[local]"]):
        jobs.check_service(PipelineOptions(own))
    for master in ("127.0.0.1:1", f"{address}/elsewhere", "127.0.0.1:port"):
        options = PipelineOptions(["--runner=FlinkRunner", f"--flink_master={master}"])
        with pytest.raises(UsageError, match="no Flink cluster answers at --flink_master"):
            jobs.check_service(options)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([*DATAFLOW, "--job_name=q"], "dataflow:project/r/q"),
        (["--runner=FlinkRunner", "--flink_master=http://h:1/", "--job_name=q"], "flink:h:1/q"),
        (["--runner=FlinkRunner"], ""),
        (["--runner=FlinkRunner", "--flink_master=h:1", "--environment_type=LOOPBACK"], ""),
        (["--runner=PortableRunner", "--job_endpoint=h:1", "--job_name=q"], "PortableRunner/q"),
        (["--runner=PrismRunner"], ""),
        (["--runner=PortableRunner", "--job_endpoint=embed"], ""),
        (["--runner=FlinkRunner", "--job_endpoint=h:1", "--job_name=q"], "FlinkRunner/q"),
        (["--runner=SparkRunner"], ""),
        (
            ["--runner=SparkRunner", "--spark_master_url=spark://h:1", "--job_name=q"],
            "SparkRunner/q",
        ),
        (["--runner=SparkRunner", "--job_endpoint=h:1", "--job_name=q"], "SparkRunner/q"),
    ],
)
def test_a_job_is_named_with_its_service_where_it_outlives_its_launcher(flags, name):
    assert jobs.name(PipelineOptions(flags)) == name


@pytest.mark.parametrize("end", ["", "; lock.release()"])
def test_a_job_that_goes_on_holds_the_lock_of_the_launcher_that_died_or_left(tmp_path, end):
    launcher = (
        "from beam_quad.artifacts.lock import OutputLock; "
        f"lock = OutputLock({str(tmp_path)!r}); lock.acquire(); lock.name_job('flink:h/a'){end}"
    )
    subprocess.run([sys.executable, "-c", launcher], check=True)
    with pytest.raises(LockedError, match="job flink:h/a"):
        OutputLock(str(tmp_path), lambda owner: False).acquire()
    OutputLock(str(tmp_path), lambda owner: owner.job == "flink:h/a").acquire()


def test_a_launcher_that_lives_holds_the_lock_before_its_job_is_there(tmp_path):
    lock = OutputLock(str(tmp_path))
    lock.acquire()
    lock.name_job("flink:h/a")
    with pytest.raises(LockedError):
        OutputLock(str(tmp_path), lambda owner: True).acquire()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--runner=PortableRunner"], "needs --job_endpoint"),
        (["--runner=PortableRunner", "--job_endpoint=127.0.0.1:1"], "at --job_endpoint=127.0.0.1:1 "),
        (["--runner=SparkRunner", "--job_endpoint=127.0.0.1:1"], "at --job_endpoint=127.0.0.1:1 "),
        (["--runner=FlinkRunner", "--job_endpoint=127.0.0.1:1"], "at --job_endpoint=127.0.0.1:1 "),
        (["--runner=SparkRunner", "--spark_master_url=spark://127.0.0.1:1"], "at --spark_master_url="),
        (["--runner=SparkRunner", "--spark_submit_uber_jar"], "needs --spark_rest_url"),
        (["--runner=SparkRunner", "--spark_submit_uber_jar", "--spark_rest_url=http://127.0.0.1:1"], "at --spark_rest_url="),
        (["--runner=FlinkRunner", "--job_server_java_launcher=no-such-java"], "no-such-java, which is not there"),
    ],
)  # fmt: skip
def test_a_job_server_that_is_not_there_is_refused_at_once(flags, words):
    with pytest.raises(UsageError, match=words):
        jobs.check_service(PipelineOptions(flags))


@pytest.mark.parametrize("form", ["spark://127.0.0.1:1,{}", "spark://{},127.0.0.1:1"])
def test_one_of_several_masters_that_answers_is_enough(address, form):
    url = form.format(address)
    jobs.check_service(
        PipelineOptions(
            ["--runner=SparkRunner", f"--spark_master_url={url}", "--job_server_java_launcher=true"]
        )
    )


def test_a_server_that_is_no_job_server_is_refused(address):
    options = PipelineOptions(["--runner=PortableRunner", f"--job_endpoint={address}"])
    with pytest.raises(UsageError, match="no job server answers"):
        jobs.check_service(options)


def test_a_job_server_that_answers_is_taken():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(LocalJobServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    jobs.check_service(
        PipelineOptions(["--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{port}"])
    )
    server.stop(0)
