"""What a killed submission left open is settled; SLURM's commands are stood in for by scripts."""

import fcntl

import pytest

from lenshpc.launch.jobs import JobRecord, intents, record, records
from lenshpc.launch.reconcile import reconcile
from lenshpc.run.paths import RunPaths

TOKEN = "lenshpc-" + 32 * "a"
OTHER = "lenshpc-" + 32 * "b"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a function that puts a script on a PATH that holds nothing else of SLURM."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(name, lines):
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)

    return install


@pytest.fixture
def interrupted(tmp_path):
    """Return a run with a submission of two members of which no id is known."""
    run = RunPaths(tmp_path / "spots-12345678")
    run.slurm.mkdir(parents=True)
    job = JobRecord(
        token=TOKEN,
        scheduler="slurm",
        site="big",
        members=(0, 1),
        submitted="2026-01-02T03:04:05+00:00",
    )
    record(run, job)
    return run


def ids(run):
    return [job.job_id for job in records(run)], len(intents(run))


def test_job_in_the_queue_is_found_by_the_path_of_its_script(interrupted, place):
    place("squeue", f"echo '77|/r/slurm/{OTHER}.sh x'; echo '78|/r/slurm/{TOKEN}.sh {TOKEN}.pkl'")
    assert reconcile(interrupted) == ""
    assert ids(interrupted) == (["78"], 0)


def test_job_that_has_ended_is_found_in_the_accounting(interrupted, place):
    place("squeue", "true")
    place("sacct", f"echo '78_0|sbatch --parsable /r/slurm/{TOKEN}.sh {TOKEN}.pkl'")
    assert reconcile(interrupted) == ""
    assert ids(interrupted) == (["78"], 0)


def test_job_that_everybody_forgot_is_found_by_its_link(interrupted, place):
    place("squeue", "true")
    (interrupted.slurm / "78_1_submitted.pkl").symlink_to(f"{TOKEN}.pkl")
    assert reconcile(interrupted) == ""
    assert ids(interrupted) == (["78"], 0)


def test_job_that_nobody_knows_was_never_sent(interrupted, place):
    place("squeue", f"echo '77|/r/slurm/{OTHER}.sh {OTHER}.pkl'")
    assert reconcile(interrupted) == ""
    assert ids(interrupted) == ([], 0)


def test_nothing_is_decided_while_the_controller_is_silent(interrupted, place):
    told = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    place("squeue", f"echo '{told}' >&2; exit 1")
    assert reconcile(interrupted) == f"squeue failed: {told}"
    assert ids(interrupted) == ([], 1)


def test_nothing_is_decided_while_another_command_sends(interrupted, place):
    place("squeue", "true")
    with (interrupted.slurm / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert reconcile(interrupted) == "another command is sending"
    assert ids(interrupted) == ([], 1)
    assert reconcile(interrupted) == ""
    assert ids(interrupted) == ([], 0)
