"""Output of sacct, squeue and scontrol, of SLURM 22.05 to 25.05, becomes values."""

from pathlib import Path

import pytest

from lenshpc.errors import LaunchError
from lenshpc.launch.slurm import (
    JobState,
    ask,
    is_busy,
    parse_max_array_size,
    parse_sacct,
    parse_squeue,
    sbatch,
)

FIXTURES = Path(__file__).parent / "fixtures"


def text_of(name):
    return (FIXTURES / f"{name}.txt").read_text()


def states(*rows):
    """Return the value of (id, state, what differs from a waiting job) rows."""
    return {
        job_id: JobState(job_id=job_id, state=word, **(more[0] if more else {}))
        for job_id, word, *more in rows
    }


def test_no_lines_are_no_jobs():
    assert (parse_sacct(""), parse_squeue("")) == ({}, {})


def test_squeue_of_22_05():
    waiting = [(f"4990502_{at}", "PENDING", {"reason": "JobArrayTaskLimit"}) for at in range(2, 7)]
    thirds = [0, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 50]
    held = [(f"4990503_{at}", "PENDING", {"reason": "JobHeldUser"}) for at in thirds]
    assert parse_squeue(text_of("22.05-squeue")) == states(
        *waiting,
        *held,
        ("4990502_0", "RUNNING", {"nodes": "node1"}),
        ("4990502_1", "CANCELLED", {"nodes": "node1"}),
        ("4990501", "COMPLETED", {"nodes": "node1"}),
    )


def test_sacct_of_22_05():
    run = {"nodes": "node1", "elapsed_s": 2}
    cancelled = [(f"4990503_{at}", "CANCELLED") for at in (0, 6, 9, 12, 13, 14)]
    assert parse_sacct(text_of("22.05-sacct")) == states(
        ("4990502_0", "CANCELLED", run),
        ("4990502_1", "COMPLETED", run),
        ("4990502_2", "COMPLETED", run),
        *cancelled,
    )


def test_sacct_of_23_11_adds_up_the_attempts_and_the_last_one_counts():
    waiting = [(f"81234_{at}", "PENDING") for at in (4, 5, 6, 9)]
    assert parse_sacct(text_of("23.11-sacct")) == states(
        ("81234_0", "RUNNING", {"nodes": "gpu[001,007]", "elapsed_s": 942}),
        (
            "81234_1",
            "OUT_OF_MEMORY",
            {"exit_code": "0:125", "nodes": "gpu005", "elapsed_s": 77},
        ),
        ("81234_2", "TIMEOUT", {"nodes": "gpu005", "elapsed_s": 3600}),
        ("81234_3", "DEADLINE"),
        *waiting,
        ("81240", "CANCELLED", {"exit_code": "0:15", "nodes": "cpu1", "elapsed_s": 5}),
    )


def test_squeue_of_24_05():
    down = (
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority "
        "partitions"
    )
    waiting = [(f"900_{at}", "PENDING", {"reason": "Dependency"}) for at in (0, 1, 2, 7)]
    assert parse_squeue(text_of("24.05-squeue")) == states(
        *waiting,
        ("901", "PENDING", {"reason": "launch failed requeued held"}),
        ("902", "REQUEUE_HOLD", {"reason": "job requeued in held state"}),
        ("903_4", "CONFIGURING", {"nodes": "gpu[1-2]"}),
        ("904", "PENDING", {"reason": down}),
        ("905_1", "COMPLETING", {"nodes": "gpu1"}),
    )


def test_sacct_of_25_05():
    assert parse_sacct(text_of("25.05-sacct")) == states(
        ("77_0", "BOOT_FAIL", {"nodes": "gpu9", "elapsed_s": 1}),
        ("77_1", "LAUNCH_FAILED", {"nodes": "gpu9", "elapsed_s": 1}),
        ("77_2", "PENDING", {"elapsed_s": 30}),
        ("77_3", "SUSPENDED", {"nodes": "gpu8", "elapsed_s": 30}),
    )


@pytest.mark.parametrize(("version", "size"), [("22.05", 10001), ("25.05", 1001)])
def test_scontrol_tells_the_largest_array(version, size):
    assert parse_max_array_size(text_of(f"{version}-config")) == size


def test_largest_array_is_slurms_default_where_it_is_not_told():
    assert parse_max_array_size("") == 1001


@pytest.mark.parametrize(
    ("identity", "elements"),
    [
        ("123_[4-6,9%2]", [4, 5, 6, 9]),
        ("123_[0-2]", [0, 1, 2]),
        ("123_[7]", [7]),
        ("123_[1%1]", [1]),
        ("123_[0-6:3,20]", [0, 3, 6, 20]),
    ],
)
def test_waiting_elements_are_told_apart(identity, elements):
    expected = states(*((f"123_{at}", "PENDING") for at in elements))
    assert parse_squeue(f"{identity}|PENDING||None\n") == expected


@pytest.mark.parametrize(
    ("word", "active"),
    [
        ("PENDING", True),
        ("RUNNING", True),
        ("REQUEUED", True),
        ("SUSPENDED", True),
        ("COMPLETED", False),
        ("FAILED", False),
        ("CANCELLED", False),
        ("NODE_FAIL", False),
        ("UNKNOWN", False),
        ("A_WORD_OF_A_LATER_SLURM", True),
    ],
)
def test_job_that_waits_or_runs_is_active(word, active):
    assert JobState(job_id="1", state=word).is_active is active


@pytest.mark.parametrize(
    ("told", "busy"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", True),
        (
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            True,
        ),
        ("sbatch: error: Batch job submission failed: Resource temporarily unavailable", True),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", False),
        ("slurm_load_jobs error: Invalid job id specified", False),
    ],
)
def test_busy_controller_is_told_from_a_refusal(told, busy):
    assert is_busy(LaunchError(told)) is busy


@pytest.fixture
def sbatch_says(tmp_path, monkeypatch):
    """Return a function that has sbatch and squeue print something, and submits a script."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def submit(printed, queue=""):
        for name, text in (("sbatch", printed), ("squeue", queue), ("sacct", "")):
            (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
            (tmp_path / name).chmod(0o755)
        return sbatch(tmp_path / "lenshpc-1.sh")

    return submit


def test_id_of_a_job_comes_after_a_sites_words(sbatch_says):
    assert sbatch_says("Welcome to big\n12;big") == "12"


def test_id_that_sbatch_does_not_tell_is_asked_for(sbatch_says):
    assert sbatch_says("Submitted", "notice\n34|/runs/lenshpc-1.sh") == "34"


def test_id_is_asked_for_whatever_stands_in_the_path(sbatch_says):
    assert sbatch_says("", "34|/runs of\u2028two\x1clines/lenshpc-1.sh") == "34"


def test_job_that_has_no_id_is_refused_with_what_was_printed(sbatch_says):
    with pytest.raises(LaunchError) as caught:
        sbatch_says("Submitted\x1b[31m")
    assert str(caught.value).startswith(
        r"sbatch printed 'Submitted\x1b[31m\n' instead of the id of a job; look at "
    )


def test_error_that_is_said_four_times_is_one_line(tmp_path, monkeypatch):
    told = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    (tmp_path / "squeue").write_text(f"#!/bin/sh\nfor i in 1 2 3 4; do echo '{told}' >&2; done\n")
    with (tmp_path / "squeue").open("a") as script:
        script.write("echo 'squeue: see the status page' >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LaunchError) as caught:
        ask(["squeue"], ())
    assert str(caught.value) == f"squeue failed: {told}"


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (
            "sbatch: error: partition gpu is for jobs with GPUs",
            "allocation failure: Unspecified error",
        ),
        ("sbatch: unrecognized option '--tim=3'", 'Try "sbatch --help" for more information'),
    ],
)
def test_words_of_the_cause_are_told_and_not_what_says_nothing(tmp_path, monkeypatch, words, after):
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{words}\n{after}\nEND\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LaunchError) as caught:
        ask(["sbatch"], ())
    assert str(caught.value) == f"sbatch failed: {words}"
