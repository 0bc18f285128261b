"""The usage of a run: GPU-hours a member and attempt, useful and wasted, against the estimate.

An attempt is useful until the last checkpoint that was saved in it, and to its end where the member
was completed by it; what comes after is wasted. Pure functions make it from SLURM's accounting, or
from the members' own records where there is none; `run_usage` reads both.
"""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from lenshpc.errors import LaunchError
from lenshpc.launch import slurm
from lenshpc.launch.jobs import records
from lenshpc.launch.local import read_queue
from lenshpc.launch.marks import read_marks
from lenshpc.run.attempts import Event, read_events
from lenshpc.run.completion import is_done
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan

# not REQUEUED: in sacct that is an attempt that has ended
RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED"})
FIELDS = "JobID,State,Start,ElapsedRaw,AllocTRES,NodeList"
SACCT = ("sacct", "-X", "-D", "-n", "-P", f"--format={FIELDS}")  # -D: every attempt of a job


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """One line of `sacct -D`: what a job, or one attempt of a requeued one, was given.

    `start` is in seconds since 1970.
    """

    job_id: str
    state: str
    start: float
    elapsed_s: float
    num_gpus: int
    num_cpus: int
    nodes: str = ""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One time that a member ran; `number` counts from 1. Hours are of GPUs, or of CPU cores."""

    member: int
    model: str
    fold: int
    seed: int
    number: int
    job: str
    state: str
    nodes: str
    hours: float
    useful_hours: float

    @property
    def wasted_hours(self) -> float:
        """Return the hours that led to no checkpoint."""
        return self.hours - self.useful_hours


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What some attempts cost together."""

    attempts: int
    hours: float
    useful_hours: float
    wasted_hours: float


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a run has cost.

    `unit` is GPU, or core where no attempt had a GPU. `source` is sacct, or heartbeats: then each
    attempt counts until the last sign of life that it gave. `estimate_hours` is the dry run's
    ceiling. The report's job is not counted.
    """

    unit: str
    source: str
    estimate_hours: float
    attempts: tuple[Attempt, ...]

    @property
    def total(self) -> Cost:
        """Return the cost of the whole run."""
        return _cost(self.attempts)

    def by(self, key: str) -> dict[Any, Cost]:
        """Return the cost for each `member`, `model` or `fold`."""
        groups: dict[Any, list[Attempt]] = {}
        for attempt in self.attempts:
            groups.setdefault(getattr(attempt, key), []).append(attempt)
        return {value: _cost(groups[value]) for value in sorted(groups)}

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        tables = {
            f"{key}s": {str(value): asdict(cost) for value, cost in self.by(key).items()}
            for key in ("member", "model", "fold")
        }
        return {**asdict(self), "total": asdict(self.total), **tables}


def _cost(attempts: Sequence[Attempt]) -> Cost:
    return Cost(
        attempts=len(attempts),
        hours=sum(one.hours for one in attempts),
        useful_hours=sum(one.useful_hours for one in attempts),
        wasted_hours=sum(one.wasted_hours for one in attempts),
    )


def parse_allocations(text: str) -> list[Allocation]:
    """Return the allocations in the lines of FIELDS that have started, oldest first.

    A line that is no such record, as a banner's, is passed over.
    """
    found = []
    for line in text.split("\n"):
        fields = line.rstrip("\r").split("|", 5)
        start = _parse_time(fields[2]) if len(fields) == 6 else None
        word = slurm.STATE.fullmatch(fields[1]) if len(fields) == 6 else None
        if start is None or word is None or slurm.IDENTITY.fullmatch(fields[0]) is None:
            continue
        job_id, _, _, elapsed, tres, nodes = fields
        found.append(
            Allocation(
                job_id=job_id,
                state=word[1],
                start=start,
                elapsed_s=float(slurm.read_number(elapsed)),
                num_gpus=_count(tres, r"gres/gpu"),
                num_cpus=_count(tres, r"cpu"),
                nodes=nodes,
            )
        )
    return sorted(found, key=lambda one: one.start)


def _parse_time(text: str) -> float | None:
    """Return `2026-01-02T03:04:05` in seconds since 1970; None of `Unknown`."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _count(tres: str, name: str) -> int:
    """Return a count in `cpu=4,gres/gpu=2,gres/gpu:a100=2`."""
    match = re.search(rf"(?:^|,){name}=([0-9]{{1,9}})\b", tres)
    return int(match[1]) if match else 0


def find_saves(events: Iterable[Event]) -> tuple[float, ...]:
    """Return when a job saved what goes beyond the checkpoint that its attempt began from."""
    begun: set[int] = set()
    times = []
    for event in events:
        # An attempt's first `saved` is the checkpoint that it begins from, and no progress of its
        # own.
        if event.what == "saved" and event.restart in begun:
            times.append(event.time)
        elif event.what == "saved":
            begun.add(event.restart)
    return tuple(times)


def rebuild_attempts(
    job_id: str, events: Sequence[Event], num_gpus: int, num_cpus: int
) -> list[Allocation]:
    """Return the attempts of a job from its own events: each until the last that it told of."""
    found = []
    for restart in sorted({event.restart for event in events}):
        mine = [event for event in events if event.restart == restart]
        found.append(
            Allocation(
                job_id=job_id,
                state=mine[-1].what.upper(),
                start=mine[0].time,
                elapsed_s=mine[-1].time - mine[0].time,
                num_gpus=num_gpus,
                num_cpus=num_cpus,
            )
        )
    return found


def account(
    plan: Plan,
    jobs: Mapping[str, int],
    allocations: Iterable[Allocation],
    saved: Mapping[str, Sequence[float]],
    done: Container[int],
) -> tuple[Attempt, ...]:
    """Return the attempts of a run, by member and time.

    `jobs` has the member of each job, `saved` the times at which each saved a checkpoint, `done`
    the members that are complete. Hours count GPUs, or cores where no attempt had a GPU.
    """
    mine: dict[int, list[Allocation]] = {}
    for one in allocations:
        if one.job_id in jobs:
            mine.setdefault(jobs[one.job_id], []).append(one)
    gpus = any(one.num_gpus for some in mine.values() for one in some)
    attempts = []
    for index, some in sorted(mine.items()):
        member = plan.members[index]
        for number, one in enumerate(some, start=1):
            kept = number == len(some) and (index in done or one.state in RUNNING)
            useful_s = one.elapsed_s if kept else _useful_s(one, saved.get(one.job_id, ()))
            hours = (one.num_gpus if gpus else one.num_cpus) / 3600
            attempts.append(
                Attempt(
                    **member.model_dump(exclude={"index"}),
                    member=index,
                    number=number,
                    job=one.job_id,
                    state=one.state,
                    nodes=one.nodes,
                    hours=hours * one.elapsed_s,
                    useful_hours=hours * useful_s,
                )
            )
    return tuple(attempts)


def _useful_s(one: Allocation, saved: Iterable[float]) -> float:
    """Return the part of an attempt that ended early which is not lost."""
    since = (when - one.start for when in saved)
    return max((seconds for seconds in since if 0 <= seconds <= one.elapsed_s), default=0.0)


def run_usage(run: RunPaths, plan: Plan) -> Usage:
    """Return the usage of a run: from accounting, else from the members' own records."""
    sent = {
        job_id: member
        for job in records(run)
        if job.scheduler == "slurm"
        for member, job_id in job.elements().items()
    }
    jobs = sent | {job_id: member for member, job_id in read_queue(run).jobs.items()}
    events = {job_id: read_events(run.attempts(job_id)) for job_id in jobs}
    allocations = _accounting(sent)
    source = "sacct" if allocations else "heartbeats"
    allocations = allocations or _collect_attempts(run, plan, events)
    done = {member.index for member in plan.members if is_done(run, plan, member)}
    saved = {job_id: find_saves(some) for job_id, some in events.items()}
    attempts = account(plan, jobs, allocations, saved, done)
    gpus = any(one.num_gpus for one in allocations)
    return Usage(
        unit="GPU" if gpus else "core",
        source=source,
        estimate_hours=plan.gpu_hours_ceiling if gpus else plan.core_hours_ceiling,
        attempts=attempts,
    )


def summary(run: RunPaths, plan: Plan) -> dict[str, Any]:
    """Return what a run has cost as plain values: in total, by member, by model and by fold."""
    return {k: v for k, v in run_usage(run, plan).as_json().items() if k != "attempts"}


def _collect_attempts(
    run: RunPaths, plan: Plan, events: Mapping[str, Sequence[Event]]
) -> list[Allocation]:
    resources = plan.recipe.resources
    gpus = 0 if _is_on_cpu(run, plan) else resources.nodes * resources.gpus_per_node
    cpus = resources.world_size * resources.cpus_per_gpu
    return [
        one for job_id, some in events.items() for one in rebuild_attempts(job_id, some, gpus, cpus)
    ]


def _accounting(jobs: Iterable[str]) -> list[Allocation]:
    wanted = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    if not wanted:
        return []
    try:
        return parse_allocations(slurm.ask([*SACCT, "-j", wanted]))
    except LaunchError:  # no accounting here, or it is down
        return []


def _is_on_cpu(run: RunPaths, plan: Plan) -> bool:
    """Return whether a completed member says that it had no GPU."""
    return any(marks.device == "cpu" for marks in read_marks(run, plan).values())
