"""Judge what SLURM says of itself: each check yields what is unusual. All pure."""

import re
from collections.abc import Iterator

from lenshpc.launch.facts import (
    Facts,
    Limit,
    is_slice,
    is_usable,
    parse_minutes,
)
from lenshpc.launch.finding import ClusterFinding, format_names, format_values
from lenshpc.launch.slurm import DEFAULT_MAX_ARRAY_SIZE, read_number

LONG_MIN = 240  # the time limit that recipes ask for
FEW = 1001  # members in an array or in the queue, which a large run exceeds


def examine_accounting(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge whether the accounting answers, and who is charged."""
    told = facts.accounting
    if told.error:
        yield ClusterFinding(
            level="warning",
            what=f"no accounting: {told.error}",
            meaning="states come from squeue and the run's own marks, GPU-hours from heartbeats",
            advice="nothing; ask the site for slurmdbd if reasons of failures matter",
        )
    elif len(told.accounts) > 1 and "account" not in facts.settled:
        yield ClusterFinding(
            level="note",
            what=f"you have several accounts: {', '.join(told.accounts)}",
            meaning=f"jobs are charged to {told.default or 'none of them'}",
            advice="nothing, or account: NAME in the profile",
        )


def examine_requeue(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge whether jobs come back after preemption and lost nodes."""
    if facts.config.get("JobRequeue") == "0":
        yield ClusterFinding(
            level="note",
            what="JobRequeue=0",
            meaning="a job whose node is lost or that is preempted ends unless it asked for more",
            advice="nothing; members ask for it",
        )


def examine_warning(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge whether a preempted job is warned in time to save."""
    mode = facts.partition.get("PreemptMode", facts.config.get("PreemptMode", "OFF"))
    told = "preempt_send_user_signal" in facts.config.get("SlurmctldParameters", "")
    # A list, as in GANG,SUSPEND; a job that is suspended goes on as if nothing had been.
    if {"REQUEUE", "CANCEL"} & set(mode.split(",")) and not told:
        grace = facts.partition.get("GraceTime", "0")
        yield ClusterFinding(
            level="warning",
            what=f"PreemptMode={mode}, GraceTime={grace}, without preempt_send_user_signal",
            meaning="a preempted member gets no USR2: it resumes from its last epoch's checkpoint",
            advice="choose a partition or QOS without preemption for long epochs",
        )


def examine_arrays(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge how many members go into one array."""
    size = largest_array(facts)
    if size <= FEW:
        yield ClusterFinding(
            level="note",
            what=f"MaxArraySize={size}",
            meaning=f"a run of {size} members or more is submitted as several arrays",
            advice="nothing",
        )


def examine_limits(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the limits of user, account and QOS that a run may meet."""
    for limit in facts.accounting.limits:
        parts = _limit_parts(limit)
        if parts:
            yield ClusterFinding(
                level="note",
                what=f"{limit.of} may have at most " + ", ".join(what for what, _ in parts),
                meaning="; ".join(meaning for _, meaning in parts),
                advice="nothing; the profile's max_array_size, max_parallel and time_min heed it",
            )


def _limit_parts(limit: Limit) -> list[tuple[str, str]]:
    """Return what a run of many members, or of long ones, would meet, and what it means."""
    kinds = (
        (limit.submitted, FEW, "jobs in the queue", "sbatch refuses an array that does not fit"),
        (limit.jobs, FEW, "jobs running", "further members wait"),
        (limit.minutes, LONG_MIN, "minutes a job", f"the recipes' {LONG_MIN} are refused, or wait"),
    )
    return [
        (f"{number} {what}", meaning)
        for number, least, what, meaning in kinds
        if number is not None and number < least
    ]


def examine_wckey(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge whether jobs need a workload key."""
    enforced = "wckeys" in facts.config.get("AccountingStorageEnforce", "")
    if facts.config.get("TrackWCKey") == "Yes" and enforced and "wckey" not in facts.settled:
        yield ClusterFinding(
            level="warning",
            what="workload keys are enforced",
            meaning="sbatch refuses a job of a user without a default key",
            advice="set wckey: KEY in the profile, or ask for a default key",
        )


def examine_version(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge whether srun inherits the CPUs of its job, by the version and by experiment."""
    version = facts.config.get("SLURM_VERSION", "")
    fewer = any(
        report.bare["cpus"] < report.asked["cpus"]
        for report in facts.reports.values()
        if report.bare and report.asked
    )
    if fewer or re.match(r"22\.05|23\.02", version):
        yield ClusterFinding(
            level="note",
            what=f"srun of SLURM {version} does not inherit --cpus-per-task",
            meaning="a step would get one CPU a task",
            advice="nothing; lenshpc gives srun the number again",
        )
    few = {
        name: report.asked["cpus"]
        for name, report in facts.reports.items()
        if report.asked and report.asked["cpus"] < facts.num_cpus
    }
    if few:
        yield ClusterFinding(
            level="warning",
            what=f"steps that asked for {facts.num_cpus} CPUs may use fewer: {format_values(few)}",
            meaning="loading of images is slower than it could be",
            advice="ask the site how srun has to be told",
        )


def examine_time(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge the partition's longest job."""
    limit = facts.partition.get("MaxTime", "UNLIMITED")
    minutes = parse_minutes(limit)
    if minutes is not None and minutes < LONG_MIN:
        yield ClusterFinding(
            level="warning",
            what=f"MaxTime={limit} in partition {facts.partition.get('PartitionName')}",
            meaning=f"sbatch refuses the recipes' {LONG_MIN} minutes",
            advice=f"time_min: {minutes} in the profile, or --set resources.time_min={minutes}",
        )


def examine_nodes(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes that take no jobs, with the reason that SLURM has."""
    partition = facts.partition.get("PartitionName", "")
    names: dict[str, list[str]] = {}
    for node in facts.nodes:
        if partition in node.get("Partitions", "").split(",") and not is_usable(node):
            told = f"{node.get('State', 'UNKNOWN')}: {node.get('Reason', 'no reason given')}"
            names.setdefault(told, []).append(node.get("NodeName", "?"))
    for told, nodes in names.items():
        yield ClusterFinding(
            level="note",
            what=f"{format_names(nodes)} {'is' if len(nodes) == 1 else 'are'} {told}",
            meaning="no jobs are taken there",
            advice="nothing; SLURM itself leaves it out",
        )


def examine_gpus(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the types of GPUs where there are several, or slices."""
    counts = facts.gpu_types
    if "gpu_type" in facts.settled or not counts:
        return
    told = ", ".join(f"{count} of {kind or 'no type'}" for kind, count in counts.items())
    slices = sorted(kind for kind in counts if is_slice(kind))
    if len(counts) > 1:
        yield ClusterFinding(
            level="warning",
            what=f"the partition has several types of GPUs: {told}",
            meaning="members run on whichever is free: speeds differ, and memory may not suffice",
            advice="gpu_type: TYPE and a constraint in the profile, for the ones you want",
        )
    if slices:
        yield ClusterFinding(
            level="note",
            what=f"GPUs are cut into slices (MIG): {told}",
            meaning="a member uses one slice a process, with a slice's memory",
            advice=f"nothing, or gpu_type: one of {', '.join(slices)} in the profile",
        )


def examine_asking(facts: Facts) -> Iterator[ClusterFinding]:
    """Tell in which unusual way jobs have to be asked for."""
    keys, name = facts.asking.keys, facts.partition.get("PartitionName")
    ways = {key: value for key, value in keys.items() if key != "cpu_jobs"}
    if ways:
        is_cut = is_slice(ways.get("gpu_type", ""))
        yield ClusterFinding(
            level="note",
            what="jobs are taken if asked for with "
            + ", ".join(f"{key}: {value}" for key, value in ways.items()),
            meaning="a slice is asked for by its type"
            if is_cut
            else "--gpus-per-node=N and --mem=M, the usual way, are refused here",
            advice="nothing; the profile says so",
        )
    if facts.asking.cpu_refused:
        where = keys["cpu_jobs"].get("partition")
        yield ClusterFinding(
            level="note",
            what=f"partition {name} takes no job without a GPU: {facts.asking.cpu_refused}",
            meaning="reports and conversions "
            + (f"go to partition {where}" if where else "ask for one GPU"),
            advice="nothing; the profile's cpu_jobs say so",
        )


def largest_array(facts: Facts) -> int:
    """Return MaxArraySize, or SLURM's default."""
    return read_number(facts.config.get("MaxArraySize", "")) or DEFAULT_MAX_ARRAY_SIZE
