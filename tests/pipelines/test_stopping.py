"""What a signal does to a process, in processes of their own: exit code, last line, lock, children."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from beam_quad.artifacts.owners import process_start

GO_ON = "run the same command to go on with what is done"
HOLD_LOCK = """
import subprocess, sys, time
from pipelines import stopping
stopping.watch()
from beam_quad.artifacts.lock import OutputLock
lock = OutputLock(sys.argv[1])
stopping.releases(lock.release_for_good)
lock.acquire()
child = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 60 & wait"])
"""


def start(code: str, *arguments: str, **settings) -> subprocess.Popen:
    """Starts a program, with no signal ignored unless asked for, and waits until it prints a line."""
    settings.setdefault("preexec_fn", _heed_signals)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )  # fmt: skip
    assert process.stdout is not None
    process.ready = process.stdout.readline().strip()
    return process


def _heed_signals() -> None:
    # A shell that starts the tests in the background has them ignore these, and with them all that they start.
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def stop(process: subprocess.Popen, number: signal.Signals) -> tuple[int, str]:
    """Sends a signal and returns the exit code and what was said on standard error."""
    process.send_signal(number)
    said = process.communicate(timeout=20)[1]
    return process.returncode, said


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_run_in_one_line_without_a_lock_or_a_child(tmp_path, number, code):
    program = HOLD_LOCK + "print(child.pid, flush=True)\ntime.sleep(60)"
    process = start(program, str(tmp_path))
    assert (tmp_path / "_run" / "lock").exists()
    assert stop(process, number) == (code, f"stopped by {number.name}; {GO_ON}\n")
    assert not (tmp_path / "_run" / "lock").exists()
    assert process_start(int(process.ready)) is None


def test_code_that_catches_everything_cannot_keep_a_process(tmp_path):
    program = (
        "from pipelines import stopping\nstopping.watch()\nprint(flush=True)\n"
        "while True:\n    try:\n        sum(range(1000))\n    except BaseException:\n        pass"
    )
    assert stop(start(program), signal.SIGINT)[0] == 130


def test_a_second_signal_changes_nothing(tmp_path):
    process = start(HOLD_LOCK + "print(flush=True)\ntime.sleep(60)", str(tmp_path))
    process.send_signal(signal.SIGINT)
    assert stop(process, signal.SIGINT) == (130, f"stopped by SIGINT; {GO_ON}\n")
    assert not (tmp_path / "_run" / "lock").exists()


def test_a_store_that_does_not_answer_cannot_keep_a_process():
    program = (
        "import time\nfrom pipelines import stopping\nstopping._PATIENCE_S = 0.2\nstopping.watch()\n"
        "stopping.releases(lambda: time.sleep(60))\nprint(flush=True)\ntime.sleep(60)"
    )
    assert stop(start(program), signal.SIGTERM) == (143, f"stopped by SIGTERM; {GO_ON}\n")


def test_a_job_on_a_cluster_is_said_to_go_on_and_keeps_the_lock(tmp_path):
    program = HOLD_LOCK + "lock.name_job('flink:h/a')\nprint(flush=True)\ntime.sleep(60)"
    code, said = stop(start(program, str(tmp_path)), signal.SIGTERM)
    assert code == 143
    assert "job flink:h/a, if it was submitted, goes on" in said
    assert b"flink:h/a" in (tmp_path / "_run" / "lock").read_bytes()


def test_a_signal_that_was_ignored_at_the_start_stays_ignored():
    program = (
        "from pipelines import stopping\nstopping.watch()\nprint(flush=True)\nimport time\n"
        "time.sleep(1)\nprint('went on')"
    )
    process = start(program, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=20)[0] == "went on\n"
    assert process.returncode == 0


def test_the_signal_of_a_forked_child_does_not_end_its_parent():
    program = (
        "import os, signal, time\nfrom pipelines import stopping\nstopping.watch()\nprint(flush=True)\n"
        "child = os.fork()\nif not child:\n    time.sleep(60)\n"
        "time.sleep(0.2)\nos.kill(child, signal.SIGTERM)\nprint(os.waitpid(child, 0)[1])\ntime.sleep(0.5)"
    )
    process = start(program)
    assert process.communicate(timeout=20)[0] == f"{signal.SIGTERM.value}\n"
    assert process.returncode == 0


def test_an_interrupt_at_the_terminal_does_not_reach_children_that_are_kept_from_it(tmp_path):
    there = tmp_path / "there"
    child = f"import pathlib, time; pathlib.Path({str(there)!r}).touch(); time.sleep(60)"
    program = (
        "import subprocess, sys, time\nfrom pipelines import stopping\nstopping.watch()\n"
        "with stopping.interrupts_kept_from_children():\n"
        f"    subprocess.Popen([sys.executable, '-c', {child!r}])\nprint(flush=True)\ntime.sleep(60)"
    )
    process = start(program, start_new_session=True)
    wait_for(there)
    os.killpg(process.pid, signal.SIGINT)
    # A child that got it would print the traceback of KeyboardInterrupt.
    assert process.communicate(timeout=20)[1] == f"stopped by SIGINT; {GO_ON}\n"
    assert process.returncode == 130


def wait_for(path: pathlib.Path) -> None:
    until = time.monotonic() + 20
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert path.exists()
