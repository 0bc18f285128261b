"""Cancel a run or one of its members, and see to it that nothing of it is left."""

import time
from dataclasses import dataclass

from lenshpc.errors import ConfigError, LaunchError
from lenshpc.launch import local, slurm
from lenshpc.launch.jobs import records
from lenshpc.launch.local import read_queue
from lenshpc.launch.logs import require_member
from lenshpc.launch.reconcile import submission_lock
from lenshpc.launch.states import ENDED, RunStatus, run_status
from lenshpc.run.ownership import require_own
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan

WAIT_S = 60.0  # a job has KillWait, 30 s by default, to end by itself
POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """The members that waited or ran, and whether the report's job went with them."""

    members: tuple[int, ...]
    report: bool


def cancel(run: RunPaths, plan: Plan, member: int | None = None) -> Cancelled:
    """Cancel what waits or runs: all, or one member; wait until it is gone.

    The report's job is cancelled too when no member is left for it to wait for. Raises
    ConfigError where there is no such member, LaunchError if the controller does not answer, or
    jobs do not end.
    """
    require_own(run)
    if not run.site.is_file():
        raise ConfigError(f"run {run.name} was never submitted; use: lenshpc submit")
    # The submission's lock: no job may be sent while what is there is being cancelled.
    with submission_lock(run):
        status = run_status(run, plan)
        if member is not None:
            require_member(run, status, member)
        if status.silence:
            raise LaunchError(f"nothing was cancelled: {status.silence}; try again")
        active = {line.index: line.job for line in status.members if line.state not in ENDED}
        chosen = tuple(index for index in active if member in {None, index})
        report = status.report_is_due and set(chosen) == set(active)
        if read_queue(run).pid:
            _cancel_local(run, chosen, all_of_them=report)
        else:
            reports = _reports(run) if report else set()
            _cancel_slurm(status, chosen, reports)
    return Cancelled(members=chosen, report=report)


def _cancel_local(run: RunPaths, chosen: tuple[int, ...], *, all_of_them: bool) -> None:
    if all_of_them:
        local.stop_queue(run)
    else:
        local.stop_members(run, chosen)


def _reports(run: RunPaths) -> set[str]:
    """Return the jobs of reports: several, where one was sent for each follow-up of a member."""
    return {one.job_id for one in records(run) if one.scheduler == "slurm" and not one.members}


def _cancel_slurm(status: RunStatus, chosen: tuple[int, ...], reports: set[str]) -> None:
    jobs = {status.members[index].job for index in chosen}
    every = {line.job for line in status.members if line.state not in ENDED}
    if jobs == every:  # whole arrays: one id for thousands of elements
        jobs = {job.partition("_")[0] for job in jobs}
    # With the members or not at all: a report that waits for `afterany` begins when they are gone.
    jobs |= {job for job in reports if _is_alive(job)}
    deadline = time.monotonic() + WAIT_S
    while jobs:
        # again and again: a job that is requeued at this moment comes back
        slurm.order(["scancel", *sorted(jobs)])
        time.sleep(POLL_S)
        jobs = {job for job in jobs if _is_alive(job)}
        if time.monotonic() > deadline:
            raise LaunchError(
                f"still in the queue after {WAIT_S:.0f} s: {', '.join(sorted(jobs))}; look with: "
                "squeue --me"
            )


def _is_alive(job: str) -> bool:
    return bool(slurm.parse_squeue(slurm.ask(["squeue", "-h", "-o", "%i|%T||", "-j", job])))
