"""What SLURM's accounting says of attempts: what each was given, asked for and used.

A line of `sacct -D` is an attempt of a job, or a step of the attempt above it. Steps tell memory.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from lenshpc.errors import LaunchError
from lenshpc.launch import slurm

FIELDS = "JobID,State,Start,ElapsedRaw,AllocTRES,ReqTRES,TotalCPU,NTasks,MaxRSS,AveRSS,NodeList"
NUM_FIELDS = FIELDS.count(",") + 1
SACCT = ("sacct", "-D", "-n", "-P", f"--format={FIELDS}")  # -D: every attempt of a job
STEP = re.compile(rf"({slurm.IDENTITY.pattern})\.[0-9a-z+]{{1,20}}")
BYTES = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([KMGTPE]?)")
GPUS = re.compile(r"(?:^|,)gres/gpu(:[^=,]+)?=([0-9]{1,9})(?=,|$)")
# [days-][hours:]minutes:seconds[.fraction]
CPU_TIME = re.compile(
    r"(?:(?:([0-9]{1,5})-)?([0-9]{1,5}):)?([0-9]{1,5}):([0-9]{1,2}(?:\.[0-9]{1,6})?)"
)


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What a job, or one attempt of a requeued one, was given, asked for (ReqTRES) and used.

    `start` is in seconds since 1970. None is not known. `memory_bytes` is what all tasks of the
    largest step held, each at its peak. `member` is told where the job's id does not name it.
    """

    job_id: str
    state: str
    start: float
    elapsed_s: float
    num_gpus: int
    num_cpus: int
    nodes: str = ""
    cpus_asked: int | None = None
    memory_asked_bytes: float | None = None
    cpu_s: float | None = None
    memory_bytes: float | None = None
    member: int | None = None


def ask_accounting(jobs: Iterable[str]) -> list[Allocation]:
    """Return the attempts of jobs; none where there is no accounting, or it is down."""
    wanted = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    if not wanted:
        return []
    try:
        return parse_allocations(slurm.ask([*SACCT, "-j", wanted]))
    except LaunchError:
        return []


def parse_allocations(text: str) -> list[Allocation]:
    """Return the attempts in the lines of FIELDS that have started, oldest first.

    A line that is no such record, as a banner's, is passed over.
    """
    found: list[Allocation] = []
    latest: dict[str, int] = {}
    for line in text.split("\n"):
        fields = line.rstrip("\r").split("|", NUM_FIELDS - 1)
        if len(fields) != NUM_FIELDS:
            continue
        step = STEP.fullmatch(fields[0])
        one = _parse_attempt(fields)
        if one:
            latest[one.job_id] = len(found)
            found.append(one)
        elif step and step[1] in latest:
            at = latest[step[1]]
            held = max(found[at].memory_bytes or 0, _parse_step_memory(fields))
            found[at] = replace(found[at], memory_bytes=held or None)
    return sorted(found, key=lambda one: one.start)


def _parse_attempt(fields: list[str]) -> Allocation | None:
    job_id, state, begun, elapsed, given, asked, cpu_time, *_, nodes = fields
    start, word = _parse_time(begun), slurm.read_state(state)
    if start is None or not word or slurm.IDENTITY.fullmatch(job_id) is None:
        return None
    return Allocation(
        job_id=job_id,
        state=word,
        start=start,
        elapsed_s=float(slurm.read_number(elapsed)),
        num_gpus=_count_gpus(given),
        num_cpus=_count_cpus(given),
        nodes=nodes,
        cpus_asked=_count_cpus(asked) or None,
        memory_asked_bytes=parse_bytes(_find(asked, "mem"), "M"),
        cpu_s=parse_cpu_time(cpu_time),
    )


def _parse_step_memory(fields: list[str]) -> float:
    """Return what a step's tasks held; 0 where that was not measured."""
    num_tasks, largest, mean = fields[7:10]
    # The mean of the tasks' peaks: times their number it is the sum, which SLURM has no field for
    # in all versions.
    total = (parse_bytes(mean) or 0) * slurm.read_number(num_tasks)
    return max(total, parse_bytes(largest) or 0)


def _parse_time(text: str) -> float | None:
    """Return `2026-01-02T03:04:05` in seconds since 1970; None of `Unknown`."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def parse_cpu_time(text: str) -> float | None:
    """Return `1-02:03:04` or `00:02.926` in seconds; None of 0, which says it was not measured."""
    match = CPU_TIME.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds or None


def parse_bytes(text: str, unit: str = "") -> float | None:
    """Return `320584K` or `7.81G` in bytes, with a unit for a bare number; None of 0 and others."""
    match = BYTES.fullmatch(text)
    if match is None:
        return None
    return float(match[1]) * 1024 ** " KMGTPE".index(match[2] or unit or " ") or None


def _find(tres: str, name: str) -> str:
    """Return what stands for a name in `cpu=4,mem=8G,node=1`, "" where it does not."""
    match = re.search(rf"(?:^|,){name}=([^,]*)", tres)
    return match[1] if match else ""


def _count_cpus(tres: str) -> int:
    text = _find(tres, "cpu")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def _count_gpus(tres: str) -> int:
    """Return the GPUs in `gres/gpu=2,gres/gpu:a100=2`; a site may count the types alone."""
    found = GPUS.findall(tres)
    untyped = [int(number) for kind, number in found if not kind]
    return sum(untyped or (int(number) for _, number in found))
