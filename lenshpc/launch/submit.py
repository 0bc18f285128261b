"""Submit what a Plan lacks: the members that are neither done nor under way, then the report."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lenshpc.completion import missing_members, reference
from lenshpc.config import validate
from lenshpc.errors import ConfigError
from lenshpc.files import read_json, write_json
from lenshpc.launch import executor, provenance
from lenshpc.launch.executor import JobRequest
from lenshpc.launch.local import start_queue
from lenshpc.launch.registry import JobRecord, latest_of_members, now, record
from lenshpc.launch.sites import Site, check_fits
from lenshpc.launch.states import ENDED, run_status
from lenshpc.paths import RunPaths
from lenshpc.plan import Plan, load_plan, save_plan


@dataclass(frozen=True)
class Calls:
    """The functions that jobs run; they live above this floor and are handed down."""

    member: Callable[[str, int], None]
    aggregate: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What was sent: the members, and the scheduler's names of their job and the report's."""

    members: tuple[int, ...]
    job_id: str = ""
    report_job_id: str = ""


def requests(plan: Plan, site: Site, run: RunPaths, count: int) -> tuple[JobRequest, JobRequest]:
    """Return what would be asked of SLURM for `count` members, and for the report after them."""
    return (
        executor.member_request(plan, site, run.slurm, count),
        executor.aggregate_request(plan, site, run.slurm, after="<JOB ID OF THE MEMBERS>"),
    )


def submit(run: RunPaths, plan: Plan, splits: pd.DataFrame, site: Site, calls: Calls) -> Submission:
    """Write the run directory and send what is not done; safe to repeat."""
    check_fits(site, plan.recipe)
    save_plan(run, plan, splits)
    run.slurm.mkdir(mode=0o700, exist_ok=True)
    run.slurm.chmod(0o700)  # pickles lie here
    write_json(run.site, site.model_dump(mode="json"))
    provenance.append(run, sys.argv)
    return _send(run, plan, site, calls)


def resume(run: RunPaths, calls: Calls) -> Submission:
    """Send the members of a run that are neither done nor under way, where it was sent before."""
    if not run.site.is_file():
        raise ConfigError(f"run {run.name} was never submitted; use: lenshpc submit")
    site = validate(Site, read_json(run.site), str(run.site))
    provenance.append(run, sys.argv)
    return _send(run, load_plan(run), site, calls)


def _send(run: RunPaths, plan: Plan, site: Site, calls: Calls) -> Submission:
    status = run_status(run, plan)
    active = {line.index for line in status.members if line.state not in ENDED}
    missing = {member.index for member in missing_members(run, plan, verify=True)}
    todo = tuple(sorted(missing - active))
    if not todo and (status.report_is_due or (status.report == "DONE" and not active)):
        return Submission(members=())
    if site.scheduler == "slurm":
        # only jobs that SLURM still knows: it forgets ended ones, and refuses to wait for those
        jobs = [job for member, job in latest_of_members(run).items() if member in active]
        after = {job.job_id for job in jobs if job.scheduler == "slurm"}
        return _send_slurm(run, plan, site, todo, after, calls)
    if active:
        where = f"lenshpc status {reference(run)} --watch"
        raise ConfigError(f"run {run.name} is under way already; follow it with: {where}")
    return _send_local(run, site, todo)


def _send_local(run: RunPaths, site: Site, todo: tuple[int, ...]) -> Submission:
    job_id = str(start_queue(run, todo))
    _record(run, site, job_id, todo)
    return Submission(members=todo, job_id=job_id, report_job_id=job_id)


def _send_slurm(
    run: RunPaths, plan: Plan, site: Site, todo: tuple[int, ...], after: set[str], calls: Calls
) -> Submission:
    job_id = ""
    if todo:
        request = executor.member_request(plan, site, run.slurm, len(todo))
        job_id = executor.submit_array(request, calls.member, run.root, todo)
        _record(run, site, job_id, todo)
    waits_for = ":".join(sorted(after | {job_id} - {""})) or None
    report = executor.aggregate_request(plan, site, run.slurm, after=waits_for)
    report_job_id = executor.submit_single(report, calls.aggregate, run.root)
    _record(run, site, report_job_id, ())
    return Submission(members=todo, job_id=job_id, report_job_id=report_job_id)


def _record(run: RunPaths, site: Site, job_id: str, members: tuple[int, ...]) -> None:
    job = JobRecord(
        job_id=job_id,
        scheduler=site.scheduler,
        site=site.name,
        members=members,
        submitted=now(),
    )
    record(run, job)


def run_paths(plan: Plan, runs: Path) -> RunPaths:
    """Return where a Plan's run lies."""
    return RunPaths((runs / plan.run_name).resolve())
