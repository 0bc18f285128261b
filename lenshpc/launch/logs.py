"""Show the log of a member's newest attempt, as it stands or as it grows."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lenshpc.errors import ConfigError
from lenshpc.launch import executor
from lenshpc.launch.failures import read_tails
from lenshpc.launch.states import ENDED, MemberStatus, RunStatus, run_status
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan

POLL_S = 0.5
STATE_POLL_S = 5.0


def most_telling(status: RunStatus) -> MemberStatus:
    """Return the first member that failed, or else that runs, or else has a job."""
    for told in ({"FAILED"}, {"RUNNING"}):
        for line in status.members:
            if line.state in told and line.job:
                return line
    return next((line for line in status.members if line.job), status.members[0])


def find_log(
    run: RunPaths, status: RunStatus, member: int | None, rank: int | None = None
) -> tuple[MemberStatus, Path]:
    """Return a member, the most telling one if none is chosen, and the log of one of its ranks.

    That is the rank whose log tells how the member failed, else rank 0, if none is chosen.
    """
    if member is not None:
        require_member(run, status, member)
    line = most_telling(status) if member is None else status.members[member]
    paths = executor.log_paths(run.slurm, line.job) if line.job else []
    if not paths:
        why = f" ({line.reason})" if line.reason else ""
        yet = "" if line.state in ENDED else " yet"
        raise ConfigError(f"member {line.index} has no log{yet}: it is {line.state}{why}")
    if rank is None:
        return line, _find_evidence(line, paths)
    if rank >= len(paths):
        ranks = "0 alone" if len(paths) == 1 else f"0 to {len(paths) - 1}"
        raise ConfigError(f"member {line.index} has a log of rank {ranks}, not of {rank}")
    return line, paths[rank]


def require_member(run: RunPaths, status: RunStatus, member: int) -> None:
    """Raise ConfigError where a run has no such member."""
    last = len(status.members) - 1
    if member > last:
        numbers = f"members 0 to {last}" if last else "only member 0"
        raise ConfigError(f"run {run.name} has {numbers}, not {member}")


def _find_evidence(line: MemberStatus, paths: list[Path]) -> Path:
    """Return the log that holds the line by which a failure was told, else that of rank 0."""
    told = line.failure.line if line.failure else ""
    tails = zip(paths, read_tails(paths), strict=True) if told else ()
    return next((path for path, text in tails if told in text), paths[0])


def follow(path: Path, has_ended: Callable[[], bool]) -> Iterator[str]:
    """Yield what a log holds and what comes, until its writer has ended."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        ended, asked = False, time.monotonic()
        while True:
            yield stream.read()
            if ended:
                return
            time.sleep(POLL_S)
            if time.monotonic() - asked > STATE_POLL_S:
                ended, asked = has_ended(), time.monotonic()


def make_end_check(run: RunPaths, plan: Plan, index: int) -> Callable[[], bool]:
    """Return a predicate: the member neither waits nor runs."""
    return lambda: run_status(run, plan).members[index].state in ENDED
