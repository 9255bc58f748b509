import errno
import os

import pytest

from beam_quad.errors import BadFileError, UsageError
from pipelines.failures import known_cause, refusing

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


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/out/a.npy")


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError(f"{type(error).__name__}: {error} [while running 'Do/Infer']")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        wrapped(FULL),
        # Of a worker process, or of a cluster, whose text alone arrives.
        RuntimeError(str(wrapped(FULL))),
        RuntimeError(f"error from worker:\nTraceback ...\nRuntimeError: {wrapped(FULL)}\n\tat org.apache.beam"),
        RuntimeError(str(wrapped(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/out/a.npy", None, "/b")))),
    ],
)  # fmt: skip
def test_a_full_disk_is_said_with_the_path_and_the_remedy(error):
    known = str(known_cause(error))
    assert known.startswith("/disk/out/a.npy: No space left on device; make room")
    assert known.endswith("run the same command to go on")
    assert not isinstance(known_cause(error), UsageError)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_what_a_disk_refuses_when_planning_is_refused(number):
    with pytest.raises(UsageError, match=f"^/a: {os.strerror(number)}; "), refusing():
        raise wrapped(OSError(number, os.strerror(number), "/a"))


def test_a_file_that_a_bug_did_not_write_is_no_fault_of_the_disk():
    missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/disk/out/a.npy")
    assert known_cause(wrapped(missing)) is None
    with pytest.raises(FileNotFoundError), refusing():
        raise missing


def test_what_is_refused_keeps_its_own_words_over_those_of_a_disk():
    with pytest.raises(UsageError, match=r"^pass a token$"), refusing():
        raise UsageError("pass a token") from PermissionError(errno.EACCES, "no", "/a")
