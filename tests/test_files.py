"""Files that are whole or absent, and the lock that one process of all hosts holds."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from lenshpc.errors import DataError, IncompleteError
from lenshpc.files import (
    lock,
    read_json,
    read_whole,
    remove_drafts,
    replacing_folder,
    sha256,
    unique_name,
)


def test_names_of_two_calls_differ_and_are_known_as_drafts(tmp_path):
    names = {unique_name(tmp_path / "a.json", "tmp") for _ in range(50)}
    assert len(names) == 50
    start = f".a.json.{socket.gethostname()[:32]}.{os.getpid()}."
    assert all(path.name.startswith(start) for path in names)
    for path in names:
        path.touch()
    remove_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def write_folder(path, text):
    with replacing_folder(path) as draft:
        (draft / "text").write_text(text)


def test_folder_is_replaced_as_a_whole(tmp_path):
    write_folder(tmp_path / "report", "one")
    write_folder(tmp_path / "report", "two")
    assert (tmp_path / "report/text").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_folder_is_put_back_that_a_killed_call_had_set_aside(tmp_path):
    write_folder(tmp_path / "report", "one")
    (tmp_path / "report").rename(unique_name(tmp_path / "report", "old"))
    with pytest.raises(KeyError), replacing_folder(tmp_path / "report"):
        raise KeyError
    assert (tmp_path / "report/text").read_text() == "one"
    write_folder(tmp_path / "report", "two")
    assert (tmp_path / "report/text").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


HOLDER = """
import sys
from pathlib import Path
from lenshpc.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start another process that holds a lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_lock_of_a_process_is_refused_until_it_is_dead(holder, tmp_path):
    with (
        pytest.raises(IncompleteError, match="is in use by another process; wait until that has"),
        lock(tmp_path / "lock"),
    ):
        pytest.fail("two hold the lock")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock(tmp_path / "lock"):
        pass
    with lock(tmp_path / "lock"):  # it can be had again
        pass


def test_lock_without_its_folder_is_no_lock(tmp_path):
    with pytest.raises(FileNotFoundError), lock(tmp_path / "gone/lock"):
        pytest.fail("there is nothing to lock")


@pytest.fixture
def no_flock(monkeypatch):
    """Let the system's call fail as on a network file system without a lock daemon."""

    def fail(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)


def held_by(path, host, pid, start):
    path.with_name("lock.held").write_text(f"{host}\n{pid}\n{start}")


def test_lock_without_flock_is_a_file_that_one_process_makes(no_flock, tmp_path):
    with lock(tmp_path / "lock"):
        host, pid, _ = (tmp_path / "lock.held").read_text().split("\n")
        assert (host, pid) == (socket.gethostname(), str(os.getpid()))
        with (
            pytest.raises(IncompleteError, match=f"is in use by process {os.getpid()}; wait"),
            lock(tmp_path / "lock"),
        ):
            pytest.fail("two hold the lock")
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("pid", [1, 2**22 + 1], ids=["came again", "gone"])
def test_lock_of_a_dead_process_of_this_host_is_taken_over(pid, no_flock, tmp_path):
    held_by(tmp_path / "lock", socket.gethostname(), pid, "another boot 77")
    with lock(tmp_path / "lock"):
        assert (tmp_path / "lock.held").read_text().split("\n")[1] == str(os.getpid())
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_lock_of_another_host_is_never_taken_over(no_flock, tmp_path):
    held_by(tmp_path / "lock", "elsewhere", 7, "a boot 77")
    with (
        pytest.raises(
            IncompleteError,
            match=r"process 7 of elsewhere \(if that is dead, remove .*lock.held\); wait until",
        ),
        lock(tmp_path / "lock"),
    ):
        pytest.fail("two hold the lock")
    assert (tmp_path / "lock.held").exists()


@pytest.mark.parametrize("text", ["", "elsewhere", "\n\n\n\n"])
def test_lock_file_that_says_nothing_is_refused(text, no_flock, tmp_path):
    (tmp_path / "lock.held").write_text(text)
    with pytest.raises(IncompleteError, match=r"lock.held \(if that"), lock(tmp_path / "lock"):
        pytest.fail("two hold the lock")


@pytest.mark.parametrize("read", [read_json, read_whole, sha256])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_is_no_file_is_refused_and_keeps_nobody_waiting(read, what, tmp_path):
    path = tmp_path / "done.json"
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"done\.json is damaged: it is not a file; restore it"):
        read(path)
