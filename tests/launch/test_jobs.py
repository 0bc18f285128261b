"""The record of a run's jobs."""

import pytest

from lenshpc.launch.jobs import (
    NEVER_SENT,
    JobRecord,
    intents,
    latest_of_members,
    record,
    records,
)
from lenshpc.run.paths import RunPaths


def job(job_id, members):
    return JobRecord(
        job_id=job_id,
        scheduler="slurm",
        site="big",
        members=members,
        submitted="2026-01-02T03:04:05+00:00",
    )


@pytest.fixture
def new_run(tmp_path):
    (tmp_path / "slurm").mkdir()
    return RunPaths(tmp_path)


def test_run_without_jobs_has_no_records(new_run):
    assert (records(new_run), latest_of_members(new_run)) == ([], {})


def test_records_come_back_oldest_first(new_run):
    jobs = [job("10", (0, 1, 2)), job("11", ()), job("12", (1,))]
    for each in jobs:
        record(new_run, each)
    assert records(new_run) == jobs


def test_latest_job_of_a_member_wins(new_run):
    first, report, second = job("10", (0, 1, 2)), job("11", ()), job("12", (1, 2))
    for each in (first, report, second):
        record(new_run, each)
    assert latest_of_members(new_run) == {
        0: (first, "10_0"),
        1: (second, "12_0"),
        2: (second, "12_1"),
    }


def test_element_counts_places_in_the_array_not_members():
    sent_again = job("77", (3, 8, 9))
    assert sent_again.elements() == {3: "77_0", 8: "77_1", 9: "77_2"}


def test_element_that_is_alone_is_a_plain_job():
    assert job("78", (5,)).elements() == {5: "78"}


def test_job_is_known_once_sbatch_has_told_its_id(new_run):
    before = job("", (0, 1)).model_copy(update={"token": "lenshpc-1"})
    record(new_run, before)
    assert (records(new_run), intents(new_run)) == ([], [before])
    after = before.model_copy(update={"job_id": "10"})
    record(new_run, after)
    assert (records(new_run), intents(new_run)) == ([after], [])


def test_job_that_was_never_sent_is_forgotten(new_run):
    before = job("", (0, 1)).model_copy(update={"token": "lenshpc-1"})
    for each in (before, before.model_copy(update={"job_id": NEVER_SENT})):
        record(new_run, each)
    assert (records(new_run), intents(new_run)) == ([], [])


def test_line_that_was_half_written_is_no_job(new_run):
    first, second = job("10", (0,)), job("11", (1,))
    record(new_run, first)
    with new_run.jobs.open("a") as stream:
        stream.write(second.model_dump_json()[:40])
    record(new_run, second)
    assert records(new_run) == [first, second]
