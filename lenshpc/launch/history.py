"""What went wrong in the attempts of a run, those included that came back by themselves."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from lenshpc.launch import executor, usage
from lenshpc.launch.failures import Failure, classify, find_failure, read_tails
from lenshpc.launch.usage import Attempt
from lenshpc.run.attempts import read_events
from lenshpc.run.paths import RunPaths

# words of SLURM, and last events where it has no accounting, of attempts that did not fail
WELL = usage.RUNNING | {"COMPLETED", "PENDING", "STARTED", "SAVED"}


def past_failures(run: RunPaths, attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
    """Return those of a run's attempts that failed, in their order, as plain values.

    Keys: member, attempt (from 1), job, and those of `Failure`.
    """
    return [
        {"member": one.member, "attempt": one.number, "job": one.job, **asdict(failure)}
        for job, some in groupby(attempts, key=lambda one: one.job)
        for one, failure in _failures(run, job, list(some))
    ]


def _failures(
    run: RunPaths, job: str, attempts: list[Attempt]
) -> Iterator[tuple[Attempt, Failure]]:
    """Yield the attempts of one job that failed: as they told, or by SLURM's word."""
    told = {event.restart: event for event in read_events(run.attempts(job)) if event.failure}
    for restart, attempt in enumerate(attempts):
        event = told.get(restart)
        if event:
            kind = find_failure(event.failure)
            yield (
                attempt,
                replace(kind, line=event.line, tail=event.tail, node=event.node),
            )
        elif attempt.state not in WELL:
            is_last = restart == len(attempts) - 1  # earlier logs are overlaid by later ones
            logs = read_tails(executor.log_paths(run.slurm, job)) if is_last else ()
            yield attempt, classify(attempt.state, logs=logs, nodes=attempt.nodes)
