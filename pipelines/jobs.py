"""Whether a job on a cluster that holds an output's lock has ended: a job outlives the process that launched it."""

import json
import logging
import urllib.request
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)

_log = logging.getLogger(__name__)
_FLINK_ENDED = {"FINISHED", "FAILED", "CANCELED"}
_TIMEOUT_S = 20


def is_done(options: PipelineOptions) -> Callable[[str], bool] | None:
    """Makes what tells of a job, by name or id, whether it has ended.

    Args:
      options: Of the run that asks; the service that it runs on is the one that is asked.

    Returns:
      The question; None where jobs end with the process that launched them. A job of which the service does not tell
      has not ended.
    """
    asks = {"DataflowRunner": _ask_dataflow, "FlinkRunner": _ask_flink}
    ask = asks.get(options.view_as(StandardOptions).runner or "")
    if ask is None:
        return None

    def is_done(job: str) -> bool:
        try:
            return ask(options, job)
        except Exception as error:  # Whatever a client raises: an unknown job is one that goes on.
            _log.warning("it is not known whether job %s has ended: %s", job, error)
            return False

    return is_done


def _ask_dataflow(options: PipelineOptions, job: str, client: Any = None) -> bool:
    # Importing the service's client takes seconds, and only a lock that a job has left needs one.
    from google.cloud import dataflow_v1beta3 as dataflow

    cloud = options.view_as(GoogleCloudOptions)
    if job == cloud.job_name:
        # It is this run's own: Dataflow refuses a second active job of one name.
        return True
    active = dataflow.ListJobsRequest(
        project_id=cloud.project,
        location=cloud.region,
        filter=dataflow.ListJobsRequest.Filter.ACTIVE,
    )
    jobs = (client or dataflow.JobsV1Beta3Client()).list_jobs(active)
    return all(job not in (each.id, each.name) for each in jobs)


def _ask_flink(options: PipelineOptions, job: str) -> bool:
    master = options.view_as(FlinkRunnerOptions).flink_master
    url = master if "://" in master else f"http://{master}"
    with urllib.request.urlopen(f"{url}/jobs/overview", timeout=_TIMEOUT_S) as answer:
        jobs = json.load(answer)["jobs"]
    return all(each["state"] in _FLINK_ENDED for each in jobs if each["name"] == job)
