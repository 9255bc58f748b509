"""Jobs on clusters, which outlive the process that launched them: their names, and whether one has ended."""

import http.client
import json
import logging
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    TestOptions,
)

from beam_quad.errors import UsageError
from beam_quad.io.owners import Owner

_log = logging.getLogger(__name__)
LOCAL_RUNNERS = ("", "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "PrismRunner")
# With these Beam's job server brings a cluster of its own, which ends with it.
_OWN_CLUSTERS = ("[auto]", "[local]")
_FLINK_ENDED = {"FINISHED", "FAILED", "CANCELED"}
_DATAFLOW_ENDED = {
    f"JOB_STATE_{state}" for state in ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED")
}
_TIMEOUT_S = 20
# A job that its service does not know by now will not come any more.
_APPEARS_WITHIN_S = 1800


def name(options: PipelineOptions) -> str:
    """Names the job that a run is about to start, as `SERVICE/NAME`; empty where it ends with this process.

    Args:
      options: Given a job name where they have none.
    """
    service = _service(options)
    cloud = options.view_as(GoogleCloudOptions)
    if service and cloud.job_name is None:
        cloud.job_name = f"quad-{uuid.uuid4().hex[:12]}"
    return f"{service}/{cloud.job_name}" if service else ""


def check_cluster(options: PipelineOptions) -> None:
    """Refuses a Flink cluster that does not answer, for which Beam's job server would wait for minutes.

    Raises:
      UsageError: With its address.
    """
    master = options.view_as(FlinkRunnerOptions).flink_master
    if options.view_as(StandardOptions).runner != "FlinkRunner" or master in _OWN_CLUSTERS:
        return
    try:
        _jobs_on_flink(master)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UsageError(
            f"no Flink cluster answers at --flink_master={master} ({error}); start it, or pass its REST address, HOST:PORT"
        ) from error


def is_done(options: PipelineOptions) -> Callable[[Owner], bool]:
    """Makes what tells whether the job that an owner of a lock names has ended.

    Args:
      options: Of the run that asks. Only the service that it runs on is asked.

    Returns:
      The question. A job of which that service does not tell has not ended.
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


def _service(options: PipelineOptions) -> str:
    runner = options.view_as(StandardOptions).runner or ""
    # Workers of LOOPBACK are this process, without which the job fails.
    is_loopback = options.view_as(PortableOptions).environment_type == "LOOPBACK"
    if runner in LOCAL_RUNNERS or is_loopback or options.view_as(TestOptions).dry_run:
        return ""
    if runner == "DataflowRunner":
        cloud = options.view_as(GoogleCloudOptions)
        return f"dataflow:{cloud.project}/{cloud.region}"
    if runner == "FlinkRunner":
        master = options.view_as(FlinkRunnerOptions).flink_master
        return "" if master in _OWN_CLUSTERS else f"flink:{master.rpartition('://')[2].rstrip('/')}"
    return runner


def _ended(options: PipelineOptions, job: str) -> list[bool]:
    """Asks the service of all jobs of a name whether each has ended."""
    runner = options.view_as(StandardOptions).runner
    if runner == "DataflowRunner":
        return _ended_on_dataflow(options, job)
    if runner == "FlinkRunner":
        return _ended_on_flink(options, job)
    raise NotImplementedError(f"{runner} does not tell of its jobs")


def _ended_on_dataflow(options: PipelineOptions, job: str, client: Any = None) -> list[bool]:
    cloud = options.view_as(GoogleCloudOptions)
    if cloud.template_location and job == cloud.job_name:
        # The one of this name that is active is this launcher's own: Dataflow has no second.
        return [True]
    # Importing the service's client takes seconds, and only a lock that a job has left needs one.
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
