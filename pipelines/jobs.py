"""Whether a Dataflow job that holds an output's lock has ended."""

import logging
from collections.abc import Callable

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
)
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.cloud import dataflow_v1beta3 as dataflow

_log = logging.getLogger(__name__)


def is_done(
    options: PipelineOptions, client: dataflow.JobsV1Beta3Client | None = None
) -> Callable[[str], bool]:
    """Makes what tells of a job, by id or name, whether it has ended.

    Args:
      options: Of the run that asks; its project and region are where the job is looked for.
      client: What asks; by default one with the environment's credentials, made when it is needed.

    Returns:
      The question. A job of which the service does not tell has not ended.
    """
    cloud = options.view_as(GoogleCloudOptions)

    def ask(job: str) -> bool:
        if job == cloud.job_name:
            # It is this run's own: Dataflow refuses a second active job of one name.
            return True
        request = dataflow.ListJobsRequest(
            project_id=cloud.project,
            location=cloud.region,
            filter=dataflow.ListJobsRequest.Filter.ACTIVE,
        )
        try:
            jobs = (client or dataflow.JobsV1Beta3Client()).list_jobs(request)
            return all(job not in (active.id, active.name) for active in jobs)
        except (GoogleAPIError, GoogleAuthError) as error:
            _log.warning("Dataflow does not tell whether job %s has ended: %s", job, error)
            return False

    return ask
