"""How a study is sent: the jobs of a cluster and what they wait for, and the command itself."""

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import finished, start
from studies import began, formula, searching

from lenshpc.cli.main import main
from lenshpc.engine.signals import Signals
from lenshpc.errors import IncompleteError, LaunchError
from lenshpc.files import lock
from lenshpc.launch.jobs import records
from lenshpc.launch.sites import Site
from lenshpc.launch.tune import TuneCalls
from lenshpc.store import Store
from lenshpc.tuning.boards import ask_round, read_trials
from lenshpc.tuning.element import run_element
from lenshpc.tuning.send import begin_study, carry_on
from lenshpc.tuning.study import Study, StudySettings, plan_study

SITE = Site(name="big", scheduler="slurm", max_array_size=100, max_parallel=3)


def run_trial(root: str, element: int) -> None:
    """Stand for a trial: it is pickled, and never called."""


def run_single(root: str) -> None:
    """Stand for the other jobs."""


CALLS = TuneCalls(trial=run_trial, ask=run_single, finish=run_single)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Have sbatch number its jobs from 1 and keep their scripts; the others know of no job."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": f'cd {tmp_path}; cp "$2" job-$(ls | grep -c job-); ls | grep -c job-',
        "scancel": f'echo "$@" >> {tmp_path}/cancelled',
        **dict.fromkeys(("squeue", "sacct", "scontrol"), "exit 0"),
    }
    for name, lines in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def begun(folder: Path, store: Store, search: dict, site: Site = SITE) -> tuple[Study, dict]:
    asked = searching(search)
    study, planned = plan_study(asked, store, folder / "runs")
    base = planned.plan.fingerprint()
    settings = StudySettings(recipe=asked, base=base, runs=folder / "runs")
    return study, begin_study(study, planned, settings, site, CALLS, lambda _: None)


def jobs(folder: Path) -> list[tuple[str, str]]:
    """Return array and dependency of each job that was sent, in order."""
    scripts = [path.read_text() for path in sorted(folder.glob("job-*"))]
    return [
        tuple(
            (re.findall(rf"^#SBATCH --{key}=(\S+)", script, re.MULTILINE) or [""])[0]
            for key in ("array", "dependency")
        )
        for script in scripts
    ]


def test_trials_are_one_array_and_the_report_comes_after(spots: Store, slurm: Path) -> None:
    study, sent = begun(slurm, spots, {"trials": 7})
    assert jobs(slurm) == [("0-6%3", ""), ("", "afterany:1")]
    assert (sent["arrays"], sent["asked"], sent["report"]) == (["1"], [], "2")
    assert [job.members for job in records(study.base)] == [tuple(range(7)), ()]


def test_rounds_are_a_chain_of_jobs(spots: Store, slurm: Path) -> None:
    study, sent = begun(slurm, spots, {"trials": 5, "round_size": 2})
    assert jobs(slurm) == [
        ("", ""),
        ("0-1%2", "afterany:1"),
        ("", "afterany:2"),
        ("0-1%2", "afterany:3"),
        ("", "afterany:4"),
        ("", "afterany:5"),  # one trial alone is a plain job
        ("", "afterany:6"),
    ]
    assert (sent["arrays"], sent["asked"], sent["report"]) == (
        ["2", "4", "6"],
        ["1", "3", "5"],
        "7",
    )
    told = [job.members for job in records(study.base) if job.members]
    assert told == [(0, 1), (2, 3), (4,)]


def test_resumed_rounds_begin_with_the_trials_that_were_lost(spots: Store, slurm: Path) -> None:
    study, _ = begun(slurm, spots, {"trials": 6, "round_size": 2})
    assert ask_round(study) == 0
    run_element(study, 1, Signals(), formula())
    for path in slurm.glob("job-*"):
        path.unlink()
    sent = carry_on(Study(study.root), SITE, CALLS, lambda _: None)
    assert jobs(slurm)[:3] == [("", ""), ("", "afterany:1"), ("0-1%2", "afterany:2")]
    assert len(sent["arrays"]) == 3
    (lost, *later) = [job.members for job in records(study.base)][-6:]
    assert lost == (0,)
    assert later == [(), (2, 3), (), (4, 5), ()]


def test_second_command_leaves_a_study_to_the_one_that_runs_it(
    spots: Store, tmp_path: Path
) -> None:
    study = began(tmp_path, spots, searching({"trials": 1}))
    run_element(study, 0, Signals(), formula())
    here, said, ended = Site(name="here", scheduler="local"), list[str](), list[str]()
    finish = replace(CALLS, finish=ended.append)
    with lock(study.root / ".lock"), pytest.raises(IncompleteError, match="in use by another"):
        carry_on(study, here, finish, said.append)
    assert (said, ended) == ([], [])
    assert carry_on(study, here, finish, said.append) == {}
    assert ended == [str(study.base.root)]


def test_refused_study_is_taken_back(spots: Store, slurm: Path) -> None:
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2; exit 1\n")
    with pytest.raises(LaunchError, match="invalid partition"):
        begun(slurm, spots, {"trials": 3})
    assert not list((slurm / "runs").iterdir())


def test_study_that_was_sent_in_part_is_cancelled(spots: Store, slurm: Path) -> None:
    sbatch = slurm / "bin" / "sbatch"
    refusal = "echo Job violates accounting/QOS policy >&2; exit 1"
    sbatch.write_text(
        f"#!/bin/sh\n[ -e {slurm}/sent ] && {{ {refusal}; }}; touch {slurm}/sent; echo 8\n"
    )
    with pytest.raises(LaunchError, match="QOS policy"):
        begun(slurm, spots, {"trials": 3})
    assert (slurm / "cancelled").read_text() == "8\n"


def options(store: Store, *more: str) -> list[str]:
    sizes = {"epochs": 2, "batch_size": 16, "warmup_epochs": 0, "lr": 1e-3}
    changes = [f"--set=train.{key}={value}" for key, value in sizes.items()]
    what = ["--task", "multiclass", "--data", str(store.path), "--models", "test_resnet"]
    return ["tune", *what, "--folds", "2", "--gpus-per-node", "0", *changes, *more]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--set", "search.keys={train.lrr: {log: [1e-5, 1e-2]}}"], "unknown key 'train.lrr'"),
        (["--set", "search.keys={folds: {int: [2, 5]}}"], "folds decides which rows"),
        (["--set", "search.objective=psnr"], "unknown metric 'psnr'"),
        (["--set", "search.keys={train.batch_size: {int: [0, 32]}}"], "train.batch_size=0"),
        (["--resume", "nothing"], "no study 'nothing'"),
        (["--status", "nothing"], "no study 'nothing'"),
    ],
)
def test_wrong_input_ends_in_a_line_with_exit_2(spots, tmp_path, monkeypatch, more, complaint):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, options(spots, *more))
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--dry-run"], "--dry-run is for a new study"),
        (["--set", "train.lr=1e-3"], "--set changes the recipe"),
        (["--rounds", "2"], "--rounds changes the recipe"),
        (["--gpus-per-node", "0"], "--gpus-per-node changes the recipe"),
    ],
)
def test_resuming_refuses_what_it_would_not_do(spots: Store, tmp_path: Path, more, complaint):
    study = began(tmp_path, spots, searching({"trials": 1}))
    before = study.file.read_bytes()
    done = CliRunner().invoke(main, ["tune", "--resume", str(study.root), *more])
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert study.file.read_bytes() == before
    assert read_trials(study) == []


def test_dry_run_shows_ranges_and_cost_and_writes_nothing(spots, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, options(spots, "--dry-run", "--trials", "12"))
    assert done.exit_code == 0, done.stderr
    assert "train.lr: log 1e-05, 0.01 (the recipe: 0.001)" in done.stdout
    assert "trials       12 of 2 trainings" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_study_on_this_machine_is_stopped_goes_on_and_sends_its_best(spots, tmp_path) -> None:
    words = options(
        spots, "--trials", "2", "--set", "train.epochs=12", "--set", "search.pruner=none"
    )
    process = start(tmp_path, *words, start_new_session=True)
    runs = tmp_path / "runs"
    end = time.monotonic() + 300
    while not list(runs.glob("*/trials/*/members/*/metrics.jsonl")):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a shell does at Ctrl-C
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    (root,) = runs.iterdir()
    (trial,) = read_trials(Study(root))
    assert trial.state == "RUNNING"

    code, out, err = finished(tmp_path, "tune", "--resume", root.name, "--then-submit", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["states"] == {"COMPLETE": 2}
    assert told["trials"][0]["values"] == dict(trial.values)
    (best,) = [path for path in runs.iterdir() if "-best-" in path.name]
    assert f"best recipe submitted; follow it with: lenshpc status {best} --watch\n" in err
    code, out, err = finished(tmp_path, "status", str(best), "--json")
    assert code == 0, err
