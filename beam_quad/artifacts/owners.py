"""Who holds a lock, and whether that process still lives."""

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
    """Who holds a lock.

    Attributes:
      host: Name of the machine.
      pid: Process on it.
      process_start: When that process started, as the machine tells it; another process may get the same pid.
      started: When the lock was taken, ISO 8601.
      token: Random name of this very lock.
      job: The job on a cluster that holds the lock in place of the process that started it, with its service; or empty.
    """

    host: str
    pid: int
    process_start: str
    started: str
    token: str
    job: str = ""

    @classmethod
    def here(cls) -> "Owner":
        """Makes this process an owner."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        start = process_start(os.getpid()) or ""
        return cls(socket.gethostname(), os.getpid(), start, now, uuid.uuid4().hex)

    @classmethod
    def parse(cls, data: bytes) -> "Owner | None":
        """Reads an owner; None where the writer died over it."""
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            # Another version may say more of itself.
            return cls(**{name: value for name, value in json.loads(data).items() if name in names})
        except (ValueError, TypeError, AttributeError):
            return None

    def dump(self) -> bytes:
        """Writes an owner as JSON."""
        return json.dumps(dataclasses.asdict(self)).encode()

    def age_s(self) -> float:
        """Seconds since the lock was taken, by this machine's clock."""
        started = datetime.datetime.fromisoformat(self.started)
        return (datetime.datetime.now(datetime.UTC) - started).total_seconds()

    def __str__(self) -> str:
        job = f"job {self.job}, started by " if self.job else ""
        return f"{job}process {self.pid} on {self.host} since {self.started}"


def process_start(pid: int) -> str | None:
    """Tells when a process started, in words that fit no other process of its pid; None if it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return None if pathlib.Path("/proc/self/stat").exists() else _process_start_by_ps(pid)
    except ProcessLookupError:
        return None
    # The name, in parentheses, may hold anything; state and start time are fields 3 and 22 of proc(5).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _process_start_by_ps(pid: int) -> str | None:
    # macOS has no /proc.
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None
