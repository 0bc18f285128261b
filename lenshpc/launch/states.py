"""Where every member of a run stands: the scheduler's word joined with the run's own marks."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from lenshpc.completion import is_done
from lenshpc.files import read_json
from lenshpc.launch import executor
from lenshpc.launch.local import Queue, read_queue
from lenshpc.launch.registry import JobRecord, latest_of_members, records
from lenshpc.launch.slurm import JobState, query
from lenshpc.paths import RunPaths
from lenshpc.plan import Member, Plan

ENDED = frozenset({"DONE", "FAILED", "NOT SUBMITTED"})


@dataclass(frozen=True, kw_only=True)
class MemberStatus:
    """One line of `lenshpc status`.

    `state` is DONE, NOT SUBMITTED, FAILED (ended without being done) or SLURM's own word for a job
    that waits or runs; `reason` says how a failed job ended.
    """

    index: int
    name: str
    state: str
    job: str = ""
    epoch: int = 0
    epochs: int = 0
    best_metric: float | None = None
    host: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What `lenshpc status` shows."""

    run: str
    members: tuple[MemberStatus, ...]
    report: str

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @property
    def has_ended(self) -> bool:
        """Return whether nothing waits or runs any more."""
        return not self.report_is_due and all(line.state in ENDED for line in self.members)

    @property
    def report_is_due(self) -> bool:
        """Return whether an aggregation waits or runs."""
        return self.report in {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}


def run_status(run: RunPaths, plan: Plan) -> RunStatus:
    """Return the status of a run; one query for all its jobs."""
    latest = latest_of_members(run)
    jobs = query(job.job_id for job in records(run) if job.scheduler == "slurm")
    queue = read_queue(run)
    members = tuple(
        _member_status(run, plan, member, latest.get(member.index), jobs, queue)
        for member in plan.members
    )
    return RunStatus(run=run.name, members=members, report=_report_state(run, jobs, queue))


def reasons(run: RunPaths, plan: Plan) -> dict[int, str]:
    """Return member index → how its latest job ended, for those that are not done."""
    return {line.index: line.reason for line in run_status(run, plan).members if line.reason}


def _member_status(
    run: RunPaths,
    plan: Plan,
    member: Member,
    record: JobRecord | None,
    jobs: dict[str, JobState],
    queue: Queue,
) -> MemberStatus:
    paths = run.member(member.name)
    job, word = _scheduler_word(member.index, record, jobs, queue)
    state, reason = word, ""
    if is_done(paths, plan.fingerprint()):
        state = "DONE"
    elif record is not None and word not in {"PENDING", "RUNNING"} and not _active(word):
        state, reason = "FAILED", _reason(run, job, word)
    marks = read_json(paths.state) if paths.state.is_file() else {}
    return MemberStatus(
        index=member.index,
        name=member.name,
        state=state,
        job=job,
        epoch=marks.get("epoch", 0),
        epochs=plan.recipe.train.epochs,
        best_metric=marks.get("best_metric"),
        host=marks.get("host", ""),
        reason=reason,
    )


def _scheduler_word(
    index: int, record: JobRecord | None, jobs: dict[str, JobState], queue: Queue
) -> tuple[str, str]:
    """Return the job of a member and what its scheduler calls its state."""
    if record is None:
        return "", "NOT SUBMITTED"
    if record.scheduler == "slurm":
        job_id = record.element(index)
        known = jobs.get(job_id)
        return job_id, known.state if known else "UNKNOWN"
    return queue.jobs.get(index, ""), queue.states.get(index, "CANCELLED")


def _active(word: str) -> bool:
    return JobState(job_id="", state=word).is_active


def _reason(run: RunPaths, job: str, word: str) -> str:
    """Return how a job ended, with the last error in its logs; nothing of one that ended well."""
    if word == "COMPLETED":
        return ""
    how = "ended unseen by the scheduler" if word == "UNKNOWN" else f"ended {word}"
    last = last_line(run, job)
    return f"job {job} {how}" + (f": {last}" if last else "")


def last_line(run: RunPaths, job: str) -> str:
    """Return the last error that the logs of a job show, or else their last line."""
    lines: list[str] = []
    for path in executor.log_paths(run.slurm, job):
        lines += path.read_text(errors="replace").splitlines()[-40:]
    told = [re.sub(r"^(\[rank\d+\]: ?)+", "", line).strip() for line in lines]
    told = [line for line in told if line and not line.startswith("submitit ")]
    errors = [line for line in told if "Error: " in line]
    return (errors or told or [""])[-1][:300]


def _report_state(run: RunPaths, jobs: dict[str, JobState], queue: Queue) -> str:
    """Return DONE, or what the scheduler says of the latest aggregation."""
    aggregations = [job for job in records(run) if not job.members]
    word = queue.report
    if aggregations and aggregations[-1].scheduler == "slurm":
        known = jobs.get(aggregations[-1].job_id)
        word = known.state if known else "UNKNOWN"
    elif queue.pid and not word:
        word = "PENDING"
    if word in {"", "COMPLETED", "UNKNOWN"}:
        return "DONE" if (run.report / "report.html").is_file() else word or "NOT SUBMITTED"
    return word
