"""The usage adds up, line by line, to what accounting and the members' events say."""

from datetime import datetime

import pytest
from ranks import planned, recipe

from lenshpc.launch import jobs
from lenshpc.launch.accounting import Allocation, parse_allocations
from lenshpc.launch.usage import Cost, Usage, account, find_saves, rebuild_attempts, run_usage
from lenshpc.run.attempts import Event
from lenshpc.run.plan import Member, Plan

# sacct -X -D -n -P of an array: element 0 lost its node and came back, 1 is done, 2 waits
SACCT = """\
900_0|NODE_FAIL|2026-11-21T08:00:00|1800|billing=4,cpu=4,gres/gpu=2,mem=8G,node=1||||||node1
900_0|COMPLETED|2026-11-21T09:00:00|3600|billing=4,cpu=4,gres/gpu=2,mem=8G,node=1||||||node2
900_1|COMPLETED|2026-11-21T08:00:00|7200|billing=4,cpu=4,gres/gpu:a100=2,gres/gpu=2,mem=8G||||||node3
900_2|PENDING|Unknown|0|||||||None assigned
901|CANCELLED by 1000|2026-11-21T10:00:00|900|billing=4,cpu=4,gres/gpu=2,mem=8G,node=1||||||node1
"""
EIGHT = datetime.fromisoformat("2026-11-21T08:00:00").timestamp()  # sacct speaks local time
JOBS = {"900_0": 0, "900_1": 1, "900_2": 2, "901": 2}


@pytest.fixture
def plan(tmp_path):
    members = tuple(
        Member(index=index, model=model, fold=fold, seed=0)
        for index, (model, fold) in enumerate([("a", 0), ("a", 1), ("b", 0)])
    )
    return Plan(
        recipe=recipe(resources={"gpus_per_node": 2, "time_min": 120}, folds=2),
        store=tmp_path,
        store_hash="",
        dataset="spots",
        classes=("x", "y"),
        image_shape=(1, 8, 8),
        splits_hash="",
        code_version="",
        members=members,
    )


def table(attempts):
    return [
        (
            one.member,
            one.number,
            one.job,
            one.state,
            one.nodes,
            round(one.hours, 6),
            round(one.useful_hours, 6),
            round(one.wasted_hours, 6),
        )
        for one in attempts
    ]


def figures(cost):
    return tuple(round(value, 6) for name, value in vars(cost).items() if name != "use")


def test_sacct_gives_an_attempt_a_line_and_waste_since_the_last_checkpoint(plan):
    saved = {"900_0": [EIGHT + 600, EIGHT + 1500, EIGHT + 4000], "901": []}
    attempts = account(plan, JOBS, parse_allocations(SACCT), saved, {0, 1}, {})
    assert table(attempts) == [
        (0, 1, "900_0", "NODE_FAIL", "node1", 1.0, 0.833333, 0.166667),
        (0, 2, "900_0", "COMPLETED", "node2", 2.0, 2.0, 0.0),
        (1, 1, "900_1", "COMPLETED", "node3", 4.0, 4.0, 0.0),
        (2, 1, "901", "CANCELLED", "node1", 0.5, 0.0, 0.5),
    ]
    usage = Usage(
        unit="GPU", source="sacct", estimate_hours=plan.gpu_hours_ceiling, attempts=attempts
    )
    assert usage.estimate_hours == 3 * 2 * 2
    rounded = {
        key: {name: figures(cost) for name, cost in some.items()}
        for key, some in ((key, usage.by(key)) for key in ("member", "model", "fold"))
    }
    assert rounded == {
        "member": {
            0: (2, 3.0, 2.833333, 0.166667),
            1: (1, 4.0, 4.0, 0.0),
            2: (1, 0.5, 0.0, 0.5),
        },
        "model": {"a": (3, 7.0, 6.833333, 0.166667), "b": (1, 0.5, 0.0, 0.5)},
        "fold": {0: (3, 3.5, 2.833333, 0.666667), 1: (1, 4.0, 4.0, 0.0)},
    }
    assert usage.as_json()["total"] == {**vars(usage.total), "use": vars(usage.total.use)}
    assert figures(usage.total) == (4, 7.5, 6.833333, 0.666667)


def test_attempt_that_still_runs_has_wasted_nothing_yet(plan):
    running = "900_0|RUNNING|2026-11-21T08:00:00|3600|cpu=4,gres/gpu=2||||||node1\n"
    requeued = "900_0|REQUEUED|2026-11-21T07:00:00|1800|cpu=4,gres/gpu=2||||||node1\n"
    attempts = account(plan, JOBS, parse_allocations(running + requeued), {}, set(), {})
    assert [(one.state, one.useful_hours, one.wasted_hours) for one in attempts] == [
        ("REQUEUED", 0.0, 1.0),
        ("RUNNING", 2.0, 0.0),
    ]


def test_jobs_without_gpus_count_cores(plan):
    lines = SACCT.replace("gres/gpu:a100=2,", "").replace("gres/gpu=2,", "")
    attempts = account(plan, JOBS, parse_allocations(lines), {}, {0, 1}, {})
    assert [one.hours for one in attempts] == [2.0, 4.0, 8.0, 1.0]


# what SLURM 22.05.8 said of a job of 2 cores whose node was switched off
LOST = """\
5167705|NODE_FAIL|2026-11-21T09:01:32|15|billing=2,cpu=2,mem=100M,node=1||||||node2
5167705|RUNNING|2026-11-21T09:01:55|121|billing=2,cpu=2,mem=100M,node=1||||||node2
5167707|FAILED|2026-11-21T09:02:01|27|billing=2,cpu=2,mem=4000M,node=1||||||node1
"""


def test_real_lines_of_sacct_add_up(plan):
    attempts = account(plan, {"5167705": 0, "5167707": 1}, parse_allocations(LOST), {}, set(), {})
    seconds = [(round(one.hours * 3600), round(one.wasted_hours * 3600)) for one in attempts]
    assert list(zip([one.state for one in attempts], *zip(*seconds, strict=True), strict=True)) == [
        ("NODE_FAIL", 30, 30),
        ("RUNNING", 242, 0),
        ("FAILED", 54, 54),
    ]


def test_jobs_of_others_are_not_counted(plan):
    assert account(plan, {"7": 0}, parse_allocations(SACCT), {}, set(), {}) == ()


EVENTS = [
    Event(what="started", restart=0, time=100.0),
    Event(what="saved", restart=0, time=110.0),  # what it begins from
    Event(what="saved", restart=0, time=400.0, epoch=1),
    Event(what="saved", restart=0, time=1000.0, epoch=2),
    Event(what="requeued", restart=0, time=1900.0, cause="crash"),
    Event(what="started", restart=1, time=2000.0),
    Event(what="saved", restart=1, time=2010.0, epoch=2),
    Event(what="saved", restart=1, time=2900.0, epoch=3),
]


def test_first_checkpoint_of_an_attempt_is_what_it_goes_on_from():
    assert find_saves(EVENTS) == (400.0, 1000.0, 2900.0)
    assert find_saves(EVENTS[:2]) == ()


def test_members_own_events_stand_in_for_accounting(plan):
    found = rebuild_attempts("5", EVENTS, 2, 2)
    common = {"job_id": "5", "num_gpus": 2, "num_cpus": 2}
    assert found == [
        Allocation(state="REQUEUED", start=100.0, elapsed_s=1800.0, **common),
        Allocation(state="SAVED", start=2000.0, elapsed_s=900.0, **common),
    ]
    attempts = account(plan, {"5": 1}, found, {"5": find_saves(EVENTS)}, {1}, {})
    assert table(attempts) == [
        (1, 1, "5", "REQUEUED", "", 1.0, 0.5, 0.5),
        (1, 2, "5", "SAVED", "", 0.5, 0.5, 0.0),
    ]


def test_no_job_no_cost(plan):
    usage = Usage(unit="GPU", source="sacct", estimate_hours=1.0, attempts=())
    assert usage.total == Cost(attempts=0, hours=0, useful_hours=0, wasted_hours=0)
    assert usage.by("member") == {}


@pytest.mark.parametrize(
    ("size", "unit", "estimate", "cores"),
    [
        ({"gpus_per_node": 2}, "GPU", 6.0, 1),
        ({"gpus_per_node": 0, "tasks_per_node": 2, "cpus_per_gpu": 3}, "core", 18.0, 3),
    ],
)
def test_run_without_accounting_is_read_from_its_own_files(
    tmp_path, spots, monkeypatch, size, unit, estimate, cores
):
    monkeypatch.setenv("PATH", "")  # no sacct, also where SLURM is installed
    run, plan = planned(tmp_path, spots, recipe(resources={**size, "time_min": 60}))
    run.slurm.mkdir(exist_ok=True)
    job = jobs.JobRecord(
        job_id="12", scheduler="slurm", site="here", members=(0, 1, 2), submitted=jobs.now()
    )
    jobs.record(run, job)
    lines = [event.model_dump_json() + "\n" for event in EVENTS]
    run.attempts("12_1").write_text("".join(lines))
    usage = run_usage(run, plan)
    assert (usage.unit, usage.source, usage.estimate_hours) == (unit, "heartbeats", estimate)
    assert table(usage.attempts) == [
        (1, 1, "12_1", "REQUEUED", "", 1.0 * cores, 0.5 * cores, 0.5 * cores),
        (1, 2, "12_1", "SAVED", "", 0.5 * cores, 0.5 * cores, 0.0),
    ]
