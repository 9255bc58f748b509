"""Jobs on clusters, which outlive their launcher: their names, and whether they have ended."""

import http.client
import json
import logging
import re
import shutil
import socket
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

import grpc
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
    StandardOptions,
    TestOptions,
)
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from beam_quad.artifacts.owners import Owner
from beam_quad.errors import UsageError
from pipelines.parsing import LOCAL_RUNNERS

_log = logging.getLogger(__name__)
# Runners with a job server; Beam starts one if --job_endpoint names none.
_JOB_SERVER_RUNNERS = ("FlinkRunner", "PortableRunner", "SparkRunner")
# The endpoint of a job server inside this process.
_EMBEDDED = "embed"
_LOCAL_SPARK = re.compile(r"local(\[.+\])?")
# With these masters Beam's job server starts its own cluster, which ends with it.
_OWN_CLUSTERS = ("[auto]", "[local]")
_FLINK_ENDED = {"FINISHED", "FAILED", "CANCELED"}
_DATAFLOW_ENDED = {
    f"JOB_STATE_{state}" for state in ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED")
}
_TIMEOUT_S = 20
# If a service does not know a job after this time, it was never submitted.
_APPEARS_WITHIN_S = 1800


def name(options: PipelineOptions) -> str:
    """Names the job of a run about to start, as `SERVICE/NAME`; empty if the job ends with this process.

    Args:
      options: Beam's options; a missing job name is set.
    """
    service = _service(options)
    cloud = options.view_as(GoogleCloudOptions)
    if service and cloud.job_name is None:
        cloud.job_name = f"quad-{uuid.uuid4().hex[:12]}"
    return f"{service}/{cloud.job_name}" if service else ""


def check_service(options: PipelineOptions) -> None:
    """Refuses an unreachable job server or cluster, because Beam would wait for minutes.

    Raises:
      UsageError: With its address, or the flag for it.
    """
    runner = options.view_as(StandardOptions).runner
    if runner not in _JOB_SERVER_RUNNERS:
        return
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint:
        if endpoint != _EMBEDDED:
            _check_job_server(endpoint)
        return
    if runner == "PortableRunner":
        raise UsageError(
            "--runner=PortableRunner needs --job_endpoint, the HOST:PORT of a job server"
        )
    spark = options.view_as(SparkRunnerOptions)
    if runner == "SparkRunner" and spark.spark_submit_uber_jar and not spark.spark_rest_url:
        raise UsageError("--spark_submit_uber_jar needs --spark_rest_url, the cluster's REST API")
    if runner == "SparkRunner" and spark.spark_submit_uber_jar:
        _check_connection("spark_rest_url", spark.spark_rest_url)
    elif runner == "SparkRunner" and spark.spark_master_url.startswith("spark://"):
        _check_connection("spark_master_url", spark.spark_master_url)
    elif runner == "FlinkRunner":
        _check_flink(options.view_as(FlinkRunnerOptions).flink_master)
    _check_java(runner, options)


def _check_job_server(endpoint: str) -> None:
    with grpc.insecure_channel(endpoint) as channel:
        try:
            beam_job_api_pb2_grpc.JobServiceStub(channel).DescribePipelineOptions(
                beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=_TIMEOUT_S
            )
        except grpc.RpcError as error:
            raise UsageError(
                f"no job server answers at --job_endpoint={endpoint} ({error.code().name}); "
                "start it, or pass its address, HOST:PORT"
            ) from error


def _check_connection(flag: str, url: str) -> None:
    # Spark accepts several masters separated by commas: one leader and its standbys.
    failed: Exception | None = None
    for address in url.rpartition("://")[2].split(","):
        try:
            place = urllib.parse.urlsplit(f"//{address.strip()}")
            with socket.create_connection((place.hostname or "", place.port or 80), _TIMEOUT_S):
                return
        except (OSError, ValueError) as error:
            failed = failed or error
    raise UsageError(
        f"no Spark cluster answers at --{flag}={url} ({failed}); start it, or pass its address"
    ) from failed


def _check_flink(master: str) -> None:
    if master in _OWN_CLUSTERS:
        return
    try:
        _jobs_on_flink(master)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UsageError(
            f"no Flink cluster answers at --flink_master={master} ({error}); start it, or pass its REST address, HOST:PORT"
        ) from error


def _check_java(runner: str, options: PipelineOptions) -> None:
    flink, spark = options.view_as(FlinkRunnerOptions), options.view_as(SparkRunnerOptions)
    is_uber = flink.flink_submit_uber_jar or spark.spark_submit_uber_jar
    java = options.view_as(JobServerOptions).job_server_java_launcher
    if not is_uber and shutil.which(java) is None:
        raise UsageError(
            f"--runner={runner} starts Beam's job server with {java}, which is not there; "
            "install Java, or pass --job_server_java_launcher or --job_endpoint"
        )


def is_done(options: PipelineOptions) -> Callable[[Owner], bool]:
    """Returns a function telling whether the job of a lock's owner has ended.

    Args:
      options: Options of the current run. Only its own service is queried.

    Returns:
      The function. A job unknown to that service counts as not ended.
    """

    def ask(owner: Owner) -> bool:
        service, _, job = owner.job.rpartition("/")
        if service != _service(options):
            return False
        try:
            ended = _ended(options, job)
        except Exception as error:  # Whatever a client raises.
            _log.warning("it is not known whether job %s has ended: %s", job, error)
            return False
        return all(ended) if ended else owner.age_s() > _APPEARS_WITHIN_S

    return ask


def is_done_by_name(owner: Owner) -> bool:
    """Tells whether the job of a lock's owner has ended, by querying the service in the job's name."""
    service = owner.job.rpartition("/")[0]
    kind, _, place = service.partition(":")
    flags = []
    if kind == "flink":
        flags = ["--runner=FlinkRunner", f"--flink_master={place}"]
    elif kind == "dataflow":
        project, _, region = place.partition("/")
        flags = ["--runner=DataflowRunner", f"--project={project}", f"--region={region}"]
    return is_done(PipelineOptions(flags))(owner)


def _service(options: PipelineOptions) -> str:
    runner = options.view_as(StandardOptions).runner or ""
    portable = options.view_as(PortableOptions)
    # LOOPBACK workers run in this process, so the job fails without it.
    is_loopback = portable.environment_type == "LOOPBACK"
    if runner in LOCAL_RUNNERS or is_loopback or options.view_as(TestOptions).dry_run:
        return ""
    if runner == "DataflowRunner":
        cloud = options.view_as(GoogleCloudOptions)
        return f"dataflow:{cloud.project}/{cloud.region}"
    master = options.view_as(FlinkRunnerOptions).flink_master
    if runner == "FlinkRunner" and master not in _OWN_CLUSTERS:
        return f"flink:{master.rpartition('://')[2].rstrip('/')}"
    return "" if _ends_with_this_process(options) else runner


def _ends_with_this_process(options: PipelineOptions) -> bool:
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint:
        return bool(endpoint == _EMBEDDED)
    # A job server started by this process, with a cluster of its own.
    master = options.view_as(SparkRunnerOptions).spark_master_url
    runner = options.view_as(StandardOptions).runner
    return runner == "FlinkRunner" or (
        runner == "SparkRunner" and _LOCAL_SPARK.fullmatch(master) is not None
    )


def _ended(options: PipelineOptions, job: str) -> list[bool]:
    """Queries the service whether each job of a name has ended."""
    runner = options.view_as(StandardOptions).runner
    if runner == "DataflowRunner":
        return _ended_on_dataflow(options, job)
    if runner == "FlinkRunner":
        return _ended_on_flink(options, job)
    raise NotImplementedError(f"{runner} does not tell of its jobs")


def _ended_on_dataflow(options: PipelineOptions, job: str, client: Any = None) -> list[bool]:
    cloud = options.view_as(GoogleCloudOptions)
    if cloud.template_location and job == cloud.job_name:
        # The active job of this name is this launcher's own, because active names are unique on Dataflow.
        return [True]
    # Imported late, because the client takes seconds and only a lock left by a job needs it.
    from google.cloud import dataflow_v1beta3 as dataflow

    request = dataflow.ListJobsRequest(
        project_id=cloud.project,
        location=cloud.region,
        name=job,
        filter=dataflow.ListJobsRequest.Filter.ALL,
    )
    jobs = (client or dataflow.JobsV1Beta3Client()).list_jobs(request)
    return [each.current_state.name in _DATAFLOW_ENDED for each in jobs if each.name == job]


def _ended_on_flink(options: PipelineOptions, job: str) -> list[bool]:
    jobs = _jobs_on_flink(options.view_as(FlinkRunnerOptions).flink_master)
    return [each["state"] in _FLINK_ENDED for each in jobs if each["name"] == job]


def _jobs_on_flink(master: str) -> list[dict[str, Any]]:
    url = master if "://" in master else f"http://{master}"
    with urllib.request.urlopen(f"{url.rstrip('/')}/jobs/overview", timeout=_TIMEOUT_S) as answer:
        return list(json.load(answer)["jobs"])
