"""The record of a run's jobs."""

import pytest

from lenshpc.launch.registry import JobRecord, latest_of_members, record, records
from lenshpc.paths import RunPaths


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
    assert latest_of_members(new_run) == {0: first, 1: second, 2: second}


def test_element_counts_places_in_the_array_not_members():
    sent_again = job("77", (3, 8, 9))
    assert [sent_again.element(member) for member in (3, 8, 9)] == ["77_0", "77_1", "77_2"]


def test_element_that_is_alone_is_a_plain_job():
    assert job("78", (5,)).element(5) == "78"
