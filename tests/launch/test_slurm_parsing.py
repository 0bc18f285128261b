"""Lines in the documented formats of sacct and squeue become values."""

import pytest

from lenshpc.launch.slurm import JobState, parse_states


def state(job_id, word, exit_code="0:0", nodes=""):
    return job_id, JobState(job_id=job_id, state=word, exit_code=exit_code, nodes=nodes)


def test_no_lines_are_no_jobs():
    assert parse_states("") == {}


def test_array_elements_have_entries_of_their_own():
    text = (
        "81234_0|COMPLETED|0:0|gpu003\n"
        "81234_1|FAILED|1:0|gpu[003-004]\n"
        "81234_2|OUT_OF_MEMORY|0:125|gpu005\n"
        "81234_3|TIMEOUT|0:0|gpu005\n"
        "81234_4|RUNNING|0:0|gpu[001,007]\n"
        "81240|NODE_FAIL|1:0|cpu1\n"
    )
    assert parse_states(text) == dict(
        [
            state("81234_0", "COMPLETED", nodes="gpu003"),
            state("81234_1", "FAILED", "1:0", "gpu[003-004]"),
            state("81234_2", "OUT_OF_MEMORY", "0:125", "gpu005"),
            state("81234_3", "TIMEOUT", nodes="gpu005"),
            state("81234_4", "RUNNING", nodes="gpu[001,007]"),
            state("81240", "NODE_FAIL", "1:0", "cpu1"),
        ]
    )


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
    text = f"{identity}|PENDING|0:0|None assigned\n"
    assert parse_states(text) == dict(state(f"123_{at}", "PENDING") for at in elements)


def test_cancelled_by_somebody_is_cancelled():
    text = "12|CANCELLED by 1000|0:15|node1\n13|CANCELLED+|0:0|\n"
    assert parse_states(text) == dict(
        [state("12", "CANCELLED", "0:15", "node1"), state("13", "CANCELLED")]
    )


def test_last_line_of_a_requeued_job_counts():
    text = (
        "55_1|NODE_FAIL|1:0|node2\n"
        "55_1|PREEMPTED|0:0|node3\n"
        "55_1|COMPLETED|0:0|node4\n"
        "55_2|NODE_FAIL|1:0|node2\n"
        "55_2|PENDING|0:0|None assigned\n"
    )
    assert parse_states(text) == dict(
        [state("55_1", "COMPLETED", nodes="node4"), state("55_2", "PENDING")]
    )


def test_squeue_prints_the_same_columns():
    text = "9_0|RUNNING|0:0|node[1-2]\n9_1|PENDING|0:0|\n10|PENDING|0:0|\n"
    assert parse_states(text) == dict(
        [
            state("9_0", "RUNNING", nodes="node[1-2]"),
            state("9_1", "PENDING"),
            state("10", "PENDING"),
        ]
    )


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
    ],
)
def test_job_that_waits_or_runs_is_active(word, active):
    assert JobState(job_id="1", state=word).is_active is active
