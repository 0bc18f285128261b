"""Preemption and the time limit: a member goes on by itself, to the same bits."""

import pytest
from spot_runs import PAIR, WIDE, release_when_signalled, submitted

pytestmark = pytest.mark.slow


def test_two_node_member_preempted_five_times_gets_to_the_end(
    cluster, spots, tmp_path, undisturbed
) -> None:
    calm = undisturbed(WIDE)
    sent = submitted(tmp_path, spots, WIDE, partition="lowgrace")
    job = sent.job()
    for restart in range(5):
        held = sent.held(job, restart)
        other = cluster.sbatch(["-p", "high", "-N4", "--exclusive"], "true")
        release_when_signalled(held)
        cluster.wait(other)
    sent.wait_for_end()
    assert sent.causes(job) == ["preemption"] * 5
    sent.assert_nothing_was_trained_twice(0, job)
    assert sent.predictions() == calm


def test_members_that_need_longer_than_their_time_limit_go_on_by_themselves(
    cluster, spots, tmp_path, undisturbed
) -> None:
    calm = undisturbed(PAIR)
    sent = submitted(tmp_path, spots, PAIR, "--set", "resources.time_min=3")
    jobs = [sent.job(index) for index in range(2)]
    for held in [sent.held(job) for job in jobs]:
        release_when_signalled(held)
    sent.wait_for_end()
    for index, job in enumerate(jobs):
        assert "timeout" in sent.causes(job)
        assert set(sent.causes(job)) == {"timeout"}
        sent.assert_nothing_was_trained_twice(index, job)
    assert sent.predictions() == calm


def test_members_that_are_preempted_without_grace_go_on_by_themselves(
    cluster, spots, tmp_path, undisturbed
) -> None:
    calm = undisturbed(PAIR)
    sent = submitted(tmp_path, spots, PAIR, partition="low")
    jobs = [sent.job(index) for index in range(2)]
    for job in jobs:
        sent.wait_for_checkpoint(job)
    cluster.wait(cluster.sbatch(["-p", "high", "-N4", "--exclusive"], "true"))
    sent.wait_for_end()
    for index, job in enumerate(jobs):
        states = [row["State"] for row in cluster.sacct(job, "--duplicates")]
        assert states == ["PREEMPTED", "COMPLETED"]
        sent.assert_nothing_was_trained_twice(index, job)
    assert sent.predictions() == calm
