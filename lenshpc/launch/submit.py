"""Submit what a Plan lacks: the members that are neither done nor under way, then the report."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from itertools import pairwise
from pathlib import Path

from lenshpc.errors import ConfigError, LaunchError, LensHpcError
from lenshpc.files import replacing, write_json
from lenshpc.launch import exclusion, executor, provenance, slurm, snapshot
from lenshpc.launch.executor import JobRequest, Sending
from lenshpc.launch.jobs import (
    NEVER_SENT,
    JobRecord,
    intents,
    latest_of_members,
    now,
    record,
    records,
)
from lenshpc.launch.local import queue_path, start_queue
from lenshpc.launch.modes import writing
from lenshpc.launch.origin import check_ended, find_awaited_jobs
from lenshpc.launch.reconcile import submission_lock
from lenshpc.launch.sites import Site, check_fits, read_site
from lenshpc.launch.snapshot import Snapshot
from lenshpc.launch.states import ENDED, RunStatus, run_status
from lenshpc.registry import path_in_run
from lenshpc.run.adoption import Offer, Source, adopt_members, check_growth, find_offer
from lenshpc.run.completion import (
    check_folders,
    is_done,
    missing_members,
    reference,
    resume_command,
)
from lenshpc.run.origin import origin_of
from lenshpc.run.ownership import require_own
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import (
    Member,
    Plan,
    check_plugins,
    load_plan,
    load_splits,
    open_planned_store,
    save_plan,
)
from lenshpc.run.planning import PlannedRun
from lenshpc.run.resizing import resize

NOTHING = Offer()


@dataclass(frozen=True)
class Calls:
    """The functions that jobs run; they live above this floor and are handed down."""

    member: Callable[[str, int], None]
    aggregate: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What was sent: the members, and the scheduler's names of their jobs and the report's.

    `taken` are the members that other runs had, some of which are sent nevertheless: to predict, or
    to go on.
    """

    members: tuple[int, ...]
    job_ids: tuple[str, ...] = ()
    report_job_id: str = ""
    taken: Mapping[Member, Source] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one array gets: members, how many of them run at a time, and the part it waits for."""

    members: tuple[int, ...]
    parallel: int
    follows: int | None

    def request(
        self, plan: Plan, site: Site, folder: Path, job_ids: Sequence[str], awaited: Sequence[str]
    ) -> JobRequest:
        """Return what is asked of SLURM, given the jobs of the parts before, and of another run."""
        first = ":".join(awaited) or None
        after = first if self.follows is None else job_ids[self.follows]
        throttled = site.model_copy(update={"max_parallel": self.parallel})
        return executor.member_request(plan, throttled, folder, len(self.members), after)


def shares(members: tuple[int, ...], site: Site) -> list[Share]:
    """Cut members into arrays that the cluster takes, with equal lengths but for one.

    `site.max_parallel` is dealt out among them. Where it is less than the number of arrays, each
    has one member at a time and begins when the one `max_parallel` places before it has ended.
    """
    largest = min(site.max_array_size or slurm.max_array_size(), slurm.LARGEST_ARRAY)
    num_parts = -(-len(members) // largest)
    bounds = [len(members) * part // max(num_parts, 1) for part in range(num_parts + 1)]
    return [
        Share(
            members=members[start:end],
            parallel=max(1, (site.max_parallel + part) // num_parts),
            follows=part - site.max_parallel if part >= site.max_parallel else None,
        )
        for part, (start, end) in enumerate(pairwise(bounds))
    ]


def requests(
    plan: Plan, site: Site, run: RunPaths, num_rows: int
) -> tuple[list[JobRequest], JobRequest]:
    """Return what would be asked of SLURM for all members, and for the report after them."""
    parts = shares(tuple(range(len(plan.members))), site)
    site = exclusion.before(snapshot.read(run.code).before(site), run)
    unknown = [f"<JOB ID OF PART {part + 1}>" for part in range(len(parts))]
    origin = origin_of(plan.recipe)
    awaited = [f"<JOBS OF {origin.name}>"] if origin and not _is_complete(origin) else []
    return (
        [part.request(plan, site, run.slurm, unknown, awaited) for part in parts],
        executor.aggregate_request(
            plan, site, run.slurm, after="<JOB ID OF THE MEMBERS>", num_rows=num_rows
        ),
    )


def _is_complete(run: RunPaths) -> bool:
    return run.plan.is_file() and not missing_members(run, load_plan(run), verify=False)


def search(planned: PlannedRun, *, restart: bool = False) -> Offer:
    """Return what the runs beside a planned one have of the members that it lacks.

    ConfigError where one is done with fewer epochs and cannot go on, unless it is to restart.
    """
    run, plan = planned.paths, planned.plan
    is_new = not run.plan.is_file()
    lacking = [member for member in plan.members if is_new or not is_done(run, plan, member)]
    offer = find_offer(run, plan, lacking, run.root.parent)
    if not restart:
        check_growth(run, plan, offer.shorter)
    return offer


def submit(planned: PlannedRun, site: Site, calls: Calls, offer: Offer = NOTHING) -> Submission:
    """Write the run directory and send what is not done; safe to repeat.

    Members that `offer` has are taken over first. A new run of which nothing could be sent is taken
    away again.
    """
    run = planned.paths
    check_fits(site, planned.plan.recipe)
    new = [folder for folder in (run.root, run.root.parent) if not folder.exists()]
    if run.root not in new:
        require_own(run)
    try:
        with writing(site.umask):
            write_run(planned, site)
            # Read again: the run may have been resumed in another size.
            return _send(run, load_plan(run), site, calls, offer, store_is_open=True)
    except (LensHpcError, OSError, KeyboardInterrupt) as error:
        if not (run.root in new and _is_unsent(run)):
            raise
        shutil.rmtree(run.root, ignore_errors=True)
        with suppress(OSError):  # somebody's run lies in it by now
            new[-1].rmdir()
        if isinstance(error, LaunchError):
            told = "no run is left, and submit --dry-run shows the scripts"
            # Without the path of a script that is gone with the run.
            refusal = str(error).partition("; look at ")[0]
            raise LaunchError(f"{refusal}; {told}") from error
        raise


def _is_unsent(run: RunPaths) -> bool:
    """Say whether no job of a run was sent or may have been, and no other command is at it."""
    try:
        with (run.slurm / "lock").open("ab") as lock:
            flock(lock, LOCK_EX | LOCK_NB)
            return not (records(run) or intents(run) or queue_path(run).exists())
    except FileNotFoundError:  # not come so far
        return True
    except (LensHpcError, OSError):
        return False


def write_run(planned: PlannedRun, site: Site) -> None:
    """Write all that a job reads; it may start within the second in which it is sent."""
    run = planned.paths
    save_plan(run, planned.plan, planned.splits)
    for name, content in planned.files.items():
        # Under the hash in the name, so a later edit of the user's file changes no run.
        path = path_in_run(run.code, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    run.slurm.mkdir(mode=0o700, exist_ok=True)
    # Also where the folder was there: whoever may write here can have a job unpickle anything.
    run.slurm.chmod(0o700)  # pickles lie here
    write_json(run.site, site.model_dump(mode="json"))


def resume(
    run: RunPaths, calls: Calls, nodes: int | None = None, gpus_per_node: int | None = None
) -> Submission:
    """Send the members of a run that are neither done nor under way, where it was sent before.

    With another number of nodes or GPUs where that is the same training.
    """
    require_own(run)
    if not run.site.is_file():
        raise ConfigError(f"run {run.name} was never submitted; use: lenshpc submit")
    site = read_site(run)
    plan = load_plan(run)
    check_plugins(plan)
    with writing(site.umask):
        if nodes is not None or gpus_per_node is not None:
            _check_ended(run, plan)
            plan = resize(run, plan, nodes, gpus_per_node)
            check_fits(site, plan.recipe)
        return _send(run, plan, site, calls, store_is_open=False)


def _check_ended(run: RunPaths, plan: Plan) -> None:
    """Refuse to change the size of members that wait or run: they would start with another one."""
    active = [line for line in _ask_status(run, plan).members if line.state not in ENDED]
    if active:
        raise ConfigError(
            f"{len(active)} members of run {run.name} wait or run with other resources; cancel "
            f"them first: lenshpc cancel {reference(run)}"
        )


def _send(
    run: RunPaths,
    plan: Plan,
    site: Site,
    calls: Calls,
    offer: Offer = NOTHING,
    *,
    store_is_open: bool,
) -> Submission:
    code = snapshot.read(run.code)
    provenance.append(run, sys.argv, code)
    # Held from the look at the states to the last sbatch: two commands would see the same members
    # missing, and send both.
    with submission_lock(run) as lock:
        status = _ask_status(run, plan)
        active = {line.index for line in status.members if line.state not in ENDED}
        todo, taken = _take_over(run, plan, active, offer)
        if todo and not store_is_open:
            open_planned_store(plan)  # here, not after hours in a queue
        if not todo and (status.report_is_due or (status.report == "DONE" and not active)):
            return Submission(members=())
        awaited = find_awaited_jobs(plan)
        # Before sbatch, whole and by a rename: jobs import from it.
        code.keep()
        if site.scheduler == "slurm":
            # only jobs that SLURM still knows: it forgets ended ones, and refuses to wait for those
            latest = latest_of_members(run)
            jobs = [latest[member][0] for member in active]
            after = {job.job_id for job in jobs if job.scheduler == "slurm"}
            place = exclusion.before(code.before(site), run)
            sender = SlurmSender(run, plan, place, calls, lock, awaited)
            return replace(sender.send(todo, after, status), taken=taken)
        check_ended(plan, awaited)
        if active:
            where = f"lenshpc status {reference(run)} --watch"
            raise ConfigError(f"run {run.name} is under way already; follow it with: {where}")
        return replace(_send_local(run, site, todo, code), taken=taken)


def _ask_status(run: RunPaths, plan: Plan) -> RunStatus:
    status = run_status(run, plan)
    if status.silence:
        raise LaunchError(f"nothing was submitted: {status.silence}; try again")
    for line in status.members:
        exclusion.note(run, line.job, line.failure)
    return status


def _take_over(
    run: RunPaths, plan: Plan, active: set[int], offer: Offer
) -> tuple[tuple[int, ...], dict[Member, Source]]:
    """Return the members that are to be sent, and those that were taken over from other runs."""
    # With hashes: a member whose files were altered is made again.
    lacks = missing_members(run, plan, verify=True)
    lacks = {member: lack for member, lack in lacks.items() if member.index not in active}
    check_folders(run, lacks)
    taken = adopt_members(run, plan, {one: offer.found[one] for one in lacks if one in offer.found})
    provenance.note_taken(run, {one.name: source.title for one, source in taken.items()})
    whole = {one for one, source in taken.items() if source.state == "done"}
    return tuple(sorted(one.index for one in lacks if one not in whole)), taken


def _send_local(run: RunPaths, site: Site, todo: tuple[int, ...], code: Snapshot) -> Submission:
    job_id = str(start_queue(run, todo, code))
    job = JobRecord(job_id=job_id, scheduler="local", site=site.name, members=todo, submitted=now())
    record(run, job)
    return Submission(members=todo, job_ids=(job_id,), report_job_id=job_id)


@dataclass(frozen=True)
class SlurmSender:
    """Sends arrays and the report's job, each noted before and after; holds the run's lock."""

    run: RunPaths
    plan: Plan
    site: Site
    calls: Calls
    lock: int
    awaited: tuple[str, ...] = ()

    def send(self, todo: tuple[int, ...], after: set[str], status: RunStatus) -> Submission:
        """Send the members and, in place of one that waits, the report after all of them."""
        parts = shares(todo, self.site)
        job_ids: list[str] = []
        try:
            for part in parts:
                request = part.request(self.plan, self.site, self.run.slurm, job_ids, self.awaited)
                job_ids.append(self._send(request, part.members))
            report = self._send_report(after | set(job_ids), status)
        except LaunchError as error:
            if not job_ids:
                raise
            # without a report: it would count against the limit too, and find members missing
            raise self._describe_stop(error, parts, job_ids) from error
        return Submission(members=todo, job_ids=tuple(job_ids), report_job_id=report)

    def _send_report(self, after: set[str], status: RunStatus) -> str:
        # Only when the members are sent: killed before, the old report still waits for something.
        # In its place there is one that waits for all.
        if status.report_is_due:
            slurm.order(["scancel", status.report_job])
        waits_for = ":".join(sorted(after)) or None
        num_rows = len(load_splits(self.run, self.plan, ["fold"]))
        request = executor.aggregate_request(
            self.plan, self.site, self.run.slurm, waits_for, num_rows
        )
        return self._send(request, ())

    def _describe_stop(
        self, error: LaunchError, parts: Sequence[Share], job_ids: Sequence[str]
    ) -> LaunchError:
        """Return what to say where only the first jobs were taken, as by a limit of jobs."""
        numbers = [len(part.members) for part in parts]
        number, total = sum(numbers[: len(job_ids)]), sum(numbers)
        rest = "the others and the report were" if number < total else "the report was"
        return LaunchError(
            f"{number} of {total} members were submitted as job {', '.join(job_ids)}, {rest} not: "
            f"{error}; when those have ended, submit the rest with: {resume_command(self.run)}"
        )

    def _send(self, request: JobRequest, members: tuple[int, ...]) -> str:
        root, calls = self.run.root, self.calls

        def submit(sending: Sending) -> str:
            if members:
                return executor.submit_array(request, sending, calls.member, root, members)
            return executor.submit_single(request, sending, calls.aggregate, root)

        return send_noted(self.run, self.site, members, self.lock, submit)


def send_noted(
    run: RunPaths,
    site: Site,
    members: tuple[int, ...],
    lock: int,
    submit: Callable[[Sending], str],
) -> str:
    """Send a job that is noted before and after, under a run's lock; return its id."""
    sending = Sending(inherited=(lock,))
    intent = JobRecord(
        token=sending.token, scheduler="slurm", site=site.name, members=members, submitted=now()
    )
    # On disk before sbatch runs: killed from here on, the next command finds a token without an
    # id, and asks for it.
    record(run, intent)
    try:
        job_id = submit(sending)
    except LaunchError as error:
        # A busy controller may have taken the job: the intent stays open, for `settle` to ask.
        # Only a clear refusal is noted as never sent.
        if not slurm.is_busy(error):
            record(run, intent.model_copy(update={"job_id": NEVER_SENT}))
        raise
    record(run, intent.model_copy(update={"job_id": job_id}))
    return job_id
