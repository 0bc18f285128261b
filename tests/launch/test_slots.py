"""The folder of the slots is ours alone, and what goes wrong with the queue is seen."""

import os
import socket
import subprocess
import sys
import tempfile

import pytest
from commands import finished

from lenshpc.errors import LaunchError
from lenshpc.files import write_json
from lenshpc.launch.cancel import cancel
from lenshpc.launch.jobs import JobRecord, record
from lenshpc.launch.local import log_path, queue_path, read_queue, stop_queue
from lenshpc.launch.sites import Site
from lenshpc.launch.slots import note_holder, take_slots
from lenshpc.launch.states import run_status

SITE = Site(name="here", scheduler="local", slots=1)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return the path of the slots' folder, not made yet."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"lenshpc-slots-{os.geteuid()}"


def refusal():
    with pytest.raises(LaunchError) as caught:
        take_slots(SITE, 1)
    return str(caught.value)


def test_folder_of_slots_is_private(place):
    locks = take_slots(SITE, 1)
    assert (place.stat().st_mode & 0o777, (place / "0").stat().st_mode & 0o777) == (0o700, 0o600)
    locks[0].close()


def test_link_in_place_of_the_folder_is_refused_and_nothing_is_made_behind_it(place, tmp_path):
    (tmp_path / "behind").mkdir()
    place.symlink_to(tmp_path / "behind")
    assert refusal() == (
        f"{place} is no folder that can be used (Not a directory); "
        "set TMPDIR to a folder of your own, then resume"
    )
    assert list((tmp_path / "behind").iterdir()) == []


def test_file_in_place_of_the_folder_is_refused(place):
    place.touch()
    assert refusal().startswith(f"{place} is no folder that can be used (File exists); ")


def test_link_in_place_of_a_slot_is_refused_and_nothing_is_made_behind_it(place, tmp_path):
    place.mkdir(mode=0o700)
    (place / "0").symlink_to(tmp_path / "made")
    assert refusal() == "the file of slot 0 cannot be opened: Too many levels of symbolic links"
    assert not (tmp_path / "made").exists()


def test_folder_that_others_may_write_is_refused(place):
    place.mkdir()
    place.chmod(0o777)
    assert refusal().startswith(f"{place} may be written by others (mode 0777); set TMPDIR")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_folder_of_another_user_is_refused(place):
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    assert refusal().startswith(f"{place} belongs to somebody else; set TMPDIR to a folder of your")


@pytest.mark.usefixtures("place")
def test_member_that_outlives_its_queue_keeps_its_slot():
    code = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, "submitit.local._local"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as member:
        member.stdout.readline()
        lock = take_slots(SITE, 1)[0]
        note_holder(lock, str(member.pid))
        lock.close()  # as the kernel does for a queue that is killed
        assert take_slots(SITE, 1) == {}
        member.stdin.close()
        member.wait()
    again = take_slots(SITE, 1)
    assert list(again) == [0]
    again[0].close()


@pytest.fixture
def sent(run):
    """Return a run that this machine's queue was given; members 1 to 5 are not done."""
    run.paths.slurm.mkdir()
    run.paths.site.write_text("{}")
    facts = {"scheduler": "local", "site": "local", "submitted": "2026-01-02T03:04:05+00:00"}
    record(run.paths, JobRecord(job_id="77", members=tuple(range(6)), **facts))
    for member in run.plan.members[1:]:
        run.paths.member(member.name).done.unlink()
    return run


def write_queue(run, **facts):
    states = {str(at): "PENDING" for at in range(6)}
    write_json(queue_path(run.paths), {"pid": 2**22 + 1, "states": states} | facts)


def test_queue_that_is_gone_has_failed_with_its_last_line(sent):
    write_queue(sent, host=socket.gethostname())
    error = "lenshpc.errors.LaunchError: /tmp/lenshpc-slots-0 belongs to somebody else; set TMPDIR"
    log_path(sent.paths).write_text(
        f"lenshpc: a queue begins\nKeyError: 'old'\nlenshpc: a queue begins\nTraceback\n{error}\n"
    )
    lines = run_status(sent.paths, sent.plan).members
    assert [line.state for line in lines] == ["DONE", *["FAILED"] * 5]
    assert lines[1].reason == f"the local queue ended before it: {error}"
    assert (lines[1].failure.name, lines[1].failure.line) == ("WRONG INPUT", error)


def test_queue_that_is_gone_without_a_word_was_killed(sent):
    write_queue(sent, host=socket.gethostname())
    log_path(sent.paths).write_text("KeyError: 'old'\nlenshpc: a queue begins\n")
    line = run_status(sent.paths, sent.plan).members[1]
    assert (line.state, line.failure.name, line.failure.tail) == ("FAILED", "KILLED", ())
    assert line.reason == "the local queue ended before it: it was killed"


def test_queue_of_another_host_is_unknown_and_nothing_is_cancelled(sent):
    write_queue(sent, host="elsewhere", pid=os.getpid())
    status = run_status(sent.paths, sent.plan)
    silence = (
        f"its queue, process {os.getpid()}, is on elsewhere; ask there, or if that machine is "
        f"gone, remove {queue_path(sent.paths)}"
    )
    assert [line.state for line in status.members] == ["DONE", *["UNKNOWN"] * 5]
    assert (status.silence, status.has_ended) == (silence, False)
    with pytest.raises(LaunchError) as caught:
        cancel(sent.paths, sent.plan)
    assert str(caught.value) == f"nothing was cancelled: {silence}; try again"
    with pytest.raises(LaunchError, match="nothing was stopped: its queue"):
        stop_queue(sent.paths)
    assert read_queue(sent.paths).pid == os.getpid()


@pytest.mark.slow
def test_folder_of_slots_that_is_a_link_fails_the_run_with_the_reason(spots, tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / f"lenshpc-slots-{os.geteuid()}").symlink_to(tmp_path)
    submit = ("submit", "--task", "multiclass", "--data", spots.path, "--models", "test_resnet")
    code, _, err = finished(tmp_path, *map(str, submit), "--set", "train.warmup_epochs=0", "--wait")
    assert code == 1, err
    assert "Not a directory" in err
    assert "somebody cancelled it" not in err
