"""Owners of locks, and whether their processes are alive."""

import dataclasses
import datetime
import json
import os
import pathlib
import socket
import subprocess
import uuid


@dataclasses.dataclass(frozen=True)
class Owner:
    """The owner of a lock.

    Attributes:
      host: Name of the machine.
      pid: Id of the process on that machine.
      process_start: Start time of the process, as reported by the machine, since a pid can be reused.
      started: Time when the lock was taken, ISO 8601.
      token: Random name of this acquisition of the lock.
      job: The cluster job, with its service, that owns the lock in place of the process that started it; or empty.
    """

    host: str
    pid: int
    process_start: str
    started: str
    token: str
    job: str = ""

    @classmethod
    def here(cls) -> "Owner":
        """Describes this process as an owner."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        start = process_start(os.getpid()) or ""
        return cls(socket.gethostname(), os.getpid(), start, now, uuid.uuid4().hex)

    @classmethod
    def parse(cls, data: bytes) -> "Owner | None":
        """Parses an owner; None if its writer died before finishing it."""
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            # Another version may write further fields.
            return cls(**{name: value for name, value in json.loads(data).items() if name in names})
        except (ValueError, TypeError, AttributeError):
            return None

    def dump(self) -> bytes:
        """Serialises an owner as JSON."""
        return json.dumps(dataclasses.asdict(self)).encode()

    def age_s(self) -> float:
        """Seconds since the lock was taken, measured by this machine's clock."""
        started = datetime.datetime.fromisoformat(self.started)
        return (datetime.datetime.now(datetime.UTC) - started).total_seconds()

    def __str__(self) -> str:
        job = f"job {self.job}, started by " if self.job else ""
        return f"{job}process {self.pid} on {self.host} since {self.started}"


def process_start(pid: int) -> str | None:
    """Returns the start time of a process as text, unique among processes with its pid; None if it has ended."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return None if pathlib.Path("/proc/self/stat").exists() else _process_start_by_ps(pid)
    except ProcessLookupError:
        return None
    # The name, in parentheses, may contain any character; state and start time are fields 3 and 22 of proc(5).
    # The boot is part of it: after a reboot the clock ticks start again, and a pid may meet its old start time.
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended; only its parent has not noticed yet.
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _process_start_by_ps(pid: int) -> str | None:
    # macOS has no /proc.
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None
