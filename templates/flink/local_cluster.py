"""A Flink session cluster with a pool of Python workers, on this machine, for trying things out and for tests.

    python templates/flink/local_cluster.py fetch FOLDER     gets Flink and Beam's job server (pip, Maven, Java 11 or 17)
    python templates/flink/local_cluster.py up FOLDER        starts what is not running, prints the flags for a pipeline
    python templates/flink/local_cluster.py down FOLDER      stops everything

`up` after something died starts that again; `up` and `down` may be repeated. Everything listens on loopback.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from beam_quad.artifacts.owners import process_start

FLINK_VERSION = "1.20"
_FLINK = "apache-flink-libraries==1.20.3"
# Python 3.11 has had filters since 3.11.4.
_SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
_HERE = pathlib.Path(__file__).absolute().parent

# Flink and Beam reach into the JDK, which Java 17 forbids unless told.
_OPENED = (
    "java.base/java.lang java.base/java.lang.invoke java.base/java.lang.reflect java.base/java.io java.base/java.net "
    "java.base/java.nio java.base/java.text java.base/java.time java.base/java.util java.base/java.util.concurrent "
    "java.base/java.util.concurrent.atomic java.base/java.util.concurrent.locks java.base/sun.nio.ch"
)

_LOG4J = """rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %-5p %c{1} %m%n
"""

_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
# What Flink's own start script would derive from one total. Why 512 MB of network memory: see the README.
_TASK_MANAGER_MEMORY = {
    "taskmanager.cpu.cores": "2",
    "taskmanager.memory.task.heap.size": "768m",
    "taskmanager.memory.task.off-heap.size": "128m",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.managed.size": "256m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
}
_READY_S = 120.0
_STOP_S = 20.0


class ClusterError(Exception):
    """What went wrong, and what to do."""


@dataclasses.dataclass(frozen=True)
class Ports:
    """Where the parts of a cluster listen.

    Attributes:
      rest: The job manager's REST service, which is `--flink_master`, and its web page.
      rpc: The job manager, for task managers.
      worker_pool: The pool of Python workers.
    """

    rest: int
    rpc: int
    worker_pool: int


class Cluster:
    """A cluster and its state.

    Args:
      folder: Holds the state of this cluster: ports, processes, configuration and logs.
      parts: Holds what `fetch` got; default `folder`.

    Attributes:
      parts: The same, as an absolute path.
    """

    def __init__(self, folder: pathlib.Path, parts: pathlib.Path | None = None) -> None:
        self._folder = folder.absolute()
        self.parts = (parts or folder).absolute()

    def up(self, ports: Ports, num_slots: int = 2) -> None:
        """Starts what is not running, on the ports of the first time, and waits until all of it answers.

        Raises:
          ClusterError: If a part is lacking or does not start; then nothing is left running.
        """
        try:
            self._up(ports, num_slots)
        except BaseException:
            self.down()
            raise

    def _up(self, ports: Ports, num_slots: int) -> None:
        if not (self.parts / "flink").is_dir():
            raise ClusterError(f"{self.parts} holds no Flink; run `fetch {self.parts}` first")
        _check_python()
        (self._folder / "log").mkdir(parents=True, exist_ok=True)
        if not self._ports_path.exists():
            self._ports_path.write_text(json.dumps(dataclasses.asdict(ports)))
        self._write_configuration(num_slots)
        self._start(
            "job_manager", self._java(_JOB_MANAGER, ["-Xmx512m", "-Xss64m"], {}), self.ports.rest
        )
        self._wait("job_manager", lambda: self._num_slots() is not None)
        heap = ["-Xmx896m", "-XX:MaxDirectMemorySize=768m", "-XX:MaxMetaspaceSize=256m"]
        self._start("task_manager", self._java(_TASK_MANAGER, heap, _TASK_MANAGER_MEMORY))
        self._wait("task_manager", lambda: (self._num_slots() or 0) >= num_slots)
        pool = self.ports.worker_pool
        module = "apache_beam.runners.worker.worker_pool_main"
        self._start("worker_pool", [sys.executable, "-m", module, f"--service_port={pool}"], pool)
        self._wait("worker_pool", lambda: _answers(pool))

    def down(self) -> None:
        """Stops every process and all that it started."""
        for path in sorted(self._folder.glob("*.pid"), reverse=True):
            _stop(path)
        self._ports_path.unlink(missing_ok=True)

    @property
    def ports(self) -> Ports:
        """Where it listens; known once it is up."""
        return Ports(**json.loads(self._ports_path.read_text()))

    @property
    def flags(self) -> list[str]:
        """What to add to the command line of a pipeline."""
        return [
            "--runner=FlinkRunner",
            f"--flink_master=localhost:{self.ports.rest}",
            f"--flink_version={FLINK_VERSION}",
            f"--flink_job_server_jar={self.parts / 'job-server' / 'job-server.jar'}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{self.ports.worker_pool}",
            "--job_server_jvm_properties=-Xss64m",
        ]

    def pid(self, name: str) -> int:
        """The process of one part: `job_manager`, `task_manager` or `worker_pool`."""
        return int((self._folder / f"{name}.pid").read_text().split()[0])

    @property
    def _ports_path(self) -> pathlib.Path:
        return self._folder / "ports.json"

    def _write_configuration(self, num_slots: int) -> None:
        conf = self._folder / "conf"
        conf.mkdir(exist_ok=True)
        settings = {
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": self.ports.rpc,
            "jobmanager.bind-host": "localhost",
            "rest.address": "localhost",
            "rest.port": self.ports.rest,
            "rest.bind-address": "localhost",
            "taskmanager.host": "localhost",
            "taskmanager.bind-host": "localhost",
            "taskmanager.numberOfTaskSlots": num_slots,
            "io.tmp.dirs": self._folder / "tmp",
        }
        lines = [f"{name}: {value}\n" for name, value in settings.items()]
        (conf / "config.yaml").write_text((_HERE / "config.yaml").read_text() + "".join(lines))
        (conf / "log4j.properties").write_text(_LOG4J)
        (self._folder / "tmp").mkdir(exist_ok=True)

    def _java(self, main: str, heap: list[str], settings: dict[str, str]) -> list[str]:
        conf = self._folder / "conf"
        opened = [f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED.split()]
        command = ["java", *heap, *opened, f"-Dlog4j.configurationFile={conf / 'log4j.properties'}"]
        command += ["-cp", f"{self.parts / 'flink'}/*", main, "--configDir", str(conf)]
        for name, value in settings.items():
            command += ["-D", f"{name}={value}"]
        return command

    def _start(self, name: str, command: Sequence[str], port: int | None = None) -> None:
        path = self._folder / f"{name}.pid"
        if _is_running(path):
            return
        if port is not None and _answers(port):
            raise ClusterError(f"another program listens on port {port}; give another one, or 0")
        # What it started may have outlived it.
        _stop(path)
        with open(self._folder / "log" / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        path.write_text(f"{process.pid} {process_start(process.pid) or ''}")

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_S
        path = self._folder / f"{name}.pid"
        # Another program may answer where this one should.
        while not (is_ready() and _is_running(path)):
            if not _is_running(path) or time.monotonic() > deadline:
                log = self._folder / "log" / f"{name}.log"
                raise ClusterError(f"the {name} did not start; its log: {log}")
            time.sleep(0.2)

    def _num_slots(self) -> int | None:
        url = f"http://localhost:{self.ports.rest}/overview"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return int(json.load(answer)["slots-total"])
        except OSError:
            return None


def fetch(folder: pathlib.Path) -> None:
    """Gets Flink's jars with pip and the job server's with Maven; what is there already is not fetched again."""
    # Absolute: Maven takes other paths to be relative to its own file.
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name, get in (("flink", _fetch_flink), ("job-server", _fetch_job_server)):
        if not (folder / name).exists():
            with tempfile.TemporaryDirectory(dir=folder) as made:
                get(pathlib.Path(made))
                (pathlib.Path(made) / "out").rename(folder / name)


def _fetch_flink(folder: pathlib.Path) -> None:
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", f"--dest={folder}", _FLINK])  # fmt: skip
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **_SAFELY)
    (folder / archive.name.removesuffix(".tar.gz") / "deps" / "lib").rename(folder / "out")


def _fetch_job_server(folder: pathlib.Path) -> None:
    maven = ["mvn", "--quiet", "--batch-mode", f"--file={_HERE / 'job-server.pom.xml'}"]
    _run([*maven, "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'out' / 'lib'}"])
    jars = sorted(path.name for path in (folder / "out" / "lib").glob("*.jar"))
    with zipfile.ZipFile(folder / "out" / "job-server.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", _manifest(jars))


def _manifest(jars: Sequence[str]) -> str:
    """Describes a jar that holds nothing itself; lines have at most 72 bytes and go on after a space."""
    entries = {
        "Manifest-Version": "1.0",
        "Main-Class": "org.apache.beam.runners.flink.FlinkJobServerDriver",
        "Add-Opens": _OPENED,
        "Class-Path": " ".join(f"lib/{jar}" for jar in jars),
    }
    lines = []
    for name, value in entries.items():
        text = f"{name}: {value}"
        lines.append(text[:70])
        lines += [f" {text[at : at + 69]}" for at in range(70, len(text), 69)]
    return "\r\n".join(lines) + "\r\n\r\n"


def _run(command: Sequence[str]) -> None:
    if shutil.which(command[0]) is None:
        raise ClusterError(f"{command[0]} is not installed, or not on the PATH")
    if subprocess.run(command, check=False).returncode:
        raise ClusterError(f"failed: {' '.join(command)}")


def _environment() -> dict[str, str]:
    """The workers' environment: the pool starts `python` by its PATH, and that one must find the pipelines."""
    before = {"PATH": pathlib.Path(sys.executable).parent, "PYTHONPATH": _HERE.parents[1]}
    paths = {
        name: os.pathsep.join(filter(None, [str(first), os.environ.get(name)]))
        for name, first in before.items()
    }
    # Threads that spin while they wait starve the JVMs beside them.
    return {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"} | os.environ | paths


def _check_python() -> None:
    found = subprocess.run(
        ["python", "-c", "import apache_beam, pipelines"], env=_environment(), cwd="/", check=False
    )
    if found.returncode:
        raise ClusterError(
            f"the workers' python, in {pathlib.Path(sys.executable).parent}, lacks apache_beam or pipelines; "
            "with it a job would wait for its workers forever. Run this script with the python that has them"
        )


def _is_running(path: pathlib.Path) -> bool:
    if not path.exists():
        return False
    pid, _, start = path.read_text().partition(" ")
    return bool(start) and process_start(int(pid)) == start


def _stop(path: pathlib.Path) -> None:
    if not path.exists():
        return
    pid, _, start = path.read_text().partition(" ")
    # The process leads a group of all that it started, which may outlive it; a stranger's number is left alone.
    if process_start(int(pid)) in (None, start):
        _stop_group(int(pid))
    path.unlink()


def _stop_group(group: int) -> None:
    for number, patience_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)):
        deadline = time.monotonic() + patience_s
        try:
            os.killpg(group, number)
            while time.monotonic() < deadline:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-group, os.WNOHANG)
                os.killpg(group, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            return


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Finds ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("command", choices=("fetch", "up", "down"))
    parser.add_argument(
        "folder", type=pathlib.Path, help="state of the cluster, and what was fetched"
    )
    parser.add_argument("--parts", type=pathlib.Path, help="folder of `fetch`; default FOLDER")
    parser.add_argument("--rest_port", type=int, default=8081, help="0: any")
    parser.add_argument("--pool_port", type=int, default=50000, help="0: any")
    parser.add_argument("--slots", type=int, default=2, help="tasks at a time")
    arguments = parser.parse_args(argv)
    cluster = Cluster(arguments.folder, arguments.parts)
    try:
        if arguments.command == "fetch":
            fetch(arguments.folder)
        elif arguments.command == "down":
            cluster.down()
        else:
            rest, rpc, pool = free_ports(3)
            cluster.up(Ports(arguments.rest_port or rest, rpc, arguments.pool_port or pool), arguments.slots)  # fmt: skip
            print(" ".join(cluster.flags))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
