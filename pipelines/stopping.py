"""Ends this process when a signal asks for it: in one line, with its lock released and no child process left behind.

A handler that raises would unwind whatever the main thread happens to run: an import, a lock of Beam's, a step whose runner
wraps the exception in its own. The handler therefore does nothing. A thread learns of the signal through a pipe and ends the
process, also while the main thread is inside a long call to C.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
# A store without response must not keep a stopping process alive.
_PATIENCE_S = 8.0
_CHILDREN_S = 2.0
_POLL_S = 0.02
_GO_ON = "run the same command to go on with what is done"

_release: Callable[[], str] = str


def watch() -> None:
    """Ends this process on SIGINT, SIGTERM and SIGHUP, with exit code 128 plus the signal's number.

    If a signal was ignored when the process started, as under `nohup`, it stays ignored. Call from the main thread.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _do_nothing)
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_wait, args=(reading,), name="stopping", daemon=True).start()


def releases(release: Callable[[], str]) -> None:
    """Sets the function to release the lock on a signal.

    Args:
      release: Called from another thread. Returns the job going on without this process, or an empty string.
    """
    global _release
    _release = release


@contextlib.contextmanager
def interrupts_kept_from_children() -> Iterator[None]:
    """Starts child processes out of reach of Ctrl-C at the terminal: this process ends them."""
    # Threads and processes inherit a mask; the thread waiting for signals was started without it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _do_nothing(*_: object) -> None:
    """Takes the place of the default action; the pipe has the signal's number."""


def _forget() -> None:
    # A forked child shares the pipe, through which its own signals would end this process.
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)


def _wait(reading: int) -> None:
    while True:
        for number in os.read(reading, 64):
            if number in _SIGNALS:
                _stop(signal.Signals(number))


def _stop(number: signal.Signals) -> None:
    terminal = _silence()
    end = _Ending(terminal, number)
    late = threading.Timer(_PATIENCE_S, end, [_GO_ON])
    late.daemon = True
    late.start()
    job = ""
    with contextlib.suppress(Exception):
        job = _release()
    with contextlib.suppress(Exception):
        _end_children()
    if job:
        end(f"job {job}, if it was submitted, goes on; run the same command when it has ended")
    end(_GO_ON)


class _Ending:
    """Says the last line and ends the process."""

    def __init__(self, terminal: int | None, number: signal.Signals) -> None:
        self._terminal = terminal
        self._number = number

    def __call__(self, remedy: str) -> None:
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                os.write(self._terminal, f"stopped by {self._number.name}; {remedy}\n".encode())
        # Not sys.exit, because Beam's threads, waiting for a worker, would keep the process alive.
        os._exit(128 + self._number)


def _silence() -> int | None:
    """Silences all output, such as messages of threads about ended children; returns a descriptor for our own lines."""
    with contextlib.suppress(OSError):
        terminal = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        return terminal
    return None


def _end_children() -> None:
    processes: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGKILL):
        # List again, because children may have started others, and earlier ones may have lost their parent.
        processes |= set(_descendants(os.getpid()))
        for process in processes & _table().keys():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)
        until = time.monotonic() + _CHILDREN_S
        while processes & _table().keys() and time.monotonic() < until:
            time.sleep(_POLL_S)


def _descendants(root: int) -> list[int]:
    """Lists the processes below one, its children first."""
    parents = _table()
    found = [root]
    for parent in found:
        found += [process for process, above in parents.items() if above == parent]
    return found[1:]


def _table() -> dict[int, int]:
    """Lists the parents of all processes that have not ended."""
    if not os.path.exists("/proc/self/stat"):
        return _table_by_ps()
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name, in parentheses, may hold anything; state and parent follow, by proc(5).
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state not in b"ZX":
                    table[int(name)] = int(parent)
    return table


def _table_by_ps() -> dict[int, int]:
    # macOS has no /proc.
    command = ["ps", "-axo", "pid=,ppid=,state="]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    rows = [line.split() for line in shown.splitlines()]
    return {int(row[0]): int(row[1]) for row in rows if not row[2].startswith("Z")}
