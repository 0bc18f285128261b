"""The one decoded copy of a store that a node's processes share."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lenshpc.data.decoded import Decoded
from lenshpc.data.shared import open_shared_images
from lenshpc.errors import DataError
from lenshpc.run.sections import Data

USER = """
import sys, time
from pathlib import Path
from lenshpc.data.decoded import Decoded
from lenshpc.data.shared import open_shared_images
from lenshpc.run.sections import Data
from lenshpc.store import open_store

with open_shared_images(Decoded(open_store(Path(sys.argv[1])), Data())) as images:
    print(float(images.sum()), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def users(spots, scratch):
    """Start processes that hold the images until their input ends."""
    started = []

    def start():
        command = [sys.executable, "-c", USER, str(spots.path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield start
    for user in started:
        user.kill()
        user.communicate()


def decoded(store, size=None):
    return Decoded(store, Data(image_size=size))


def files(scratch):
    return sorted(scratch.glob("lenshpc-images-*"))


def test_images_are_those_of_the_store(spots, scratch):
    with open_shared_images(decoded(spots)) as images:
        assert np.array_equal(images, spots.read(slice(None)))
        assert not images.flags.writeable
        (file,) = files(scratch)
        assert file.stat().st_mode & 0o777 == 0o600
    assert files(scratch) == []


@pytest.mark.usefixtures("scratch")
def test_smaller_images_are_means_over_areas(spots):
    with open_shared_images(decoded(spots, 16)) as images:
        blocks = spots.read(slice(None)).reshape(120, 1, 16, 2, 16, 2)
        np.testing.assert_allclose(images, blocks.mean(axis=(3, 5)), rtol=1e-5)


@pytest.mark.usefixtures("scratch")
def test_larger_images_keep_their_mean(spots):
    with open_shared_images(decoded(spots, 64)) as images:
        assert images.shape == (120, 1, 64, 64)
        own = spots.read(slice(None)).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), own, rtol=0.01)


def test_second_user_shares_the_file_and_the_last_removes_it(spots, scratch):
    with open_shared_images(decoded(spots)) as first:
        (file,) = files(scratch)
        written = file.stat()
        with open_shared_images(decoded(spots)) as second:
            assert np.array_equal(first, second)
            assert files(scratch) == [file]
        assert file.stat().st_ino == written.st_ino
        assert file.stat().st_mtime_ns == written.st_mtime_ns  # not filled again
    assert files(scratch) == []


def test_processes_that_start_together_fill_one_file(spots, scratch, users):
    several = [users() for _ in range(3)]
    sums = {user.stdout.readline() for user in several}
    assert len(sums) == len(files(scratch)) == 1
    for user in several:
        user.communicate()
    assert [user.returncode for user in several] == [0, 0, 0]
    assert files(scratch) == []


def test_all_who_start_together_hold_the_images_at_once(spots, scratch):
    inside = threading.Barrier(8)

    def use():
        with open_shared_images(decoded(spots)) as images:
            inside.wait(timeout=20)
            return float(images.sum())

    with ThreadPoolExecutor(8) as pool:
        sums = {future.result() for future in [pool.submit(use) for _ in range(8)]}
    assert len(sums) == 1
    assert files(scratch) == []


def test_who_saw_an_unfilled_file_does_not_wait_until_its_filler_leaves(spots, scratch):
    """Else two ranks wait for each other: one for the lock, one in its first collective call."""
    with open_shared_images(decoded(spots)) as images:
        (file,) = files(scratch)
        content, expected = file.read_bytes(), float(images.sum())
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)

    def use():
        with open_shared_images(decoded(spots)) as images:
            return float(images.sum())

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(use)
        time.sleep(0.3)  # it has seen the empty file and that others use it
        assert not waiting.done()
        os.write(descriptor, content)
        try:
            assert waiting.result(timeout=10) == expected
        finally:
            os.close(descriptor)


def test_file_of_a_killed_process_is_taken_over_when_whole(spots, scratch, users):
    user = users()
    user.stdout.readline()
    user.send_signal(signal.SIGKILL)
    user.wait()
    (file,) = files(scratch)
    left = file.stat()
    with open_shared_images(decoded(spots)) as images:
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (left.st_ino, left.st_mtime_ns)
        assert np.array_equal(images, spots.read(slice(None)))
    assert files(scratch) == []


@pytest.mark.parametrize("damage", ["cut short", "of another boot", "empty"])
def test_file_that_is_not_whole_is_filled_again(spots, scratch, users, damage):
    user = users()
    user.stdout.readline()
    user.send_signal(signal.SIGKILL)
    user.wait()
    (file,) = files(scratch)
    content = bytearray(file.read_bytes())
    kept = {"cut short": len(content) - 40, "of another boot": len(content), "empty": 0}[damage]
    content[-3] = ord("x")
    content[:1000] = bytes(1000)
    file.write_bytes(content[:kept])
    with open_shared_images(decoded(spots)) as images:
        assert np.array_equal(images, spots.read(slice(None)))


def test_unused_file_of_another_store_is_removed_and_a_used_one_stays(spots, scratch, users):
    user = users()
    user.stdout.readline()
    with open_shared_images(decoded(spots, 16)):
        assert len(files(scratch)) == 2
    (used,) = files(scratch)
    user.send_signal(signal.SIGKILL)
    user.wait()
    with open_shared_images(decoded(spots, 16)):
        assert len(files(scratch)) == 1
        assert not used.exists()


@pytest.mark.parametrize("planted", ["readable by others", "link", "hard link", "folder"])
def test_file_that_another_user_could_have_planted_is_refused(spots, scratch, planted):
    with open_shared_images(decoded(spots)):
        (file,) = files(scratch)
    if planted == "link":
        file.symlink_to(scratch / "elsewhere")
    elif planted == "hard link":
        (scratch / "own").touch(mode=0o600)
        file.hardlink_to(scratch / "own")
    elif planted == "folder":
        file.mkdir()
    else:
        file.touch(mode=0o644)
    with pytest.raises(DataError, match="set TMPDIR to a folder of the node that only you"):
        open_shared_images(decoded(spots)).__enter__()
    assert not (scratch / "elsewhere").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a file away")
def test_file_of_another_user_is_refused(spots, scratch):
    with open_shared_images(decoded(spots)):
        (file,) = files(scratch)
    file.touch(mode=0o600)
    os.chown(file, 12345, 12345)
    with pytest.raises(DataError, match="it is not a private file of yours"):
        open_shared_images(decoded(spots)).__enter__()


@pytest.mark.usefixtures("scratch")
def test_too_little_space_names_both_sizes_and_a_way_out(spots, scratch, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DataError) as caught:
        open_shared_images(decoded(spots)).__enter__()
    assert str(caught.value) == (
        f"{scratch} has 0.0 GB free and the decoded images need 0.0 GB, held in memory; "
        "set TMPDIR to a larger folder of the node, or use --set data.loading=stream"
    )
    assert files(scratch) == []


def test_waiting_process_fills_what_a_killed_one_began(spots, scratch, users):
    """The lock of a process that dies while filling passes to the next."""
    with open_shared_images(decoded(spots)):
        (file,) = files(scratch)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, b"begun")
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    waiting = users()
    time.sleep(1.5)
    assert file.read_bytes() == b"begun"
    os.close(descriptor)
    assert float(waiting.stdout.readline()) == pytest.approx(
        float(spots.read(slice(None)).sum()), rel=1e-4
    )
