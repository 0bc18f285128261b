"""States of members from what SLURM says, stood in for by scripts, and from their own marks."""

import json
import time

import pytest
from click.testing import CliRunner

from lenshpc.cli.main import main
from lenshpc.files import write_json
from lenshpc.launch import slurm
from lenshpc.launch.jobs import JobRecord, record
from lenshpc.launch.states import run_status, standings
from lenshpc.launch.usage import run_usage
from lenshpc.launch.words import list_titles
from lenshpc.run.completion import mark_done
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member

SILENT = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"
ACCOUNTS = """
8_0|COMPLETED|0:0|gpu1|7200
8_1|NODE_FAIL|1:0|gpu1|3600
8_1|PENDING|0:0|None assigned|0
8_2|OUT_OF_MEMORY|0:125|gpu2|60
9|PENDING|0:0|None assigned|0
"""
QUEUE = """
8_1|PENDING||BeginTime
8_3|RUNNING|gpu3|None
9|PENDING||Dependency
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Return a function that makes squeue and sacct print a text, or run a script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def install(**programs):
        for name, lines in programs.items():
            body = lines if "exit" in lines else f"cat <<'END'\n{lines.strip()}\nEND"
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)

    return install


@pytest.fixture
def sent(run):
    """Return a run of six members, sent as job 8 and reported on by job 9; 1 to 5 are not done."""
    run.paths.slurm.mkdir()
    for job_id, members in (("8", tuple(range(5))), ("9", ())):
        job = JobRecord(
            job_id=job_id,
            scheduler="slurm",
            site="big",
            members=members,
            submitted="2026-01-02T03:04:05+00:00",
        )
        record(run.paths, job)
    for member in run.plan.members[1:]:
        run.paths.member(member.name).done.unlink()
    return run


def told(run):
    status = run_status(run.paths, run.plan)
    lines = [(line.state, line.node, line.gpu_hours, line.reason) for line in status.members]
    return lines, status.report, status.has_ended


@pytest.mark.parametrize(
    ("facts", "gpus", "unit"),
    [
        ({"device": "cpu"}, "0", "process"),
        ({"device": "NVIDIA A100"}, "", "GPU"),
        ({"device": "NVIDIA A100", "adopted": "other-1/000"}, "", "process"),
        ({}, "", "process"),
        ({}, "0", "GPU"),
    ],
)
def test_hours_are_of_gpus_only_where_members_have_some(run, facts, gpus, unit, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    run.paths.slurm.mkdir()
    write_json(run.paths.site, {"name": "here", "scheduler": "local"})
    for member in run.plan.members:
        mark_done(run.paths, run.plan, member, {}, {"epochs": 4, **facts})
    status = run_status(run.paths, run.plan)
    assert (status.as_json()["unit"], list_titles(status)[4]) == (unit, f"{unit}-h")
    usage = run_usage(run.paths, run.plan)
    assert (usage.unit, usage.estimate_hours) == {
        "GPU": ("GPU", run.plan.gpu_hours_ceiling),
        "process": ("core", run.plan.core_hours_ceiling),
    }[unit]


def test_accounting_and_queue_are_joined(sent, tools):
    tools(sacct=ACCOUNTS, squeue=QUEUE)
    own_h = round(4 / 3600, 4)  # the seconds of four epochs, as accounting has none
    assert told(sent) == (
        [
            ("DONE", "gpu1", 2.0, ""),
            ("PENDING", "", 1.0, "starts at a later time, as a requeued job does (BeginTime)"),
            ("FAILED", "gpu2", 0.0167, "job 8_2 ended OUT_OF_MEMORY"),
            ("RUNNING", "gpu3", own_h, ""),
            ("FAILED", "", own_h, "job 8_4 ended unseen by the scheduler"),
            ("NOT SUBMITTED", "", own_h, ""),
        ],
        "PENDING",
        False,
    )


def test_job_that_ended_well_without_results_says_so(sent, tools):
    tools(sacct="8_1|COMPLETED|0:0|gpu1|7200", squeue="exit 0")
    line = run_status(sent.paths, sent.plan).members[1]
    assert (line.state, line.reason) == (
        "FAILED",
        "its job succeeded, but its results are missing",
    )


def test_failure_is_named_with_its_advice_and_the_end_of_its_log(sent, tools):
    tools(sacct=ACCOUNTS, squeue=QUEUE)
    log = sent.paths.slurm / "8_4_0_log.out"
    log.write_text("epoch 1\nRuntimeError: CUDA error: uncorrectable ECC error encountered\n")
    status = run_status(sent.paths, sent.plan)
    assert {line.index: line.failure.name for line in status.members if line.failure} == {
        2: "OUT OF MEMORY",
        4: "GPU FAULT",
    }
    failure = status.as_json()["members"][4]["failure"]
    assert failure["action"] == "exclude node"
    assert failure["advice"] == "tell the site the node's name"
    assert list(failure["tail"]) == log.read_text().splitlines()
    assert status.members[4].reason == (
        "job 8_4 ended unseen by the scheduler: "
        "RuntimeError: CUDA error: uncorrectable ECC error encountered"
    )


KILL_LINE = "slurmstepd: error: *** JOB 8 ON gpu1 CANCELLED AT 2026-01-02T03:04:05 ***"


def test_cancelled_members_are_no_failures(sent, tools):
    tools(
        sacct="8_0|COMPLETED|0:0|gpu1|7200\n"
        "8_1|CANCELLED by 1000|0:15|gpu1|3600\n"
        "8_2|CANCELLED by 1000|0:0|None assigned|0\n"
        "8_3|CANCELLED by 1000|0:9|gpu[1-2]|60\n"
        "8_4|CANCELLED by 1000|0:15|gpu1|60\n"
        "9|CANCELLED by 1000|0:0|None assigned|0",
        squeue="exit 0",
    )
    logs = {
        1: KILL_LINE,
        3: f"DistNetworkError: Connection reset by peer\n{KILL_LINE}",
        4: f"ValueError: bad\n{KILL_LINE}",
    }
    for index, text in logs.items():
        (sent.paths.slurm / f"8_{index}_0_log.out").write_text(text)
    status = run_status(sent.paths, sent.plan)
    lines = [(line.state, line.reason) for line in status.members]
    assert lines == [
        ("DONE", ""),
        *(("CANCELLED", f"job 8_{index} was cancelled") for index in (1, 2, 3)),
        ("FAILED", "job 8_4 ended CANCELLED: ValueError: bad"),
        ("NOT SUBMITTED", ""),
    ]
    assert {line.failure.name for line in status.members[1:4]} == {"CANCELLED"}
    assert [line["state"] for line in status.as_json()["members"]].count("CANCELLED") == 3
    assert (status.report, status.has_ended) == ("CANCELLED", True)
    steps = {index: one.step for index, one in standings(sent.paths, sent.plan).items()}
    assert steps == dict.fromkeys(range(1, 6), "resume") | {4: "correct"}


def test_cancelled_member_is_told_by_its_log_where_slurm_has_forgotten_it(sent, tools):
    tools(sacct="exit 1", squeue="exit 0")
    (sent.paths.slurm / "8_1_0_log.out").write_text(KILL_LINE)
    line = run_status(sent.paths, sent.plan).members[1]
    assert (line.state, line.reason) == ("CANCELLED", "job 8_1 was cancelled")


def test_job_that_runs_again_shows_no_reason_of_the_time_it_waited(sent, tools):
    tools(sacct="exit 0", squeue="8_1|RUNNING|gpu3|BeginTime\n8_2|COMPLETING|gpu3|Resources")
    assert told(sent)[0][1:3] == [
        (state, "gpu3", round(4 / 3600, 4), "") for state in ("RUNNING", "COMPLETING")
    ]


def test_state_that_is_not_known_here_waits_and_nothing_is_sent_again(sent, tools):
    tools(sacct="exit 0", squeue="8_1|PONDERING||Thoughts")
    assert told(sent)[0][1][0] == "PONDERING"
    assert standings(sent.paths, sent.plan)[1].step == "wait"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "jobs of higher priority go first (Priority)"),
        ("Resources", "waits for free nodes (Resources)"),
        (
            "(JobArrayTaskLimit)",
            "max_parallel of the site profile: as many members are running already "
            "(JobArrayTaskLimit)",
        ),
        (
            "QOSMaxJobsPerUserLimit",
            "a limit of the QOS on your jobs is reached (QOSMaxJobsPerUserLimit)",
        ),
        (
            "AssocGrpGRES",
            "a limit of your account on all its jobs is reached (AssocGrpGRES)",
        ),
        (
            "DependencyNeverSatisfied",
            "what it waits for failed, so it never starts; cancel it, then resume "
            "(DependencyNeverSatisfied)",
        ),
        ("Dependency", "waits for other jobs to end (Dependency)"),
        (
            "ReqNodeNotAvail, UnavailableNodes:gpu[1-3]",
            "a node that it needs is down, drained or reserved "
            "(ReqNodeNotAvail, UnavailableNodes:gpu[1-3])",
        ),
        ("Cleaning", "Cleaning"),
        ("None", ""),
    ],
)
def test_reason_of_a_job_that_waits_is_told_in_words(sent, tools, reason, words):
    tools(sacct="exit 1", squeue=f"8_1|PENDING||{reason}\n9|PENDING||{reason}")
    status = run_status(sent.paths, sent.plan)
    assert (status.members[1].reason, status.report_reason) == (words, words)


def test_report_that_failed_though_all_members_are_done_says_how_it_ended(sent, tools):
    tools(sacct="exit 1", squeue="9|FAILED||None")
    (sent.paths.slurm / "9_0_log.out").write_text("ValueError: bad\n")
    assert run_status(sent.paths, sent.plan).report_reason == ""
    for index in range(1, 6):
        sent.finish(index, sent.predictions(index))
    status = run_status(sent.paths, sent.plan)
    assert status.report == "FAILED"
    assert status.report_reason == "job 9 ended FAILED: ValueError: bad"


@pytest.mark.parametrize(
    ("accounts", "queue"),
    [
        ("8_1|FAILED|0:53|gpu4|0", "8_1|FAILED|gpu4|JobLaunchFailure"),
        ("8_1|FAILED|0:53|gpu4|0", "exit 0"),
        ("exit 1", "8_1|FAILED|gpu4|JobLaunchFailure"),
    ],
    ids=["both", "accounting alone", "queue alone"],
)
def test_job_that_left_no_log_is_told_by_node_and_folder(sent, tools, accounts, queue):
    tools(sacct=accounts, squeue=queue)
    line = run_status(sent.paths, sent.plan).members[1]
    told = f"node gpu4 does not see {sent.paths.slurm}, or may not write there: no log was begun"
    assert (line.state, line.reason) == ("FAILED", f"job 8_1 ended FAILED: {told}")
    assert (line.failure.name, line.failure.node) == ("NO SHARED FILES", "gpu4")


def test_queue_answers_alone_without_accounting(sent, tools):
    tools(sacct="exit 1", squeue=QUEUE)
    lines, report, _ = told(sent)
    assert [line[0] for line in lines[1:4]] == ["PENDING", "FAILED", "RUNNING"]
    assert report == "PENDING"


def test_nothing_is_called_failed_while_nobody_answers(sent, tools):
    tools(sacct="exit 1", squeue=SILENT)
    lines, report, has_ended = told(sent)
    assert [line[0] for line in lines] == ["DONE", *["UNKNOWN"] * 4, "NOT SUBMITTED"]
    silence = "squeue failed: slurm_load_jobs error: Unable to contact slurm controller"
    assert {line[3] for line in lines[1:5]} == {silence}
    assert (report, has_ended) == ("UNKNOWN", False)


@pytest.mark.parametrize(
    ("verb", "begins"),
    [
        ("clean", "the state of its jobs is unknown: "),
        ("cancel", "nothing was cancelled: "),
        ("resume", "nothing was submitted: "),
    ],
)
def test_command_that_nobody_answers_says_so_in_one_line(sent, tools, monkeypatch, verb, begins):
    monkeypatch.setattr(slurm.ask, "__defaults__", ((),))
    tools(sacct="exit 1", squeue=SILENT)
    sent.paths.site.write_text('{"name": "big", "scheduler": "slurm", "partition": "gpu"}')
    done = CliRunner().invoke(main, [verb, sent.paths.name])
    silence = "squeue failed: slurm_load_jobs error: Unable to contact slurm controller; try again"
    expected = f"lenshpc: {begins.format(name=sent.paths.name)}{silence}\n"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", expected)


def test_one_that_trains_tells_how_far_its_epoch_is_and_when_it_ends(sent, tools):
    tools(sacct=ACCOUNTS, squeue=QUEUE)
    paths = sent.paths.member(sent.plan.members[3].name)
    state = {
        "epoch": 4,
        "step": 30,
        "steps": 120,
        "left_s": 60.0,
        "best_metric": 0.75,
        "host": "gpu3",
        "updated": 1_800_000_000.0,
    }
    paths.state.write_text(json.dumps(state))
    status = run_status(sent.paths, sent.plan)
    line = status.members[3]
    ends = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(1_800_000_060))
    assert (line.epoch, line.fraction, line.best_metric, line.estimated_end) == (
        4,
        0.25,
        0.75,
        ends,
    )
    assert line.left_s == pytest.approx(1_800_000_060 - time.time(), abs=10)
    assert line.curve == pytest.approx([1 - 0.3 * 0.7**epoch for epoch in range(4)])
    told = status.as_json()["members"][3]
    assert {key: told[key] for key in ("epoch", "fraction", "left_s", "estimated_end")} == {
        "epoch": 4,
        "fraction": 0.25,
        "left_s": line.left_s,
        "estimated_end": ends,
    }
    assert "curve" not in told


@pytest.mark.slow
def test_status_of_ten_thousand_members_takes_seconds(run, tools, tmp_path):
    members = tuple(Member(index=at, model="resnet18", fold=0, seed=at) for at in range(10_000))
    plan = run.plan.model_copy(update={"members": members})
    big = RunPaths(tmp_path / "big")
    big.slurm.mkdir(parents=True)
    source = run.paths.member(run.plan.members[0].name)
    files = json.loads(source.done.read_text())["files"]
    for member in members:
        paths = big.member(member.name)
        paths.root.mkdir(parents=True)
        for name in files:
            (paths.root / name).touch()
        mark_done(big, plan, member, {paths.root / name: files[name] for name in files}, {})
    job = JobRecord(
        job_id="8",
        scheduler="slurm",
        site="big",
        members=tuple(range(10_000)),
        submitted="2026-01-02T03:04:05+00:00",
    )
    record(big, job)
    lines = "\n".join(f"8_{at}|COMPLETED|0:0|gpu1|7200" for at in range(10_000))
    tools(sacct=lines, squeue="exit 0")
    began = time.process_time()
    status = run_status(big, plan)
    used_s = time.process_time() - began
    assert {line.state for line in status.members} == {"DONE"}
    assert used_s < 4, f"{used_s:.2f} s"
