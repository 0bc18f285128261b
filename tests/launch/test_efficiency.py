"""What was asked for and what was used, from accounting and from what ranks measured."""

from datetime import datetime
from pathlib import Path

import pytest
from ranks import planned, recipe

from lenshpc.cli.usage import format_usage
from lenshpc.launch import jobs
from lenshpc.launch.accounting import Allocation, parse_allocations
from lenshpc.launch.efficiency import Use, combine, format_use, judge
from lenshpc.launch.usage import Attempt, Usage, run_usage
from lenshpc.run.attempts import Event
from lenshpc.run.measured import Measured, read_measured
from lenshpc.run.sections import Resources

FIXTURES = Path(__file__).parent / "fixtures"
KIB, GIB = 1024, 1024**3


def at(text):
    return datetime.fromisoformat(text).timestamp()  # sacct speaks local time


def attempts_in(version):
    return parse_allocations((FIXTURES / f"{version}-usage.txt").read_text())


def test_usage_of_22_05_joins_steps_to_their_attempt():
    # what the kernel told of two tasks of 300 and 100 MiB that computed; the first was requeued
    asked = {"cpus_asked": 2, "memory_asked_bytes": 1000 * KIB**2, "num_cpus": 2}
    element = {**asked, "job_id": "16836402_0", "nodes": "node1", "num_gpus": 1}
    assert attempts_in("22.05") == [
        Allocation(
            **{**asked, "job_id": "16836403", "nodes": "node2", "num_gpus": 0},
            state="COMPLETED",
            start=at("2026-11-29T16:06:18"),
            elapsed_s=14,
            cpu_s=2.926,
            memory_bytes=2 * 218222 * KIB,
        ),
        Allocation(
            **element,
            state="REQUEUED",
            start=at("2026-11-29T16:06:18"),
            elapsed_s=4,
            cpu_s=0.321,
            memory_bytes=2 * 23476 * KIB,
        ),
        Allocation(
            **{**element, "job_id": "16836402_1"},
            state="COMPLETED",
            start=at("2026-11-29T16:06:18"),
            elapsed_s=15,
            cpu_s=2.967,
            memory_bytes=2 * 218128 * KIB,
        ),
        Allocation(
            **element,
            state="COMPLETED",
            start=at("2026-11-29T16:06:31"),
            elapsed_s=6,
            cpu_s=2.098,
            memory_bytes=2 * 218198 * KIB,
        ),
    ]


def test_usage_of_20_11_with_days_fractions_and_types_alone():
    assert attempts_in("20.11") == [
        Allocation(
            job_id="7001_3",
            state="COMPLETED",
            start=at("2021-03-01T08:00:00"),
            elapsed_s=93784,
            num_gpus=8,
            num_cpus=32,
            nodes="gpu[01-02]",
            cpus_asked=32,
            memory_asked_bytes=187.5 * GIB,
            cpu_s=8 * 86400 + 8 * 3600,
            memory_bytes=8 * 4 * GIB,
        )
    ]


def test_usage_of_24_05_while_a_job_runs_is_not_measured_yet():
    assert attempts_in("24.05") == [
        Allocation(
            job_id="81240",
            state="RUNNING",
            start=at("2024-06-01T10:00:00"),
            elapsed_s=600,
            num_gpus=1,
            num_cpus=8,
            nodes="gpu007",
            cpus_asked=4,
            memory_asked_bytes=32 * GIB,
        )
    ]


def test_usage_of_25_05_where_memory_is_not_asked_for_and_a_node_was_lost():
    common = {"job_id": "5500_0", "num_gpus": 1, "num_cpus": 4, "cpus_asked": 4}
    assert attempts_in("25.05") == [
        Allocation(
            **common,
            state="NODE_FAIL",
            start=at("2025-07-01T10:00:00"),
            elapsed_s=120,
            nodes="n1",
        ),
        Allocation(
            **common,
            state="OUT_OF_MEMORY",
            start=at("2025-07-01T10:05:00"),
            elapsed_s=3661,
            nodes="n2",
            cpu_s=3661,
            memory_bytes=16 * GIB,
        ),
    ]


RESOURCES = Resources(nodes=1, gpus_per_node=2, cpus_per_gpu=2, mem_gb_per_gpu=8)
ATTEMPT = Allocation(job_id="5", state="FAILED", start=0, elapsed_s=100, num_gpus=2, num_cpus=4)
RANKS = [
    Measured(
        job="5",
        restart=0,
        rank=rank,
        node="n1",
        updated=90.0,
        seconds=80.0,
        cpu_s=44.0,
        memory_bytes=(1 + rank) * GIB,
        gpu_busy=(0.9, 0.94)[rank],
        gpu_busy_peak=(0.99, 1.0)[rank],
        gpu_memory_bytes=(10, 11)[rank] * GIB,
        gpu_memory_total_bytes=80 * GIB,
        tflops=(78.0, None)[rank],
        peak_tflops=(312.0, None)[rank],
    )
    for rank in range(2)
]
ASKED = {"gpus_asked": 2, "cpus_asked": 4, "memory_gb_asked": 16.0}
GPU = {
    "gpu_busy": pytest.approx(0.92),
    "gpu_busy_peak": 1.0,
    "gpu_memory_gb": 11.0,
    "gpu_memory_total_gb": 80.0,
    "tflops": 78.0,
    "peak_share": 0.25,
}


def test_ranks_processors_and_memory_add_up_and_gpus_are_averaged():
    assert judge(ATTEMPT, RANKS, RESOURCES) == Use(**ASKED, cpus=1.1, memory_gb=3.0, **GPU)


def test_accounting_counts_for_processors_and_memory_where_it_knows_them():
    told = {"cpu_s": 250.0, "memory_bytes": 5.0 * GIB, "cpus_asked": 8}
    one = Allocation(**{**vars(ATTEMPT), **told, "memory_asked_bytes": 64 * GIB})
    asked = {"gpus_asked": 2, "cpus_asked": 8, "memory_gb_asked": 64.0}
    assert judge(one, RANKS, RESOURCES) == Use(**asked, cpus=2.5, memory_gb=5.0, **GPU)


def test_sum_that_lacks_a_rank_is_not_known():
    found = judge(ATTEMPT, RANKS[:1], RESOURCES)
    assert (found.cpus, found.memory_gb, found.gpu_busy) == (None, None, 0.9)


def test_nothing_measured_is_none_and_never_0():
    assert judge(ATTEMPT, [], RESOURCES) == Use(**ASKED)
    assert combine([(100.0, Use(**ASKED))]) == Use(**ASKED)
    assert combine([]) is None


def test_attempts_weigh_by_their_time_and_the_unmeasured_ones_do_not():
    uses = [
        (300.0, Use(**ASKED, cpus=1.0, memory_gb=2.0, gpu_busy=0.2, gpu_busy_peak=0.5, tflops=8.0)),
        (100.0, Use(**ASKED, cpus=3.0, memory_gb=9.0, gpu_busy=0.6, gpu_memory_gb=5.0, tflops=4.0)),
        (999.0, Use(**ASKED)),
    ]
    assert combine(uses) == Use(
        **ASKED,
        cpus=1.5,
        memory_gb=9.0,
        gpu_busy=0.3,
        gpu_busy_peak=0.5,
        gpu_memory_gb=5.0,
        tflops=7.0,
    )


@pytest.mark.parametrize(
    ("use", "line"),
    [
        (
            Use(
                gpus_asked=1,
                cpus_asked=4,
                memory_gb_asked=16.0,
                cpus=1.1,
                memory_gb=3.04,
                gpu_busy=0.923,
                gpu_memory_gb=11.2,
                gpu_memory_total_gb=79.6,
            ),
            "4 CPUs asked, 1.1 used; 16 GB asked, 3.0 used; GPU 92 % busy, 11 of 80 GB",
        ),
        (
            Use(gpus_asked=0, cpus_asked=1, memory_gb_asked=1.9, cpus=0.96, memory_gb=0.4),
            "1 CPU asked, 1.0 used; 1.9 GB asked, 0.4 used",
        ),
        (
            Use(gpus_asked=8, cpus_asked=128, memory_gb_asked=1000.0, gpu_memory_gb=1.0),
            "128 CPUs asked, not measured; 1000 GB asked, not measured; 8 GPUs not measured",
        ),
        (
            Use(**ASKED, gpu_busy=0.5, tflops=41.2, peak_share=0.132),
            "4 CPUs asked, not measured; 16 GB asked, not measured; 2 GPUs 50 % busy, "
            "41 TFLOP/s (13 % of the peak)",
        ),
        (  # a MIG slice has no utilisation of its own
            Use(**ASKED, gpu_memory_gb=1.0, gpu_memory_total_gb=9.75),
            "4 CPUs asked, not measured; 16 GB asked, not measured; 2 GPUs 1.0 of 9.8 GB",
        ),
    ],
)
def test_use_in_a_line(use, line):
    assert format_use(use) == line


@pytest.fixture
def sent(tmp_path, spots, monkeypatch):
    """Return a run of three members whose first job was requeued, and its Plan; no accounting."""
    monkeypatch.setenv("PATH", "")
    asked = recipe(resources={"gpus_per_node": 1, "time_min": 60}, data={"loading": "stream"})
    run, plan = planned(tmp_path, spots, asked)
    job = jobs.JobRecord(
        job_id="12", scheduler="slurm", site="here", members=(0, 1, 2), submitted=jobs.now()
    )
    jobs.record(run, job)
    return run, plan


def tell(run, job, *events):
    lines = [f"{event.model_dump_json()}\n" for event in events]
    run.attempts(job).write_text("".join(lines))


def measure(run, job, restart, **changes):
    """Note what the only rank of an attempt measured in a minute."""
    facts = {"updated": 0.0, "seconds": 60.0, "cpu_s": 90.0, "memory_bytes": 2 * GIB, **changes}
    one = Measured(job=job, restart=restart, rank=0, node="n1", **facts)
    path = run.usage(f"{job}.{restart}", 0)
    path.parent.mkdir(exist_ok=True)
    path.write_text(one.model_dump_json())


def test_usage_is_told_by_attempt_and_idle_gpus_are_warned_of(sent):
    run, plan = sent
    tell(
        run,
        "12_0",
        Event(what="started", restart=0, time=1000.0, member=0),
        Event(what="requeued", restart=0, time=1060.0, cause="crash"),
        Event(what="started", restart=1, time=2000.0, member=0),
    )
    tell(run, "12_2", Event(what="started", restart=0, time=1000.0, member=2))
    gpu = {"gpu_memory_bytes": 4 * GIB, "gpu_memory_total_bytes": 40 * GIB}
    measure(run, "12_0", 0, updated=1059.0, gpu_busy=0.1, **gpu)
    measure(run, "12_0", 1, updated=2180.0, gpu_busy=0.3, **gpu)
    measure(run, "12_2", 0, updated=1060.0, gpu_busy=0.125)
    run.usage("12_1.0", 0).write_text('{"job": 3}')  # damaged: nothing is known, and no error
    usage = run_usage(run, plan)
    assert [(one.job, one.number, one.elapsed_s, one.use.cpus) for one in usage.attempts] == [
        ("12_0", 1, 60.0, 1.5),
        ("12_0", 2, 180.0, 1.5),  # until the last sign of life: what it measured
        ("12_2", 1, 60.0, 1.5),
    ]
    assert format_usage(usage) == (
        """\
member 0: 2 attempts, 0.07 GPU-hours, 0.07 wasted
  1. job 12_0, REQUEUED:
     4 CPUs asked, 1.5 used; 16 GB asked, 2.0 used; GPU 10 % busy, 4.0 of 40 GB
  2. job 12_0, STARTED:
     4 CPUs asked, 1.5 used; 16 GB asked, 2.0 used; GPU 30 % busy, 4.0 of 40 GB
member 2: 1 attempt, 0.02 GPU-hours, 0.02 wasted
  4 CPUs asked, 1.5 used; 16 GB asked, 2.0 used; GPU 12 % busy
all: 0.08 GPU-hours, 0.08 wasted, of at most 3.00; from heartbeats
  4 CPUs asked, 1.5 used; 16 GB asked, 2.0 used; GPU 22 % busy, 4.0 of 40 GB
warning: the GPUs of members 0, 2 computed for 12 to 25 % of the time only; what
  may help: a larger train.batch_size, more resources.cpus_per_gpu or
  data.loading=resident"""
    )
    found = usage.as_json()
    assert (
        found["members"]["2"]["use"]
        == found["attempts"][2]["use"]
        == vars(
            Use(
                gpus_asked=1,
                cpus_asked=4,
                memory_gb_asked=16.0,
                cpus=1.5,
                memory_gb=2.0,
                gpu_busy=0.125,
            )
        )
    )
    assert found["warnings"] == usage.warnings


def test_gpus_that_accounting_does_not_count_are_those_of_the_plan(sent, tmp_path, monkeypatch):
    run, plan = sent
    given = "billing=4,cpu=4,mem=16G,node=1"
    line = f"12_0|COMPLETED|2026-11-29T16:00:00|3600|{given}|{given}|01:00:00||||n1"
    (tmp_path / "sacct").write_text(f"#!/bin/sh\necho '{line}'\n")
    (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    measure(run, "12_0", 0, updated=at("2026-11-29T16:59:00"), gpu_busy=0.5)
    assert format_usage(run_usage(run, plan)) == (
        """\
member 0: 1 attempt, 1.00 GPU-hours, 1.00 wasted
  4 CPUs asked, 1.0 used; 16 GB asked, 2.0 used; GPU 50 % busy
all: 1.00 GPU-hours, 1.00 wasted, of at most 3.00; from sacct
  4 CPUs asked, 1.0 used; 16 GB asked, 2.0 used; GPU 50 % busy"""
    )


def test_long_figures_are_cut_between_them_at_80_columns():
    use = Use(
        gpus_asked=64,
        cpus_asked=1024,
        memory_gb_asked=4096.0,
        cpus=555.0,
        memory_gb=1234.0,
        gpu_busy=0.5,
        gpu_memory_gb=70.0,
        gpu_memory_total_gb=79.6,
    )
    one = Attempt(
        member=0,
        model="resnet18",
        fold=0,
        seed=0,
        number=1,
        job="123456_0",
        state="COMPLETED",
        nodes="n[1-8]",
        hours=12345.678,
        useful_hours=10000.0,
        elapsed_s=3600.0,
        use=use,
    )
    usage = Usage(unit="GPU", source="sacct", estimate_hours=99999.0, attempts=(one,))
    assert format_usage(usage).splitlines() == [
        "member 0: 1 attempt, 12345.68 GPU-hours, 2345.68 wasted",
        "  1024 CPUs asked, 555 used; 4096 GB asked, 1234 used;",
        "  64 GPUs 50 % busy, 70 of 80 GB",
        "all: 12345.68 GPU-hours, 2345.68 wasted, of at most 99999.00; from sacct",
        "  1024 CPUs asked, 555 used; 4096 GB asked, 1234 used;",
        "  64 GPUs 50 % busy, 70 of 80 GB",
    ]


def test_every_attempt_of_this_machine_counts_also_where_a_process_number_comes_again(sent):
    run, plan = sent
    run.jobs.unlink()
    tell(
        run,
        "77",
        Event(what="started", restart=0, time=1000.0, member=1),
        Event(what="saved", restart=0, time=1010.0),
        Event(what="saved", restart=0, time=1100.0, epoch=1),
        Event(what="stopped", restart=0, time=1110.0, cause="preemption"),
        Event(what="started", restart=0, time=9000.0, member=2),
        Event(what="saved", restart=0, time=9010.0),
        Event(what="failed", restart=0, time=9060.0, cause="error"),
    )
    tell(
        run,
        "78",
        Event(what="started", restart=0, time=2000.0, member=1),
        Event(what="saved", restart=0, time=2010.0, epoch=1),
        Event(what="saved", restart=0, time=2050.0, epoch=2),
    )
    measure(run, "77", 0, updated=9060.5)  # the file of the first 77 is overwritten
    measure(run, "78", 0, updated=2050.25)
    found = [
        (one.member, one.number, one.job, one.hours * 3600, one.useful_hours * 3600, one.use.cpus)
        for one in run_usage(run, plan).attempts
    ]
    assert found == [
        (1, 1, "77", pytest.approx(110), pytest.approx(100), None),
        (1, 2, "78", pytest.approx(50.25), pytest.approx(50), 1.5),
        (2, 1, "77", pytest.approx(60.5), pytest.approx(0), 1.5),
    ]


def test_attempt_that_lives_on_beside_the_next_is_not_counted_twice(sent):
    run, plan = sent
    tell(
        run,
        "12_0",
        Event(what="started", restart=0, time=1000.0, member=0),
        Event(what="started", restart=1, time=2000.0, member=0),
    )
    measure(run, "12_0", 0, updated=2100.0, cpu_s=9.0)
    measure(run, "12_0", 1, updated=2090.0, cpu_s=30.0)
    assert [one.use.cpus for one in run_usage(run, plan).attempts] == [None, 0.5]


def test_run_that_measured_nothing(tmp_path, spots):
    run, _ = planned(tmp_path, spots, recipe())
    assert read_measured(run) == {}
