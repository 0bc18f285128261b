"""The usage of a run: GPU-hours a member and attempt, useful and wasted, against the estimate.

An attempt is useful until the last checkpoint that was saved in it, and to its end where the member
was completed by it; what comes after is wasted. Pure functions make it from SLURM's accounting, or
from the members' own records where there is none; `run_usage` reads both.
"""

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

from lenshpc.launch.accounting import Allocation, ask_accounting
from lenshpc.launch.efficiency import Use, combine, judge, warn
from lenshpc.launch.jobs import records
from lenshpc.launch.local import read_queue
from lenshpc.launch.marks import had_gpus, read_marks
from lenshpc.run.attempts import Event, read_events
from lenshpc.run.completion import is_done
from lenshpc.run.measured import Measured, read_measured
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan

# not REQUEUED: in sacct that is an attempt that has ended
RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED"})


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
    elapsed_s: float
    use: Use

    @property
    def wasted_hours(self) -> float:
        """Return the hours that led to no checkpoint."""
        return self.hours - self.useful_hours


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What some attempts cost together, and what they asked for and used; None where none ran."""

    attempts: int
    hours: float
    useful_hours: float
    wasted_hours: float
    use: Use | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a run has cost.

    `unit` is GPU, or core where no attempt had a GPU. `source` is sacct, or heartbeats: then each
    attempt counts until the last sign of life that it gave. `estimate_hours` is the dry run's
    ceiling. `warnings` are of GPUs that idled. The report's job is not counted.
    """

    unit: str
    source: str
    estimate_hours: float
    attempts: tuple[Attempt, ...]
    warnings: tuple[str, ...] = ()

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

    def summary(self) -> dict[str, Any]:
        """Return the same without the attempts."""
        return {key: value for key, value in self.as_json().items() if key != "attempts"}


def _cost(attempts: Sequence[Attempt]) -> Cost:
    return Cost(
        attempts=len(attempts),
        hours=sum(one.hours for one in attempts),
        useful_hours=sum(one.useful_hours for one in attempts),
        wasted_hours=sum(one.wasted_hours for one in attempts),
        use=combine([(one.elapsed_s, one.use) for one in attempts]),
    )


def find_saves(events: Iterable[Event]) -> tuple[float, ...]:
    """Return when a job saved what goes beyond the checkpoint that its attempt began from."""
    begun: set[int] = set()
    times = []
    for event in events:
        if event.what == "started":
            begun.discard(event.restart)
        # An attempt's first `saved` is the checkpoint that it begins from, and no progress of its
        # own.
        elif event.what == "saved" and event.restart in begun:
            times.append(event.time)
        elif event.what == "saved":
            begun.add(event.restart)
    return tuple(times)


def rebuild_attempts(
    job_id: str, events: Sequence[Event], num_gpus: int, num_cpus: int
) -> list[Allocation]:
    """Return the attempts of a job from its own events: each until the last that it told of."""
    return [
        Allocation(
            job_id=job_id,
            state=mine[-1].what.upper(),
            start=mine[0].time,
            elapsed_s=mine[-1].time - mine[0].time,
            num_gpus=num_gpus,
            num_cpus=num_cpus,
            member=mine[0].member,
        )
        for mine in _split_events(events)
    ]


def _split_events(events: Sequence[Event]) -> list[list[Event]]:
    """Return the events of each attempt, in the order in which they began."""
    found: dict[tuple[int, int], list[Event]] = {}
    starts: Counter[int] = Counter()
    for event in events:
        # By what began and not by the restart alone: the number of a process of this machine, its
        # job's name, comes again in time, for any member.
        starts[event.restart] += event.what == "started"
        found.setdefault((event.restart, starts[event.restart]), []).append(event)
    return sorted(found.values(), key=lambda mine: mine[0].time)


def account(
    plan: Plan,
    jobs: Mapping[str, int],
    allocations: Iterable[Allocation],
    saved: Mapping[str, Sequence[float]],
    kept_members: Container[int],
    measured: Mapping[str, Sequence[Measured]],
) -> tuple[Attempt, ...]:
    """Return the attempts of a run, by member and time.

    `jobs` has the member of each job, `saved` the times at which each saved a checkpoint,
    `kept_members` those that are complete or still run, `measured` what the ranks of each job used.
    Hours count GPUs, or cores where no attempt had a GPU.
    """
    mine: dict[int, list[Allocation]] = {}
    for one in sorted(allocations, key=lambda one: one.start):
        member = jobs.get(one.job_id) if one.member is None else one.member
        if member is not None:
            mine.setdefault(member, []).append(one)
    everything = [one for some in mine.values() for one in some]
    gpus, ranks = any(one.num_gpus for one in everything), match_ranks(everything, measured)
    attempts = []
    for index, some in sorted(mine.items()):
        for number, one in enumerate(some, start=1):
            kept = number == len(some) and (index in kept_members or one.state in RUNNING)
            useful_s = one.elapsed_s if kept else _useful_s(one, saved.get(one.job_id, ()))
            hours = (one.num_gpus if gpus else one.num_cpus) / 3600
            attempts.append(
                Attempt(
                    **plan.members[index].model_dump(exclude={"index"}),
                    member=index,
                    number=number,
                    job=one.job_id,
                    state=one.state,
                    nodes=one.nodes,
                    hours=hours * one.elapsed_s,
                    useful_hours=hours * useful_s,
                    elapsed_s=one.elapsed_s,
                    use=judge(one, ranks[one.job_id, one.start], plan.recipe.resources),
                )
            )
    return tuple(attempts)


def match_ranks(
    attempts: Iterable[Allocation], measured: Mapping[str, Sequence[Measured]]
) -> dict[tuple[str, float], list[Measured]]:
    """Return (job, start) of each attempt → what its ranks measured before the next one began."""
    starts: dict[str, list[float]] = {}
    for one in attempts:
        starts.setdefault(one.job_id, []).append(one.start)
    found: dict[tuple[str, float], list[Measured]] = {}
    for job, some in starts.items():
        some.sort()
        for start, after in zip_longest(some, some[1:], fillvalue=math.inf):
            ranks = [one for one in measured.get(job, ()) if start <= one.updated < after]
            # An attempt whose node was given up for lost may go on beside its next one.
            latest = {one.rank: one for one in sorted(ranks, key=lambda one: one.restart)}
            found[job, start] = list(latest.values())
    return found


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
    queue, measured = read_queue(run), read_measured(run)
    jobs = sent | {job_id: member for member, job_id in queue.jobs.items()}
    events = {job: read_events(run.attempts(job)) for job in {*jobs, *run.list_attempted()}}
    gpus = _count_gpus(run, plan)
    # Not each site's accounting counts GPUs, nor does SLURM where they come with the node.
    told = [replace(one, num_gpus=one.num_gpus or gpus) for one in ask_accounting(sent)]
    untold = events.keys() - {one.job_id for one in told}
    rebuilt = _rebuild(plan, {job: events[job] for job in untold}, measured, gpus)
    done = {member.index for member in plan.members if is_done(run, plan, member)}
    running = {member for member, state in queue.states.items() if state == "RUNNING"}
    saved = {job: find_saves(some) for job, some in events.items()}
    attempts = account(plan, jobs, [*told, *rebuilt], saved, done | running, measured)
    on_gpus = gpus > 0 or any(one.num_gpus for one in told)
    sources = {"sacct": told, "heartbeats": rebuilt or not told}
    usage = Usage(
        unit="GPU" if on_gpus else "core",
        source=" and ".join(name for name, some in sources.items() if some),
        estimate_hours=plan.gpu_hours_ceiling if on_gpus else plan.core_hours_ceiling,
        attempts=attempts,
    )
    uses = {member: cost.use for member, cost in usage.by("member").items()}
    return replace(usage, warnings=tuple(warn(plan, uses)))


def _rebuild(
    plan: Plan,
    events: Mapping[str, Sequence[Event]],
    measured: Mapping[str, Sequence[Measured]],
    gpus: int,
) -> list[Allocation]:
    """Return the attempts of jobs that no accounting knows, each until its last sign of life."""
    resources = plan.recipe.resources
    cpus = resources.world_size * resources.cpus_per_gpu
    found = [one for job, some in events.items() for one in rebuild_attempts(job, some, gpus, cpus)]
    ranks = match_ranks(found, measured)
    return [
        replace(one, elapsed_s=max([one.elapsed_s, *(rank.updated - one.start for rank in mine)]))
        for one in found
        for mine in [ranks[one.job_id, one.start]]
    ]


def _count_gpus(run: RunPaths, plan: Plan) -> int:
    """Return the GPUs of a member; 0 where it has none, though it asked for some."""
    size = plan.recipe.resources
    return size.nodes * size.gpus_per_node if had_gpus(run, plan, read_marks(run, plan)) else 0
