"""What `lenshpc status` shows, on terminals of two widths and in a pipe, as whole texts."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from commands import start
from rich.console import Console

from lenshpc.cli.watch import render
from lenshpc.files import write_json
from lenshpc.launch.failures import find_failure
from lenshpc.launch.jobs import JobRecord, record
from lenshpc.launch.local import Queue, queue_path
from lenshpc.launch.states import MemberStatus, RunStatus

PRIORITY = "jobs of higher priority go first (Priority)"


def drawn(width, *members, run="lens-9f2c51ab", how=MappingProxyType({}), **facts):
    """Return the lines of a run's status; the console is narrower than any of them."""
    status = RunStatus(run=run, members=members, **{"report": "PENDING", **facts})
    console = Console(width=width or 20, no_color=True)
    with console.capture() as captured:
        console.print(render(status, width, **how), crop=False)
    return captured.get().splitlines()


def member(index, state, model="resnet18", **facts):
    facts = {"job": f"8123456_{index}", "epochs": 50, **facts}
    name = f"{index:03d}-{model}-fold{index}-seed0"
    return MemberStatus(index=index, name=name, state=state, **facts)


FAILURE = replace(
    find_failure("OUT OF MEMORY"),
    line="slurmstepd: error: Detected 1 oom_kill event in StepId=8123456.0.",
    tail=(
        "epoch 3/50: train loss 0.4",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=8123456.0. Some of the step tasks "
        "have been OOM Killed.",
    ),
)
FAILED = member(
    1,
    "FAILED",
    epoch=3,
    best_metric=0.875,
    gpu_hours=1.25,
    node="gpu[01-02]",
    reason=f"job 8123456_1 ended OUT_OF_MEMORY: {FAILURE.line}",
    failure=FAILURE,
)
RUNNING = member(
    0,
    "RUNNING",
    epoch=12,
    best_metric=0.9312,
    gpu_hours=4.5,
    node="gpu03",
    estimated_end="2026-01-02T03:04:05+00:00",
)
SOME = (
    RUNNING,
    FAILED,
    member(2, "PENDING", reason=PRIORITY),
    member(3, "PENDING", reason=PRIORITY),
)


@pytest.fixture(autouse=True)
def _greenwich(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")


def test_status_on_a_terminal_of_80_columns():
    assert drawn(80, *SOME, report_job="8123457", report_reason="waits") == [
        "lens-9f2c51ab",
        "member                    state    epoch  best    GPU-h  job        ends",
        "000-resnet18-fold0-seed0  RUNNING  12/50  0.9312  4.50   8123456_0  Fri 03:04",
        "001-resnet18-fold1-seed0  FAILED   3/50   0.8750  1.25   8123456_1",
        "    job 8123456_1 ended OUT_OF_MEMORY: slurmstepd: error: Detected 1 oom_kill",
        "    event in StepId=8123456.0.",
        "002-resnet18-fold2-seed0  PENDING  0/50           0.00   8123456_2",
        "003-resnet18-fold3-seed0  PENDING  0/50           0.00   8123456_3",
        "    jobs of higher priority go first (Priority)",
        "report                    PENDING                        8123457",
        "    waits",
        "",
        "OUT OF MEMORY, member 1: a process used more main memory than the job asked for",
        "  do: submit with a larger --set resources.mem_gb_per_gpu=N: the run continues;",
        "  or with --set data.loading=stream",
        "  | epoch 3/50: train loss 0.4",
        "  | slurmstepd: error: Detected 1 oom_kill event in StepId=8123456.0. Some of",
        "  | the step tasks have been OOM Killed.",
    ]


def test_status_on_a_terminal_of_200_columns():
    assert drawn(200, *SOME, report_job="8123457") == [
        "lens-9f2c51ab",
        "member                    state    epoch  best    GPU-h  job        node        ends",
        "000-resnet18-fold0-seed0  RUNNING  12/50  0.9312  4.50   8123456_0  gpu03       Fri 03:04",
        "001-resnet18-fold1-seed0  FAILED   3/50   0.8750  1.25   8123456_1  gpu[01-02]",
        f"    {FAILED.reason}",
        "002-resnet18-fold2-seed0  PENDING  0/50           0.00   8123456_2",
        "003-resnet18-fold3-seed0  PENDING  0/50           0.00   8123456_3",
        "    jobs of higher priority go first (Priority)",
        "report                    PENDING                        8123457",
        "",
        "OUT OF MEMORY, member 1: a process used more main memory than the job asked for",
        f"  do: {FAILURE.advice}",
        "  | epoch 3/50: train loss 0.4",
        f"  | {FAILURE.tail[1]}",
    ]


CURVES = (
    replace(RUNNING, curve=tuple(1 - 0.5**epoch for epoch in range(8))),
    replace(FAILED, reason="", failure=None, curve=(0.5, 0.75, 0.875)),
    member(2, "RUNNING", epoch=1, epochs=9, fraction=0.49, curve=(0.5,)),
)


def test_watched_run_has_a_curve_a_member_within_80_columns():
    assert drawn(80, *CURVES, report_job="8123457", how={"watching": True}) == [
        "lens-9f2c51ab",
        "member                    state    epoch  best    job        ends       curve",
        "000-resnet18-fold0-seed0  RUNNING  12/50  0.9312  8123456_0  Fri 03:04  ▁▅▆▇████",
        "001-resnet18-fold1-seed0  FAILED   3/50   0.8750  8123456_1             ▁▆█",
        "002-resnet18-fold2-seed0  RUNNING  1.4/9          8123456_2             ▄",
        "report                    PENDING                 8123457",
    ]


@pytest.mark.parametrize(("fraction", "told"), [(0, "2/15"), (0.49, "2.4/15"), (1, "2.9/15")])
def test_epoch_is_told_in_tenths_that_are_done(fraction, told):
    one = member(1, "CANCELLED", epoch=2, epochs=15, fraction=fraction)
    assert told in drawn(None, one)[2].split()


def test_curve_gives_way_first_where_nobody_watches_and_a_pipe_has_none():
    told = [drawn(width, *CURVES) for width in (80, 120, None)]
    assert ["curve" in "".join(lines) for lines in told] == [False, True, False]


def test_curve_is_drawn_in_letters_where_the_terminal_has_no_blocks():
    told = drawn(120, *CURVES, how={"ascii_only": True})
    assert [line.split()[-1] for line in told[2:5]] == ["_+*#@@@@", "_*@", "="]
    assert all(line.isascii() for line in told)


def test_status_in_a_pipe_is_a_line_a_row_whose_columns_are_always_there():
    told = drawn(None, *SOME)
    assert [line.split("  ")[0] for line in told[:6]] == [
        "lens-9f2c51ab",
        "member",
        *(f"00{at}-resnet18-fold{at}-seed0" for at in range(4)),
    ]
    assert [re.split("  +", line)[1:] for line in told[1:7]] == [
        ["state", "epoch", "best", "GPU-h", "job", "node", "ends", "note"],
        ["RUNNING", "12/50", "0.9312", "4.50", "8123456_0", "gpu03", "Fri 03:04", "-"],
        ["FAILED", "3/50", "0.8750", "1.25", "8123456_1", "gpu[01-02]", "-", FAILED.reason],
        ["PENDING", "0/50", "-", "0.00", "8123456_2", "-", "-", PRIORITY],
        ["PENDING", "0/50", "-", "0.00", "8123456_3", "-", "-", PRIORITY],
        ["PENDING", "-", "-", "-", "-", "-", "-", "-"],
    ]
    places = {told[at].index(word) for at, word in ((1, "state"), (2, "RUN"), (6, "PEND"))}
    assert places == {26}, "columns stand in line"
    assert told[7:] == [
        "",
        "OUT OF MEMORY, member 1: a process used more main memory than the job asked for",
        f"  do: {FAILURE.advice}",
        "  | epoch 3/50: train loss 0.4",
        f"  | {FAILURE.tail[1]}",
    ]


def test_many_members_in_one_state_are_a_line_with_their_few_reasons():
    waiting = [member(at, "PENDING", reason=PRIORITY) for at in range(1, 301)]
    assert drawn(80, RUNNING, *waiting) == [
        "lens-9f2c51ab",
        "member                    state    epoch  best    GPU-h  job        ends",
        "000-resnet18-fold0-seed0  RUNNING  12/50  0.9312  4.50   8123456_0  Fri 03:04",
        "300 members               PENDING                 0.00",
        f"    {PRIORITY}",
        "report                    PENDING",
    ]
    two = [replace(waiting[0], reason="waits for free nodes (Resources)"), *waiting[1:]]
    assert drawn(80, *two)[2:4] == [
        "300 members  PENDING  0.00",
        f"    299: {PRIORITY}; 1: waits for free nodes",
    ]
    failed = [member(at, "FAILED", gpu_hours=0.5, reason=f"job {at} ended") for at in range(300)]
    assert drawn(80, *failed, report="FAILED")[2:] == [
        "300 members  FAILED  150.00",
        "report       FAILED",
    ]
    assert len(drawn(80, *waiting[:100])) == 104
    assert len(drawn(80, *waiting[:101])) == 5


def test_long_names_are_never_folded():
    name = f"{'a_very_long_name_of_a_run' * 2}-{'9f2c51ab'}!"
    assert len(name) == 60
    long = member(7, "RUNNING", "vit_large_patch14_reg4_dinov2.lvd142m", epoch=12, gpu_hours=0.5)
    longer = member(7, "NOT SUBMITTED", "convnext_tiny.in12k_ft_in1k_384+without_augmentation" * 2)
    assert drawn(80, long, run=name) == [
        name,
        "member                                                 state    epoch  GPU-h",
        "007-vit_large_patch14_reg4_dinov2.lvd142m-fold7-seed0  RUNNING  12/50  0.50",
        "report                                                 PENDING",
    ]
    shown = drawn(80, longer, run=name)[2]
    assert len(shown) == 80
    assert shown.startswith("007-convnext_tiny.in12k_ft_in1k_")
    assert shown.endswith("without_augmentation-fold7-seed0  NOT SUBMITTED")
    assert drawn(None, longer)[2].startswith(f"{longer.name}  NOT SUBMITTED  0/50")
    folder = f"/{'deep/' * 30}plan.json"
    told = drawn(80, member(1, "FAILED", reason=f"job 1 ended: {folder} is gone"))
    assert told[3:6] == ["    job 1 ended:", f"    {folder}", "    is gone"]


def test_scheduler_that_is_silent_is_told_once():
    silence = "squeue failed: Unable to contact slurm controller"
    members = [member(at, "UNKNOWN", reason=silence) for at in range(2)]
    assert drawn(80, *members, report="UNKNOWN", silence=silence)[2:] == [
        "000-resnet18-fold0-seed0  UNKNOWN  0/50   0.00   8123456_0",
        "001-resnet18-fold1-seed0  UNKNOWN  0/50   0.00   8123456_1",
        "report                    UNKNOWN",
        f"not known: {silence}",
    ]


def test_kind_of_failure_is_told_once_for_all_its_members():
    failure = replace(find_failure("GPU FAULT"), node="gpu1", tail=("ECC",))
    members = [
        member(0, "FAILED", reason="no [store]", failure=failure),
        member(2, "FAILED", failure=replace(failure, node="gpu2", tail=("other",))),
        member(3, "CANCELLED", failure=find_failure("CANCELLED")),
    ]
    assert drawn(80, *members)[3:] == [
        "    no [store]",
        "002-resnet18-fold2-seed0  FAILED     0/50   0.00   8123456_2",
        "003-resnet18-fold3-seed0  CANCELLED  0/50   0.00   8123456_3",
        "report                    PENDING",
        "",
        "GPU FAULT on gpu1, gpu2, members 0, 2: a GPU, its memory or its link is broken",
        "  do: tell the site the node's name",
        "  | ECC",
        "",
        "CANCELLED, member 3: somebody cancelled it",
        "  do: to continue: lenshpc resume RUN",
    ]


# --- following -------------------------------------------------------------------------------


@pytest.fixture
def begun(run, monkeypatch):
    """Return a run of this machine's queue, whose process this test stands in for."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run.paths.slurm.mkdir()
    facts = {"scheduler": "local", "site": "local", "submitted": "2026-01-02T03:04:05+00:00"}
    record(run.paths, JobRecord(job_id="77", members=(0, 1), **facts))
    for member in run.plan.members[:2]:
        run.paths.member(member.name).done.unlink()
    return run


def test_watch_in_a_pipe_prints_a_line_when_something_changes(begun):
    paths = begun.paths

    def note(pid, *states, report=""):
        told = Queue(pid=pid, states=dict(enumerate(states)), report=report)
        write_json(queue_path(paths), told.model_dump(mode="json"))

    queue = subprocess.Popen(
        [sys.executable, "-c", "input()", str(paths.root)], stdin=subprocess.PIPE
    )
    note(queue.pid, "RUNNING", "PENDING")
    with start(Path.cwd(), "status", paths.name, "--watch") as watching:
        told = [watching.stderr.readline()]
        note(queue.pid, "RUNNING", "RUNNING")
        told.append(watching.stderr.readline())
        note(0, "CANCELLED", "CANCELLED", report="CANCELLED")
        queue.communicate(b"\n")
        told += watching.communicate(timeout=60)[1].splitlines()
    lines = [re.sub("^[0-9:]{8} ", "", line.rstrip()) for line in told]
    assert lines[:4] == [
        "4 DONE 1 RUNNING 1 PENDING; report PENDING",
        "4 DONE 2 RUNNING; report PENDING",
        "4 DONE 2 CANCELLED; report CANCELLED",
        paths.name,
    ]
    assert [line.split()[:2] for line in lines[5:7]] == [
        [begun.plan.members[0].name, "CANCELLED"],
        [begun.plan.members[1].name, "CANCELLED"],
    ]
    assert lines[-2:] == [
        f"run {paths.name} has no report; see {paths.slurm}",
        f"continue with: lenshpc resume {paths.name}",
    ]
    assert watching.returncode == 1
