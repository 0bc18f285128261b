"""A submission of which nothing was sent leaves everything as it was found."""

import os
import re

import pytest

from lenshpc.errors import LaunchError
from lenshpc.launch.jobs import records
from lenshpc.launch.sites import Site
from lenshpc.launch.submit import Calls, submit
from lenshpc.run.planning import plan_run
from lenshpc.run.recipe import load_recipe

SITE = Site(name="big", scheduler="slurm", max_array_size=1)
SCRIPTS = "no run is left, and submit --dry-run shows the scripts"


def train(root: str, index: int) -> None:
    """Stand for a member: it is pickled, and never called."""


def write_report(root: str) -> None:
    """Stand for the report's job."""


CALLS = Calls(train, write_report)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Return a function that sets what sbatch does; the other commands know of no job."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def place(name, lines):
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)

    for name in ("squeue", "sacct", "scontrol"):
        place(name, "exit 0")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return lambda lines: place("sbatch", lines)


@pytest.fixture
def planned(spots, tmp_path):
    changes = [
        ("method.weights", "random"),
        ("folds", 2),
        ("train.batch_size", 16),
        ("train.warmup_epochs", 0),
    ]
    return plan_run(load_recipe("multiclass_resnet18", changes), spots, tmp_path / "runs")


def test_refusal_leaves_neither_run_nor_folder(planned, slurm, tmp_path):
    slurm("echo 'invalid partition' >&2; exit 1")
    with pytest.raises(LaunchError) as caught:
        submit(planned, SITE, CALLS)
    assert str(caught.value) == f"sbatch failed: invalid partition; {SCRIPTS}"
    assert not (tmp_path / "runs").exists()


def test_refusal_leaves_other_runs_as_they_are(planned, slurm, tmp_path):
    (tmp_path / "runs" / "another").mkdir(parents=True)
    slurm("echo 'invalid partition' >&2; exit 1")
    with pytest.raises(LaunchError, match="invalid partition"):
        submit(planned, SITE, CALLS)
    assert list((tmp_path / "runs").rglob("*")) == [tmp_path / "runs" / "another"]


def test_refusal_after_a_part_was_sent_keeps_the_run(planned, slurm, tmp_path):
    refusal = "echo Job violates accounting/QOS policy >&2; exit 1"
    slurm(f"[ -e {tmp_path}/sent ] && {{ {refusal}; }}; touch {tmp_path}/sent; echo 8")
    with pytest.raises(LaunchError) as caught:
        submit(planned, SITE, CALLS)
    run = planned.paths
    assert re.sub("lenshpc-[0-9a-f]{32}", "TOKEN", str(caught.value)) == (
        "1 of 2 members were submitted as job 8, the others and the report were not: sbatch "
        f"failed: Job violates accounting/QOS policy; look at {run.slurm}/TOKEN.sh; when those "
        f"have ended, submit the rest with: lenshpc resume {run.root}"
    )
    assert [job.job_id for job in records(planned.paths)] == ["8"]
    assert planned.paths.plan.is_file()


def test_refusal_of_the_report_alone_says_so(planned, slurm, tmp_path):
    sent = tmp_path / "sent"
    refusal = "echo Job violates accounting/QOS policy >&2; exit 1"
    slurm(f"echo >>{sent}; [ $(wc -l <{sent}) -le 2 ] || {{ {refusal}; }}; wc -l <{sent}")
    with pytest.raises(LaunchError) as caught:
        submit(planned, SITE, CALLS)
    told = str(caught.value)
    assert told.startswith(
        "2 of 2 members were submitted as job 1, 2, the report was not: sbatch failed"
    )
    assert told.endswith(f"submit the rest with: lenshpc resume {planned.paths.root}")


def test_run_that_was_there_is_kept_whatever_is_refused(planned, slurm, tmp_path):
    slurm("echo 8")
    submit(planned, SITE, CALLS)
    before = sorted(path for path in planned.paths.root.rglob("*"))
    planned.paths.jobs.unlink()
    slurm("exit 1")
    with pytest.raises(LaunchError):
        submit(planned, SITE, CALLS)
    assert set(before) <= set(planned.paths.root.rglob("*"))
