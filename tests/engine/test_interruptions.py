"""A member that is told to stop saves between two steps and ends as an undisturbed one."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ranks import finish, planned, recipe, start

from lenshpc.engine.signals import cause
from lenshpc.files import sha256
from lenshpc.run.attempts import Event, read_events
from lenshpc.run.completion import is_done
from lenshpc.run.paths import RunPaths
from lenshpc.run.sections import Resources
from lenshpc.store import Store

Ranks = list[subprocess.Popen[str]]


def events_of(run: RunPaths) -> list[list[Event]]:
    """Return the events of each job, in the order of their beginnings."""
    jobs = (read_events(path) for path in run.slurm.glob("*_attempts.jsonl"))
    return sorted(filter(None, jobs), key=lambda events: events[0].time)


def stop_when(
    ranks: Ranks, is_due: Callable[[], bool], which: int, number: int = signal.SIGUSR2
) -> None:
    """Signal one rank as soon as something holds; all ranks must save and stop."""
    end = time.monotonic() + 120
    while not is_due():
        assert all(rank.poll() is None for rank in ranks), ranks[0].communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.002)
    ranks[which].send_signal(number)
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [os.EX_TEMPFAIL] * len(ranks), outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "changes"),
    [
        (1, {}),
        (2, {"data": {"loading": "stream", "sampling": "balanced", "augment": ["d4", "noise"]}}),
        (2, {"train__strategy": "deepspeed", "train__zero_stage": 2}),
    ],
    ids=["single", "ddp-stream", "zero2"],
)
def test_signalled_member_ends_with_the_weights_of_an_undisturbed_one(
    spots: Store, tmp_path: Path, world_size: int, changes: dict
) -> None:
    asked = recipe(
        train__epochs=3, train__batch_size=4, resources__gpus_per_node=world_size, **changes
    )
    undisturbed, plan = planned(tmp_path / "undisturbed", spots, asked)
    disturbed, _ = planned(tmp_path / "disturbed", spots, asked)
    member = plan.members[1]
    one, other = undisturbed.member(member.name), disturbed.member(member.name)
    finish(start([undisturbed], 1, world_size))

    for attempt, number in enumerate((signal.SIGUSR2, signal.SIGTERM)):

        def has_started(attempt: int = attempt) -> bool:
            jobs = events_of(disturbed)
            return len(jobs) > attempt and [e.what for e in jobs[-1]] == ["started", "saved"]

        ranks = start([disturbed], 1, world_size)
        stop_when(ranks, has_started, which=world_size - 1, number=number)
    finish(start([disturbed], 1, world_size))

    jobs = events_of(disturbed)
    assert [[e.what for e in events] for events in jobs[:2]] == [
        ["started", "saved", "saved", "stopped"]
    ] * 2
    assert [events[-1].cause for events in jobs[:2]] == ["preemption"] * 2
    places = [event.place for events in jobs[:2] for event in events[1:3]]
    assert places[0] == (0, 0)
    assert places[2::2] == places[1:-1:2], "each goes on where the one before stopped"
    assert places == sorted(places)
    assert any(step for _, step in places), "none was stopped within an epoch"

    assert sha256(one.weights) == sha256(other.weights)
    assert sha256(one.predictions) == sha256(other.predictions)
    assert is_done(disturbed, plan, member, verify=True)


@pytest.mark.parametrize(
    ("number", "running_s", "time_min", "expected"),
    [
        (signal.SIGUSR2, 30, 240, "preemption"),
        (signal.SIGUSR2, 240 * 60 - 211, 240, "preemption"),
        (signal.SIGUSR2, 240 * 60 - 209, 240, "timeout"),
        (signal.SIGTERM, 240 * 60 - 1, 240, "preemption"),
        (signal.SIGUSR2, 10, 2, "timeout"),
    ],
)
def test_clock_tells_the_time_limit_from_preemption(
    number: int, running_s: float, time_min: int, expected: str
) -> None:
    assert cause(number, running_s, Resources(time_min=time_min)) == expected
