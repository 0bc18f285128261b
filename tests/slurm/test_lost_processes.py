"""A rank, a node or its network is lost, a member is cancelled: the run ends with the same bits."""

import os
import signal
import time
from pathlib import Path

from spot_runs import PAIR, output, submitted, wait_for

ONE_AT_A_TIME = "max_parallel: 1"
UNPLUGGED_S = 30


def test_killed_rank_is_requeued_alone_and_a_cancelled_member_ends_after_one_resume(
    cluster, spots, tmp_path, undisturbed
) -> None:
    calm = undisturbed(PAIR)
    sent = submitted(tmp_path, spots, PAIR)
    killed, cancelled = sent.job(0), sent.job(1)
    processes = [sent.held(job) for job in (killed, cancelled)]
    output(["scancel", cancelled])
    os.kill(processes[1], signal.SIGCONT)
    os.kill(processes[0], signal.SIGKILL)
    wait_for(lambda: not sent.queued())
    assert cluster.states(killed.partition("_")[0]) == ["CANCELLED", "COMPLETED"]
    assert sent.causes(killed) == ["crash"]
    assert sent.events(cancelled)[-1].what == "stopped", "saved when it was cancelled"

    assert sent.resumed() == [1]
    sent.wait_for_end()
    sent.assert_nothing_was_trained_twice(0, killed)
    sent.assert_nothing_was_trained_twice(1, cancelled, sent.job(1))
    assert sent.predictions() == calm


def test_power_loss_of_a_node_costs_the_member_on_it_one_requeue(
    cluster, spots, tmp_path, undisturbed
) -> None:
    calm = undisturbed(PAIR)
    sent = submitted(tmp_path, spots, PAIR, more=ONE_AT_A_TIME)
    done, lost = sent.job(0), sent.job(1)
    sent.held(lost)
    mark = sent.member(0).done.stat().st_mtime_ns
    (node,) = {nodes for _, state, nodes in sent.queued() if state == "RUNNING"}
    cluster.run("crash", node.removeprefix("node"))
    sent.wait_for_end()
    states = [row["State"] for row in cluster.sacct(lost, "--duplicates")]
    assert states == ["NODE_FAIL", "COMPLETED"]
    assert sent.member(0).done.stat().st_mtime_ns == mark, "what was done is left alone"
    sent.assert_nothing_was_trained_twice(0, done)
    sent.assert_nothing_was_trained_twice(1, lost)
    assert sent.predictions() == calm


def test_unplugged_node_is_too_late_with_what_it_went_on_with(
    cluster, spots, tmp_path, undisturbed
) -> None:
    """Its ranks live on beside those of the next attempt, and still reach the shared files."""
    calm = undisturbed(PAIR)
    sent = submitted(tmp_path, spots, PAIR)
    jobs = [sent.job(index) for index in range(2)]
    left = {job: sent.held(job) for job in jobs}
    nodes = {nodes.removeprefix("node") for _, state, nodes in sent.queued() if state == "RUNNING"}
    began = time.monotonic()
    for node in nodes:
        cluster.run("unplug", node)
    for job, process in left.items():
        sent.wait_for_checkpoint(job, restart=1)
        os.kill(process, signal.SIGCONT)
    wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in left.values()))
    time.sleep(max(0, began + UNPLUGGED_S - time.monotonic()))
    for node in nodes:
        cluster.run("replug", node)
    sent.wait_for_end()
    for index, job in enumerate(jobs):
        states = [row["State"] for row in cluster.sacct(job, "--duplicates")]
        assert (states[0], states[-1]) == ("NODE_FAIL", "COMPLETED")
        saved = [event.restart for event in sent.events(job) if event.what == "saved"]
        assert saved == sorted(saved), "the earlier attempt saved nothing more"
        sent.assert_nothing_was_trained_twice(index, job)
    assert sent.predictions() == calm
