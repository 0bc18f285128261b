"""This machine's queue: slots are never shared, and a run is mended by what it lacks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from commands import finished, start
from ranks import planned, recipe

from lenshpc.launch.local import LocalQueue
from lenshpc.launch.sites import Site
from lenshpc.launch.slots import Slot, take_slots
from lenshpc.launch.submit import Calls
from lenshpc.run.attempts import read_events

CORES = [Slot("core", str(number)) for number in range(3)]
OTHER = """
import sys
from lenshpc.launch.slots import Slot, take_slots
slots = take_slots([Slot("core", str(number)) for number in range(3)], int(sys.argv[1]))
print(*slots, sep=", ", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def own_slots(tmp_path, monkeypatch):
    """Keep the slots of this test apart from those of runs on this machine."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.usefixtures("own_slots")
def test_slots_are_given_once_until_they_are_closed():
    first, second = take_slots(CORES, 2), take_slots(CORES, 1)
    assert (list(first), list(second)) == (CORES[:2], CORES[2:])
    assert take_slots(CORES, 1) == {}
    first[CORES[0]].close()
    assert take_slots(CORES, 2) == {}  # one is not enough, and is not kept
    again = take_slots(CORES, 1)
    assert list(again) == CORES[:1]
    for lock in (first[CORES[1]], *second.values(), *again.values()):
        lock.close()


@pytest.mark.usefixtures("own_slots")
def test_slots_of_another_process_are_taken_until_it_ends():
    command = [sys.executable, "-c", OTHER, "2"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "core 0, core 1\n"
        assert take_slots(CORES, 2) == {}
        mine = take_slots(CORES, 1)
        assert list(mine) == CORES[2:]
        other.kill()
        other.wait()
    freed = take_slots(CORES, 2)
    assert list(freed) == CORES[:2]
    for lock in (*mine.values(), *freed.values()):
        lock.close()


@pytest.mark.usefixtures("own_slots")
def test_profiles_variables_reach_members_and_the_report(spots, tmp_path):
    run, plan = planned(tmp_path, spots, recipe(folds=1, resources={"gpus_per_node": 0}))
    site = Site(name="here", scheduler="local", slots=1, env={"WORDS": "it's two", "TMPDIR": "/"})
    calls = Calls(
        member=lambda root, _: Path(root, "member").write_text(os.environ["WORDS"]),
        aggregate=lambda root: Path(root, "report").write_text(os.environ["WORDS"]),
    )
    LocalQueue(run, plan, site, calls, {0: "PENDING"}).drain()
    assert [(run.root / name).read_text() for name in ("member", "report")] == ["it's two"] * 2
    assert (tmp_path / f"lenshpc-slots-{os.geteuid()}").is_dir(), "its TMPDIR moves no slots"


def submission(*more):
    return (
        *("submit", "--task", "multiclass", "--data", "store", "--folds", "2"),
        *("--models", "test_resnet", "--set", "train.warmup_epochs=0", *more),
    )


@pytest.fixture
def place(spots, tmp_path):
    """Yield a folder with a copy of the store; runs that a test leaves there are cancelled."""
    shutil.copytree(spots.path, tmp_path / "store")
    yield tmp_path
    for root in tmp_path.glob("runs/*"):
        finished(tmp_path, "cancel", root.name)


def test_members_under_way_keep_the_site_and_sizes_that_they_were_sent_with(place):
    for name, slots in (("one", 1), ("two", 2)):
        (place / f"{name}.yaml").write_text(f"scheduler: local\nslots: {slots}\n")
    told, long = [], ("--set", "train.epochs=3000")
    for more in (
        ("--site", "./one.yaml"),
        ("--site", "./one.yaml"),
        ("--site", "./one.yaml", "--set", "resources.time_min=300"),
        ("--site", "./two.yaml"),
        ("--site", "./two.yaml"),
    ):
        code, _, err = finished(place, *submission(*more, *long))
        assert code == 0, err
        told.append(err.splitlines()[0])
    (root,) = (place / "runs").iterdir()
    nothing = f"run {root.name}: nothing to submit"
    kept = (
        "2 members under way stay as they were submitted, to site one; to change that: lenshpc "
        f"cancel {root.name}, then the same command again"
    )
    assert told[1:] == [nothing, kept, kept, kept]
    assert finished(place, "cancel", root.name)[0] == 0
    code, _, err = finished(place, *submission("--site", "./two.yaml", *long))
    assert (code, err.splitlines()[0].partition(" as job ")[0]) == (
        0,
        f"run {root.name}: 2 members submitted",
    )
    assert json.loads((root / "slurm" / "site.json").read_text())["slots"] == 2
    assert finished(place, "cancel", root.name)[0] == 0


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_local_run_comes_to_a_report_and_is_mended_by_what_it_lacks(place):
    submit = submission("--set", "train.epochs=1", "--wait")
    code, out, err = finished(place, *submit)
    assert code == 0, err
    (run,) = (place / "runs").iterdir()
    assert out == f"report: {run / 'report' / 'report.html'}\n"
    report = {path.name for path in (run / "report").iterdir()}
    assert {"report.html", "report.md", "report.json", "predictions.parquet"} <= report
    first, second = sorted((run / "members").iterdir())
    assert [first.name, second.name] == [
        "000-test_resnet-fold0-seed0",
        "001-test_resnet-fold1-seed0",
    ]

    before = stamps(first)
    (second / "predictions.parquet").unlink()
    shutil.rmtree(run / "report")
    code, out, err = finished(place, "aggregate", run.name)
    assert (code, out) == (1, "")
    assert err == (
        f"lenshpc: member 1 (test_resnet fold 1 seed 0) of run {run.name} "
        f"has lost its predictions.parquet{told_reason(err)}; "
        f"rerun it with: lenshpc resume {run.name}\n"
    )

    code, _, err = finished(place, "resume", run.name, "--wait")
    assert code == 0, err
    assert "1 member submitted" in err
    assert stamps(first) == before
    assert (second / "predictions.parquet").is_file()
    assert (run / "report" / "report.html").is_file()

    states = json.loads(finished(place, "status", run.name, "--json")[1])
    assert [member["state"] for member in states["members"]] == ["DONE", "DONE"]
    assert states["report"] == "DONE"

    before = stamps(first), stamps(second), stamps(run / "report")
    code, out, _ = finished(place, *submit[:-1], "--json")
    assert (code, json.loads(out)) == (
        0,
        {"run": str(run), "members": [], "job": "", "report": ""},
    )
    assert (stamps(first), stamps(second), stamps(run / "report")) == before


def told_reason(err):
    """Return what the scheduler adds in brackets, if anything."""
    rest = err.partition("predictions.parquet")[2]
    return rest[: rest.index(";")] if rest.startswith(" (") else ""


def processes_of(run):
    """Return the command lines of living processes that name the run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(run) in line:
            found.append(line)
    return found


def wait_until(claim, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def heard_interrupts():
    """Let commands hear Ctrl-C even if these tests run as a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heard_interrupts")
def test_interrupt_while_waiting_leaves_no_process(place):
    process = start(place, *submission("--set", "train.epochs=5000", "--wait"))
    wait_until(lambda: any(place.glob("runs/*/members/000-*/metrics.jsonl")) or process.poll())
    assert process.poll() is None, process.communicate()
    (run,) = (place / "runs").iterdir()
    assert len(processes_of(run)) >= 3  # the queue, the member and submitit above it
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"stopped; continue with: lenshpc resume {run.name}" in err
    wait_until(lambda: not processes_of(run), seconds=15)
    ends = [read_events(path)[-1].what for path in run.glob("slurm/*_attempts.jsonl")]
    assert "stopped" in ends, "it saved what it had"
    assert finished(place, "status", run.name, "--json")[0] == 0


@pytest.mark.slow
def test_cancel_ends_one_member_then_all(place):
    code, out, err = finished(place, *submission("--set", "train.epochs=5000", "--json"))
    assert code == 0, err
    run = Path(json.loads(out)["run"])

    def states():
        lines = json.loads(finished(place, "status", run.name, "--json")[1])["members"]
        return [line["state"] for line in lines]

    wait_until(lambda: states()[1] == "RUNNING")
    assert finished(place, "cancel", run.name, "--member", "1")[0] == 0
    assert states()[1] == "CANCELLED"
    assert states()[0] in {"PENDING", "RUNNING"}
    assert finished(place, "cancel", run.name)[0] == 0
    wait_until(lambda: not processes_of(run), seconds=15)
    assert states() == ["CANCELLED", "CANCELLED"]
