import pytest

from beam_quad.errors import BadFileError, UsageError
from pipelines.failures import known_cause

JOB_SERVER = """Pipeline quad-1 failed in state FAILED: java.lang.RuntimeError: Error from 1-1: Traceback (most recent call last):
  File "worker.py", line 1, in process
beam_quad.errors.BadFileError: part-3.jsonl.gz: is truncated

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "common.py", line 1500, in process
RuntimeError: beam_quad.errors.BadFileError: part-3.jsonl.gz: is truncated [while running 'EmbedExamples/Do/Infer']

\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient"""


def test_the_line_of_a_worker_on_a_cluster_is_found_in_what_the_job_server_says():
    found = known_cause(RuntimeError(JOB_SERVER))
    assert str(found) == "part-3.jsonl.gz: is truncated"
    assert not isinstance(found, UsageError)


def test_the_error_of_a_local_runner_is_found_behind_what_it_raises():
    raised = RuntimeError("while running EmbedExamples")
    raised.__cause__ = BadFileError("a.jsonl", "is truncated")
    assert known_cause(raised) is raised.__cause__


def test_the_name_of_the_step_is_taken_off_a_message():
    error = UsageError("no usable text; check it [while running 'Fit/Finish']")
    assert str(known_cause(error)) == "no usable text; check it"


@pytest.mark.parametrize(
    "state", ["CANCELLED: unknown error", "FAILED: org.apache.flink.runtime.client.JobCancellationException: Job was"]
)  # fmt: skip
def test_a_job_that_somebody_cancelled_is_said_to_be(state):
    known = known_cause(RuntimeError(f"Pipeline quad-1_b7b6 failed in state {state}"))
    assert "the job was cancelled; run the same command again" in str(known)


@pytest.mark.parametrize("error", [RuntimeError("worker lost"), KeyError("beam_quad.errors")])
def test_what_is_not_ours_stays_what_it_is(error):
    assert known_cause(error) is None
