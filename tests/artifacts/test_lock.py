import concurrent.futures
import dataclasses
import errno
import os
import subprocess
import sys
import threading

import pytest

from beam_quad.artifacts import disk, files, lock
from beam_quad.artifacts.lock import OutputLock
from beam_quad.artifacts.owners import Owner
from beam_quad.errors import LockedError


@pytest.fixture(params=["disk", "disk without flock", "fsspec"])
def output(request, tmp_path, monkeypatch) -> str:
    """An output on each kind of store that needs no server."""
    if request.param == "fsspec":
        return f"memory://{tmp_path.name}/out"
    if request.param == "disk without flock":
        monkeypatch.setattr(disk.fcntl, "flock", failing(errno.ENOLCK))
    return str(tmp_path / "out")


def failing(number: int):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def leave_lock(output: str, **changes) -> None:
    owner = dataclasses.replace(Owner.here(), **changes)
    assert lock._LockFile(f"{output}/_run/lock").take(owner, lambda other: False) is None


def test_second_run_is_refused_with_the_name_of_the_first(output):
    OutputLock(output).acquire()
    with pytest.raises(LockedError) as refusal:
        OutputLock(output).acquire()
    here = Owner.here()
    for part in (str(here.pid), here.host, here.started[:10], "--take_over"):
        assert part in str(refusal.value)


def test_released_lock_can_be_taken(output):
    with OutputLock(output):
        pass
    with OutputLock(output) as again:
        again.release()
    assert files.find(output) == []


def test_a_lock_that_is_gone_when_it_is_to_be_taken_over_is_taken_anew(output, monkeypatch):
    leave_lock(output, process_start="0")
    file = lock._LockFile(f"{output}/_run/lock")
    put, puts = file._put, []

    def gone_before(owner, version):
        if not puts:
            files.delete([f"{output}/_run/lock"])
        puts.append(version)
        return put(owner, version)

    monkeypatch.setattr(file, "_put", gone_before)
    assert file.take(Owner.here(), lambda other: True) is None
    assert len(puts) == 2


def test_whoever_asks_is_told_the_owner_and_leaves_the_lock_alone(output):
    assert OutputLock(output).owner() is None
    assert files.find(output) == []
    with OutputLock(output):
        held = files.find(output)
        assert OutputLock(output).owner().pid == os.getpid()
        assert files.find(output) == held
    assert OutputLock(output).owner() is None
    leave_lock(output, process_start="another boot:1")
    assert OutputLock(output).owner() is None


def test_the_owner_of_a_job_is_told_until_the_job_has_ended(output):
    leave_lock(output, process_start="", job="flink:h:1/q")
    assert OutputLock(output).owner().job == "flink:h:1/q"
    assert OutputLock(output, lambda owner: owner.job != "flink:h:1/q").owner() is not None
    assert OutputLock(output, lambda owner: owner.job == "flink:h:1/q").owner() is None


def test_lock_of_a_dead_process_is_taken_over(output):
    code = "from beam_quad.artifacts.owners import Owner; print(Owner.here().dump().decode())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    leave_lock(output, **dataclasses.asdict(Owner.parse(ended.stdout)))
    OutputLock(output).acquire()
    with pytest.raises(LockedError, match=f"process {os.getpid()} "):
        OutputLock(output).acquire()


def test_lock_of_a_pid_that_was_given_again_is_taken_over(output):
    leave_lock(output, process_start="another boot:1", token="0")
    OutputLock(output).acquire()


def test_lock_of_another_host_is_taken_over_only_when_asked(output):
    leave_lock(output, host="elsewhere", token="0", started="2000-01-01T00:00:00+00:00")
    with pytest.raises(LockedError, match="elsewhere"):
        OutputLock(output).acquire()
    OutputLock(output).acquire(take_over=True)
    with pytest.raises(LockedError, match=Owner.here().host):
        OutputLock(output).acquire()


def test_lock_that_was_taken_over_is_not_released_by_its_old_owner(output):
    first, second = OutputLock(output), OutputLock(output)
    first.acquire()
    second.acquire(take_over=True)
    first.release()
    with pytest.raises(LockedError):
        OutputLock(output).acquire()


def test_lock_of_a_job_outlives_its_launcher_until_the_job_ends(output):
    launcher = OutputLock(output)
    launcher.acquire()
    launcher.name_job("job-7")
    launcher.release()
    with pytest.raises(LockedError, match="job-7"):
        OutputLock(output).acquire()
    with pytest.raises(LockedError):
        OutputLock(output, is_job_done=lambda owner: False).acquire()
    OutputLock(output, is_job_done=lambda owner: owner.job == "job-7").acquire()


def test_a_job_that_has_ended_before_its_launcher_leaves_no_lock(output):
    launcher = OutputLock(output)
    launcher.acquire()
    launcher.name_job("job-7")
    launcher.name_job("")
    launcher.release()
    OutputLock(output).acquire()


def test_a_run_whose_lock_was_taken_over_starts_no_job(output):
    first, second = OutputLock(output), OutputLock(output)
    first.acquire()
    second.acquire(take_over=True)
    with pytest.raises(LockedError, match="taken over"):
        first.name_job("job-7")
    first.release()
    with pytest.raises(LockedError):
        OutputLock(output).acquire()


def test_a_damaged_lock_is_nobodys(output):
    files.write_once(f"{output}/_run/lock", b'{"host": "a", "pi')
    OutputLock(output).acquire()
    with pytest.raises(LockedError):
        OutputLock(output).acquire()


@pytest.mark.parametrize("is_left", [False, True])
def test_of_many_at_once_one_gets_the_lock(tmp_path, is_left):
    if is_left:
        leave_lock(str(tmp_path), process_start="another boot:1", token="0")

    def try_to_acquire(_: int) -> bool:
        try:
            OutputLock(str(tmp_path)).acquire()
        except LockedError:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(try_to_acquire, range(64))) == 1


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO])
def test_a_lock_is_taken_over_on_a_disk_without_flock_but_not_on_one_that_fails(
    tmp_path, monkeypatch, number
):
    leave_lock(str(tmp_path), process_start="another boot:1", token="0")
    monkeypatch.setattr(disk.fcntl, "flock", failing(number))
    if number == errno.EIO:
        with pytest.raises(OSError, match=f"{tmp_path}/_run/lock"):
            OutputLock(str(tmp_path)).acquire()
    else:
        OutputLock(str(tmp_path)).acquire()


def test_the_line_about_a_job_says_what_frees_its_lock(output):
    launcher = OutputLock(output)
    launcher.acquire()
    launcher.name_job("PortableRunner/a")
    launcher.release()
    with pytest.raises(LockedError, match="has ended, pass --take_over"):
        OutputLock(output).acquire()
    OutputLock(output).acquire(take_over=True)


def test_a_lock_released_for_good_is_not_taken_again_by_its_process(output):
    ending = OutputLock(output)
    ending.acquire()
    assert ending.release_for_good() == ""
    again = threading.Thread(target=ending.acquire, daemon=True)
    again.start()
    again.join(0.2)
    assert again.is_alive()
    OutputLock(output).acquire()
