"""The folder of the slots is ours alone, and what goes wrong with the queue is seen."""

import contextlib
import importlib
import os
import re
import socket
import subprocess
import sys
import tempfile
from urllib.parse import unquote_to_bytes

import pytest
from commands import finished
from hypothesis import given
from hypothesis.strategies import text
from ranks import planned, recipe

from lenshpc.errors import LaunchError
from lenshpc.files import write_json
from lenshpc.launch import executor
from lenshpc.launch.cancel import cancel
from lenshpc.launch.jobs import JobRecord, record
from lenshpc.launch.local import LocalQueue, log_path, queue_path, read_queue, stop_queue
from lenshpc.launch.sites import Site
from lenshpc.launch.slots import (
    Slot,
    local_slots,
    note_holder,
    take_slots,
    visibility,
    visible_gpus,
)
from lenshpc.launch.states import run_status
from lenshpc.launch.words import summarise_states

SLOTS = [Slot("core", "0")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return the path of the slots' folder, not made yet."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"lenshpc-slots-{os.geteuid()}"


def refusal():
    with pytest.raises(LaunchError) as caught:
        take_slots(SLOTS, 1)
    return str(caught.value)


def test_folder_of_slots_is_private(place):
    locks = take_slots(SLOTS, 1)
    assert (place.stat().st_mode & 0o777, (place / "core-0").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )
    locks[SLOTS[0]].close()


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
    (place / "core-0").symlink_to(tmp_path / "made")
    assert refusal() == "the file of core 0 cannot be opened: Too many levels of symbolic links"
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
    command = [sys.executable, "-c", code, "lenshpc.launch.controller"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as member:
        member.stdout.readline()
        lock = take_slots(SLOTS, 1)[SLOTS[0]]
        note_holder(lock, str(member.pid))
        lock.close()  # as the kernel does for a queue that is killed
        assert take_slots(SLOTS, 1) == {}
        member.stdin.close()
        member.wait()
    again = take_slots(SLOTS, 1)
    assert list(again) == SLOTS
    again[SLOTS[0]].close()


@pytest.mark.parametrize(
    ("shown", "gpus"),
    [
        (None, ["0", "1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", ["1"]),
        (" 3, 10 ,2", ["3", "10", "2"]),
        ("0,-1,1", ["0"]),
        ("0,,1", ["0"]),
        ("0,0,1", ["0", "1"]),
        ("GPU-8932f937", ["GPU-8932f937"]),
        ("MIG-22aa,MIG-GPU-8932/1/0,GPU-17", ["MIG-22aa", "MIG-GPU-8932/1/0", "GPU-17"]),
    ],
)
def test_gpus_are_those_that_are_shown_as_they_are_written(shown, gpus):
    environment = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    assert visible_gpus(environment | {"HIP_VISIBLE_DEVICES": "7"}, 2, 0) == gpus
    assert visible_gpus({} if shown is None else {"HIP_VISIBLE_DEVICES": shown}, 0, 2) == gpus


@pytest.mark.parametrize(
    ("environment", "nvidia", "amd", "gpus"),
    [
        ({"HIP_VISIBLE_DEVICES": "3", "CUDA_VISIBLE_DEVICES": "1"}, 0, 4, ["3"]),
        ({"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "2,3"}, 0, 4, ["1"]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-a1,GPU-b2"}, 0, 4, ["0", "1"]),
        ({}, 0, 4, ["0", "1", "2", "3"]),
        ({"ROCR_VISIBLE_DEVICES": "2"}, 2, 4, ["0", "1"]),
        ({}, 0, 0, []),
    ],
)
def test_gpus_of_amd_go_by_the_variables_of_rocm(environment, nvidia, amd, gpus):
    assert visible_gpus(environment, nvidia, amd) == gpus


def test_slots_are_gpus_or_cores_by_what_a_member_asks_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b,MIG-a,5")
    gpus = [Slot("gpu", "GPU-b"), Slot("gpu", "MIG-a"), Slot("gpu", "5")]
    cores = [Slot("core", str(at)) for at in range(4)]
    assert local_slots(None, on_gpus=True) == gpus
    assert local_slots(2, on_gpus=True) == gpus[:2]
    assert local_slots(4, on_gpus=False) == cores
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_slots(4, on_gpus=True) == cores
    num = len(os.sched_getaffinity(0))
    assert local_slots(None, on_gpus=False) == [Slot("core", str(at)) for at in range(num)]


def test_gpu_and_core_of_one_number_are_two_slots(place):
    both = take_slots([Slot("gpu", "0"), Slot("core", "0")], 2)
    assert sorted(path.name for path in place.iterdir()) == ["core-0", "gpu-0"]
    for lock in both.values():
        lock.close()


@given(name=text(min_size=1, max_size=60).filter(lambda name: "\0" not in name))
def test_file_of_a_slot_is_a_name_of_its_own(name):
    file = Slot("gpu", name).file
    assert re.fullmatch("gpu-[A-Za-z0-9_.~%-]+", file)
    assert os.fsdecode(unquote_to_bytes(file.removeprefix("gpu-"))) == name


@pytest.mark.parametrize(
    ("slots", "shown"),
    [
        (
            [Slot("gpu", "10"), Slot("gpu", "MIG-GPU-8932/1/0"), Slot("gpu", "2")],
            "10,MIG-GPU-8932/1/0,2",
        ),
        ([Slot("core", "0"), Slot("core", "1")], "-1"),
        ([], "-1"),
    ],
)
def test_processes_see_their_slots_gpus_alone(tmp_path, slots, shown):
    line = 'echo "$CUDA_VISIBLE_DEVICES $HIP_VISIBLE_DEVICES" >$SUBMITIT_LOCAL_LOCALID'
    call = ["sh", "-c", f"cd {tmp_path} && {line}"]
    executor.start_local(
        tmp_path / "jobs", visibility(slots), 2, subprocess.check_call, call
    ).wait()
    assert [(tmp_path / rank).read_text() for rank in "01"] == [f"{shown} {shown}\n"] * 2


CALLS = """
import os
from pathlib import Path


def member(root, index):
    Path(root, f"seen-{index}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])


def aggregate(root):
    Path(root, "seen").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
"""


@pytest.mark.parametrize(
    ("size", "seen", "files"),
    [
        ({"gpus_per_node": 1}, {"GPU-8932", "MIG-22/1/0"}, ["gpu-GPU-8932", "gpu-MIG-22%2F1%2F0"]),
        ({"gpus_per_node": 2}, {"GPU-8932,MIG-22/1/0"}, ["gpu-GPU-8932", "gpu-MIG-22%2F1%2F0"]),
        ({"gpus_per_node": 0, "tasks_per_node": 2}, {"-1"}, ["core-0", "core-1"]),
    ],
)
def test_members_of_a_queue_get_gpus_or_cores(
    place, tmp_path, spots, monkeypatch, size, seen, files
):
    (tmp_path / "told.py").write_text(CALLS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932,MIG-22/1/0")
    run, plan = planned(tmp_path, spots, recipe(folds=2, resources=size))
    site = Site(name="here", scheduler="local", slots=2)
    calls = importlib.import_module("told")
    LocalQueue(run, plan, site, calls, dict.fromkeys(range(2), "PENDING")).drain()
    assert {(run.root / f"seen-{member}").read_text() for member in range(2)} == seen
    assert (run.root / "seen").read_text() == "-1"
    assert sorted(path.name for path in place.iterdir()) == files


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


def test_members_that_were_cancelled_here_are_no_failures(sent):
    states = ["COMPLETED", "CANCELLED", "CANCELLED", "FAILED", "COMPLETED"]
    write_queue(
        sent, pid=0, states={str(at): word for at, word in enumerate(states)}, jobs={"1": "71"}
    )
    lines = run_status(sent.paths, sent.plan).members
    assert [(line.state, line.reason) for line in lines[:5]] == [
        ("DONE", ""),
        ("CANCELLED", "job 71 was cancelled"),
        ("CANCELLED", "it was cancelled while it waited"),
        ("FAILED", "its job ended FAILED"),
        ("FAILED", "its job succeeded, but its results are missing"),
    ]
    assert (lines[5].state, lines[5].failure.name) == ("FAILED", "KILLED"), "nobody cancelled it"


def test_members_that_wait_here_say_for_what(sent, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, "-c", "input()", str(sent.paths.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as queue:
        write_queue(sent, pid=queue.pid, host=socket.gethostname())
        waiting = run_status(sent.paths, sent.plan).members[1]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        other = run_status(sent.paths, sent.plan).members[1]
        queue.communicate(b"\n")
    assert (waiting.state, waiting.reason) == (
        "PENDING",
        "waits for a free core of this machine",
    )
    assert other.reason == "waits for a free GPU of this machine"


@pytest.mark.usefixtures("place")
def test_member_that_waits_for_another_runs_member_names_its_run(sent, tmp_path):
    root = sent.paths.root
    runs = [root, root.parent / "first-1", tmp_path / "its" / "other-2"]
    held = [Slot("core", str(at)) for at in range(3)]
    code = "print(flush=True); input()"
    command = [sys.executable, "-c", code, "lenshpc.launch.controller"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        jobs = [
            stack.enter_context(subprocess.Popen([*command, str(one / "slurm")], **pipes))
            for one in runs
        ]
        for slot, job in zip(held, jobs, strict=True):
            job.stdout.readline()
            with take_slots([slot], 1)[slot] as lock:
                note_holder(lock, str(job.pid))
        queue = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", "input()", str(root)], stdin=subprocess.PIPE)
        )
        write_queue(sent, pid=queue.pid, host=socket.gethostname())
        status = run_status(sent.paths, sent.plan)
        for job in jobs[1:]:
            job.communicate(b"\n")
        alone = run_status(sent.paths, sent.plan)
        for process in (jobs[0], queue):
            process.communicate(b"\n")
    told = (
        "waits: the cores of this machine are in use by run first-1, "
        f"run other-2 in {tmp_path / 'its'}"
    )
    assert status.members[1].reason == told
    assert summarise_states(status) == f"1 DONE 5 PENDING; report PENDING; {told}"
    assert alone.members[1].reason == "waits for a free core of this machine"


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
