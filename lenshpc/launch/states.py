"""Where every member of a run stands: the scheduler's word joined with the run's own marks."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from lenshpc.errors import LensHpcError
from lenshpc.launch import executor
from lenshpc.launch.failures import NO_LOG, Failure, classify, find_failure, read_tails
from lenshpc.launch.jobs import JobRecord, intents, latest_of_members, records
from lenshpc.launch.local import Queue, describe_absence, read_failure, read_queue
from lenshpc.launch.marks import Marks, had_gpus, read_marks
from lenshpc.launch.reconcile import reconcile
from lenshpc.launch.slurm import JobState, Known, query
from lenshpc.launch.waiting import explain, explain_local
from lenshpc.run.gate import Standing, Step
from lenshpc.run.ownership import find_owner
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan

ENDED = frozenset({"DONE", "TRAINED", "FAILED", "CANCELLED", "NOT SUBMITTED"})
UNTOLD = frozenset({"CANCELLED", "UNKNOWN"})  # failures of which a log says no more
WITHOUT_RESULTS = "its job succeeded, but its results are missing"
SENT_SINCE = "jobs were submitted after SLURM was asked"
SECONDS_AN_HOUR = 3600
LOCAL_POLL_S, SLURM_POLL_S = 0.5, 10.0


@dataclass(frozen=True, kw_only=True)
class MemberStatus:
    """One line of `lenshpc status`.

    `state` is DONE, TRAINED (of a study's trial, which predicts nothing), NOT SUBMITTED, FAILED
    (ended without being done), CANCELLED (somebody ended it), UNKNOWN (the scheduler does not
    answer) or SLURM's own word for a job that waits or runs;
    `reason` says how a job ended or why it waits, `failure` what that was and what follows;
    `epoch` epochs are done, and `fraction` of the next one. Of one that trains, `left_s` is what
    it takes from now on, and `estimated_end` when that is, ISO 8601 in UTC. `curve` has the
    monitored metric, an epoch each; `adopted` names the run and member that it was taken over from;
    `fault` is what is wrong with its files.
    """

    index: int
    name: str
    state: str
    job: str = ""
    epoch: int = 0
    epochs: int = 0
    best_metric: float | None = None
    gpu_hours: float = 0.0
    node: str = ""
    reason: str = ""
    failure: Failure | None = None
    fraction: float = 0.0
    left_s: float | None = None
    estimated_end: str = ""
    curve: tuple[float, ...] = ()
    adopted: str = ""
    fault: str = ""

    @property
    def step(self) -> Step:
        """Return what follows where it is not done."""
        if self.state == "UNKNOWN":
            return "ask"
        if self.state not in ENDED:
            return "wait"
        # A cancelled member has a failure too, after which there is nothing to correct.
        is_broken = self.failure and self.failure.action == "stop" and self.state == "FAILED"
        return "correct" if is_broken else "resume"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What `lenshpc status` shows.

    `report_reason` says why the report's job waits, or how it ended though all members are done;
    `silence` why the scheduler did not answer. Hours of members are of `unit`: GPU, or process
    where they are on CPUs.
    """

    run: str
    members: tuple[MemberStatus, ...]
    report: str
    report_job: str = ""
    report_reason: str = ""
    silence: str = ""
    unit: str = "GPU"

    def as_json(self) -> dict[str, Any]:
        """Return plain values; curves are left out, which are many numbers."""
        told = asdict(self)
        for line in told["members"]:
            del line["curve"]
        return told

    @property
    def has_ended(self) -> bool:
        """Return whether nothing waits or runs any more."""
        ended = all(line.state in ENDED for line in self.members)
        return ended and not self.report_is_due and not self.silence

    @property
    def report_is_due(self) -> bool:
        """Return whether an aggregation waits or runs."""
        return self.report in {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All that is known of a run, each read once; `unseen` says why jobs may be unknown here."""

    run: RunPaths
    plan: Plan
    latest: Mapping[int, tuple[JobRecord, str]]
    spent_s: Mapping[int, int]
    known: Known
    queue: Queue
    marks: Mapping[int, Marks]
    unsettled: frozenset[int]
    unseen: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What SLURM has said of the jobs of several runs, in one answer or one silence."""

    job_ids: frozenset[str]
    known: Known


def ask_for_all(runs: Iterable[RunPaths]) -> Asked:
    """Ask SLURM once for the jobs of several runs."""
    job_ids: set[str] = set()
    for run in runs:
        with suppress(LensHpcError, OSError):  # told where the run itself is looked at
            job_ids |= slurm_jobs(run)
    return Asked(job_ids=frozenset(job_ids), known=query(job_ids))


def run_status(run: RunPaths, plan: Plan, asked: Asked | None = None) -> RunStatus:
    """Return the status of a run; one query for all its jobs, unless SLURM was `asked` for them."""
    # Before the records are read: it may add the ids of jobs.
    unsettled = reconcile(run)
    sent = slurm_jobs(run)
    if asked is None or not sent or not sent <= asked.job_ids:
        asked = Asked(job_ids=sent, known=query(sent))
    silence = asked.known.silence or unsettled
    return read_status(
        run, plan, replace(asked, known=Known(jobs=asked.known.jobs, silence=silence))
    )


def slurm_jobs(run: RunPaths) -> frozenset[str]:
    """Return the ids of the jobs that a run has sent to SLURM."""
    return frozenset(job.job_id for job in records(run) if job.scheduler == "slurm")


def read_status(run: RunPaths, plan: Plan, asked: Asked) -> RunStatus:
    """Return the status of a run from what SLURM has said; nobody is asked, nothing written."""
    jobs, queue, known = records(run), read_queue(run), asked.known
    absence = describe_absence(run, queue) if queue.is_elsewhere else ""
    # What was asked before a job was sent knows nothing of it, and would call it ended.
    lateness = "" if slurm_jobs(run) <= asked.job_ids else SENT_SINCE
    known = Known(jobs=known.jobs, silence=known.silence or absence or lateness)
    hidden = plan.members if run.hides_jobs else ()
    sources = Sources(
        run=run,
        plan=plan,
        latest=latest_of_members(run),
        spent_s=_sum_seconds(jobs, known),
        known=known,
        queue=queue,
        marks=read_marks(run, plan),
        unsettled=frozenset(
            [*(one.index for one in hidden), *(at for job in intents(run) for at in job.members)]
        ),
        unseen=_describe_owner(run),
    )
    members = tuple(_member_status(sources, member) for member in plan.members)
    report_job, report = _report(sources, jobs)
    is_told = report == "PENDING" or all(line.state == "DONE" for line in members)
    return RunStatus(
        run=run.name,
        members=members,
        report=report,
        report_job=report_job,
        report_reason=_explain_report(sources, report_job, report) if is_told else "",
        silence=known.silence,
        unit="GPU" if had_gpus(run, plan, sources.marks) else "process",
    )


def has_own_queue(run: RunPaths) -> bool:
    """Say whether the run is one of this machine's queue, and ours to stop."""
    return bool(read_queue(run).pid) and find_owner(run) is None


def follow(run: RunPaths, plan: Plan) -> Iterator[RunStatus]:
    """Yield where a run stands until nothing waits or runs; at last that it has ended."""
    every_s = LOCAL_POLL_S if has_own_queue(run) else SLURM_POLL_S
    while not (status := run_status(run, plan)).has_ended:
        yield status
        time.sleep(every_s)
    yield status


def _describe_owner(run: RunPaths) -> str:
    """Return why the jobs of another user's run may be unknown; nothing of an own one."""
    owner = find_owner(run)
    return f"the jobs of {owner} are not all shown to others" if owner else ""


def standings(run: RunPaths, plan: Plan) -> dict[int, Standing]:
    """Return member index → where it stands, for those that are not done."""
    return {
        line.index: Standing(state=line.state, reason=line.reason, step=line.step)
        for line in run_status(run, plan).members
        if line.state != "DONE"
    }


def _sum_seconds(jobs: list[JobRecord], known: Known) -> dict[int, int]:
    """Return member → seconds of all its jobs, by SLURM's accounting; nothing without one."""
    spent: dict[int, int] = {}
    for job in jobs:
        for member, job_id in job.elements().items():
            state = known.jobs.get(job_id)
            spent[member] = spent.get(member, 0) + (state.elapsed_s if state else 0)
    return spent


def _member_status(sources: Sources, member: Member) -> MemberStatus:
    marks = sources.marks.get(member.index, Marks())
    job, word = _scheduler_word(sources, member.index)
    state, reason, failure = _classify(sources, job, word, is_done=marks.is_done)
    if state == "NOT SUBMITTED" and marks.is_trained:
        state = "TRAINED"
    known = sources.known.jobs.get(job)
    epochs = sources.plan.recipe_of(member).train.epochs
    size = sources.plan.recipe.resources.world_size
    end = _estimate_end(marks) if state == "RUNNING" else None
    spent_s = sources.spent_s.get(member.index) or marks.seconds
    return MemberStatus(
        index=member.index,
        name=member.name,
        state=state,
        job=job,
        epoch=marks.epoch,
        epochs=epochs,
        best_metric=marks.best_metric,
        gpu_hours=round(spent_s * size / SECONDS_AN_HOUR, 4),
        # Not where it ran before: a job that waits is nowhere.
        node=known.nodes if known and (known.nodes or known.is_active) else marks.node,
        reason=reason or marks.fault or _describe_marks(marks, state),
        failure=failure,
        fraction=round(marks.fraction, 4),
        left_s=None if end is None else max(0.0, round(end - time.time(), 1)),
        estimated_end="" if end is None else _moment(end),
        curve=marks.curve,
        adopted=marks.adopted,
        fault=marks.fault,
    )


def _describe_marks(marks: Marks, state: str) -> str:
    """Return what a member's own files tell of how it came to its state."""
    if marks.adopted:
        return f"taken over from {marks.adopted.partition('/')[0]}"
    return WITHOUT_RESULTS if state == "FAILED" else ""


def _estimate_end(marks: Marks) -> float | None:
    """Return when training ends, by what it told last: of one that hangs that may be over."""
    return None if marks.left_s is None else marks.updated + marks.left_s


def _moment(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")


def _scheduler_word(sources: Sources, index: int) -> tuple[str, str]:
    """Return the job of a member and what its scheduler calls its state."""
    if index in sources.unsettled:
        return "", "UNKNOWN"
    if index not in sources.latest:
        return "", "NOT SUBMITTED"
    job, job_id = sources.latest[index]
    if job.scheduler == "slurm":
        known = sources.known.jobs.get(job_id)
        return job_id, known.state if known else "UNKNOWN"
    queue = sources.queue
    return queue.jobs.get(index, ""), queue.states.get(index, "LOST")


def _classify(
    sources: Sources, job: str, word: str, *, is_done: bool
) -> tuple[str, str, Failure | None]:
    """Return the state of a member, its reason, and how it failed."""
    # The mark before the scheduler's word: a member may be done although its job failed afterwards.
    if is_done:
        return "DONE", "", None
    if word == "NOT SUBMITTED":
        return word, "", None
    # Silence is no end: a state that is only unknown must not become FAILED, or the member is sent
    # while it runs.
    silence = sources.known.silence or sources.unseen
    if word == "UNKNOWN" and silence:
        return word, silence, None
    if word == "LOST":
        failure = read_failure(sources.run)
        why = failure.line or "it was killed"
        return "FAILED", f"the local queue ended before it: {why}", failure
    known = sources.known.jobs.get(job, JobState(job_id=job, state=word))
    if known.is_active:
        return word, _explain_wait(sources, job) if word == "PENDING" else "", None
    if word == "COMPLETED":  # its files were lost since, or a line of setup has run something else
        return "FAILED", "", None
    failure = _find_failure(sources, known)
    # A log that tells of an error was written before somebody cancelled what was left of the job;
    # lost connections and signals are what the cancelling itself leaves in one.
    is_cancelled = word == "CANCELLED" and (failure.action != "stop" or failure.name in UNTOLD)
    # without accounting the log alone tells of it
    if is_cancelled or failure.name == "CANCELLED":
        reason = f"job {job} was cancelled" if job else "it was cancelled while it waited"
        return "CANCELLED", reason, find_failure("CANCELLED")
    return "FAILED", _describe_end(known, failure), failure


def _explain_wait(sources: Sources, job: str) -> str:
    """Return why a member waits: not what an earlier attempt of one that runs has waited for."""
    known = sources.known.jobs.get(job)
    return explain(known.reason) if known else explain_local(sources.run, sources.plan)


def _explain_report(sources: Sources, job: str, state: str) -> str:
    """Return why the report's job waits, or how it ended without a report."""
    known = sources.known.jobs.get(job)
    if known is None or state == "DONE":
        return ""
    if known.is_active:
        return explain(known.reason) if state == "PENDING" else ""
    return _describe_end(known, _find_failure(sources, known))


def _find_failure(sources: Sources, known: JobState) -> Failure:
    """Return how a job failed, by SLURM's word, its logs and its exit code."""
    logs = read_tails(executor.log_paths(sources.run.slurm, known.job_id))
    # What accounting tells by the exit code: the node could not even open a log.
    is_blind = not logs and known.reason == "JobLaunchFailure"
    code = NO_LOG if is_blind else known.exit_code
    return classify(known.state, code, logs, known.nodes, sources.run.slurm)


def _describe_end(known: JobState, failure: Failure) -> str:
    name = f"job {known.job_id}" if known.job_id else "its job"
    is_unseen = known.state == "UNKNOWN"
    how = "ended unseen by the scheduler" if is_unseen else f"ended {known.state}"
    return f"{name} {how}{f': {failure.line}' if failure.line else ''}"


def _report(sources: Sources, jobs: list[JobRecord]) -> tuple[str, str]:
    """Return the latest aggregation's job, and DONE, FAILED or what the scheduler says of it."""
    aggregations = [job for job in jobs if not job.members]
    job_id, word = "", sources.queue.report
    if aggregations and aggregations[-1].scheduler == "slurm":
        job_id = aggregations[-1].job_id
        known = sources.known.jobs.get(job_id)
        word = known.state if known else "UNKNOWN"
    elif sources.queue.pid and not word:
        word = "UNKNOWN" if sources.queue.is_elsewhere else "PENDING"
    if word in {"", "COMPLETED", "UNKNOWN"}:
        is_there = (sources.run.report / "report.html").is_file()
        ended = "FAILED" if word == "COMPLETED" else word or "NOT SUBMITTED"
        return job_id, "DONE" if is_there else ended
    return job_id, "FAILED" if word == "LOST" else word
