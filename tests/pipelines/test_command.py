"""How a program ends that is run by `command.run_as_program`, in processes of their own."""

import os
import subprocess
import sys

import pytest

SAY = "print('r\\u00fcn \\udcff done')"


def run(body: str, **settings) -> subprocess.CompletedProcess:
    """Runs the body of a function as a program; it returns an exit code."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = f"import os, sys\nfrom pipelines import command\ndef main():\n{lines}command.run_as_program(main)"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=60, **streams)


@pytest.mark.parametrize(
    ("encoding", "said"), [("ascii", rb"r\xfcn \udcff done"), ("utf-8", b"r\xc3\xbcn \\udcff done")]
)
def test_a_path_that_the_terminal_cannot_show_does_not_fail_a_run(encoding, said):
    done = run(f"{SAY}\nreturn 0", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stdout, done.stderr) == (0, said + b"\n", b"")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_is_gone_does_not_fail_a_run(stream):
    reading, writing = os.pipe()
    os.close(reading)
    done = run(f"print('x' * 100_000, file=sys.{stream})\nreturn 0", **{stream: writing})
    os.close(writing)
    assert done.returncode == 0
    assert not done.stdout
    assert not done.stderr


def test_a_full_disk_behind_the_output_does_not_fail_a_run():
    with open("/dev/full", "wb") as full:
        done = run("print('done')\nreturn 0", stdout=full)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_closed_stream_is_not_taken_by_the_next_file():
    body = "number = os.open(os.devnull, os.O_RDONLY)\nprint(number, file=sys.stderr)\nreturn 0"
    done = run(body, stdout=None, preexec_fn=lambda: os.close(1))
    assert done.returncode == 0
    assert int(done.stderr) > 2


def test_what_nobody_expected_ends_in_its_traceback_and_a_line_that_says_what_to_do():
    done = run("raise KeyError('lost')")
    *traceback, last = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert traceback[0].startswith("Traceback")
    assert last.startswith("failed: KeyError: 'lost'; ")
    assert "the same command goes on" in last


def test_the_exit_code_is_the_program_s():
    assert run("return 2").returncode == 2
