"""Judge a cluster: text of SLURM's commands and reports of its nodes → findings and a profile.

All pure; `launch.examine` gathers the facts. Every finding says what was seen, what it means for a
run, and what to do.
"""

import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lenshpc.launch.facts import UNUSABLE, Facts, Record, num_gpus, parse_minutes, usable
from lenshpc.launch.slurm import DEFAULT_MAX_ARRAY_SIZE, read_number

Level = Literal["note", "warning", "error"]

LONG_MIN = 240  # the time limit that recipes ask for
SKEW_S = 2.0
SLOW = 0.75  # of the median
DEVIATIONS = 3.0


@dataclass(frozen=True, kw_only=True)
class ClusterFinding:
    """What was seen, what it means for a run, and what to do; `nodes` are those to be excluded."""

    level: Level
    what: str
    meaning: str = ""
    advice: str = ""
    nodes: tuple[str, ...] = ()


def examine_accounting(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge whether sacct answers."""
    if facts.accounting_error:
        yield ClusterFinding(
            level="warning",
            what=f"no accounting: {facts.accounting_error}",
            meaning="states come from squeue and the run's own marks, GPU-hours from heartbeats",
            advice="nothing; ask the site for slurmdbd if reasons of failures matter",
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
    if mode not in {"OFF", "SUSPEND", "GANG"} and not told:
        grace = facts.partition.get("GraceTime", "0")
        yield ClusterFinding(
            level="warning",
            what=f"PreemptMode={mode}, GraceTime={grace}, without preempt_send_user_signal",
            meaning="a preempted member gets no USR2: it goes on from its last epoch's checkpoint",
            advice="choose a partition or QOS without preemption for long epochs",
        )


def examine_arrays(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge how many members go into one array."""
    size = _largest_array(facts)
    if size <= 1001:
        yield ClusterFinding(
            level="note",
            what=f"MaxArraySize={size}",
            meaning=f"a run of {size} members or more is sent as several arrays",
        )


def examine_wckey(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge whether jobs need a workload key."""
    enforced = "wckeys" in facts.config.get("AccountingStorageEnforce", "")
    if facts.config.get("TrackWCKey") == "Yes" and enforced:
        yield ClusterFinding(
            level="warning",
            what="workload keys are enforced",
            meaning="sbatch refuses a job of a user without a default key",
            advice="export SBATCH_WCKEY=KEY before lenshpc submit, or ask for a default key",
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
            what=f"steps that asked for {facts.num_cpus} CPUs may use fewer: {_format_values(few)}",
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
            advice=f"use --set resources.time_min={minutes}",
        )


def examine_nodes(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes that take no jobs, with the reason that SLURM has."""
    partition = facts.partition.get("PartitionName", "")
    for node in facts.nodes:
        mine = partition in node.get("Partitions", "").split(",")
        state = node.get("State", "UNKNOWN")
        if mine and UNUSABLE.search(state):
            reason = node.get("Reason", "no reason given")
            yield ClusterFinding(
                level="note",
                what=f"{node['NodeName']} is {state}: {reason}",
                meaning="it takes no jobs",
                advice="nothing; SLURM itself leaves it out",
            )


def examine_answers(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes whose probe did not come back, or came back without the shared folder."""
    if not facts.reports:
        yield ClusterFinding(
            level="error",
            what=f"no node of partition {facts.partition['PartitionName']} takes jobs",
            meaning="nothing can run there now",
            advice="choose another --partition, or ask the site",
        )
    for name, report in facts.reports.items():
        if report.asked and report.asked["token"] == facts.token:
            continue
        last = (report.log.strip().splitlines() or ["it printed nothing"])[-1]
        if not report.has_ended:
            yield ClusterFinding(
                level="note",
                what=f"{name} was not examined: its job did not start in time",
                meaning="it is busy, or the queue is long",
                advice="nothing, or again later",
            )
            continue
        yield ClusterFinding(
            level="error",
            what=f"{name} wrote nothing into this folder: {last[:200]}",
            meaning="the node does not see the shared file system, or Python does not run there",
            advice="work in a folder that all nodes share; set python and setup in the profile",
            nodes=(name,),
        )


@dataclass(frozen=True, kw_only=True)
class StepCheck:
    """What may be wrong with a `key` of what a step saw; `is_wrong` gets its value."""

    key: str
    is_wrong: Callable[[Any], bool]
    what: str
    meaning: str
    advice: str
    needs_gpu: bool = False


STEP_CHECKS = (
    StepCheck(
        key="scontrol",
        is_wrong=bool,  # it says why
        what="scontrol cannot be used on nodes",
        meaning="a member cannot requeue itself",
        advice="nothing; a follow-up job is sent instead",
    ),
    StepCheck(
        key="visible_gpus",
        is_wrong=lambda listed: len([gpu for gpu in listed.split(",") if gpu]) != 1,
        what="a step that asked for 1 GPU sees another number (CUDA_VISIBLE_DEVICES)",
        meaning="GPUs are not bound to jobs: members would meet on one card",
        advice="ask the site for ConstrainDevices and gres.conf; until then sbatch: "
        "{exclusive: true}",
        needs_gpu=True,
    ),
    StepCheck(
        key="gpu_devices",
        is_wrong=lambda devices: not devices,
        what="SLURM hands out GPUs, but the node has no /dev/nvidia*",
        meaning="training there runs on the CPU",
        advice="choose another partition or constraint, unless this cluster is a rehearsal",
        needs_gpu=True,
    ),
    StepCheck(
        key="address",
        is_wrong=lambda address: not address,
        what="a node's own name has no address there",
        meaning="ranks of a member on several nodes do not find each other",
        advice="tell the site; use one node a member until then",
    ),
)


def examine_steps(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge what the processes on the nodes see."""
    told = {name: report.asked for name, report in facts.reports.items() if report.asked}
    for check in STEP_CHECKS:
        wrong = {
            name: seen[check.key] for name, seen in told.items() if check.is_wrong(seen[check.key])
        }
        if wrong and (facts.with_gpu or not check.needs_gpu):
            yield ClusterFinding(
                level="warning",
                what=f"{check.what}: {_format_values(wrong)}",
                meaning=check.meaning,
                advice=check.advice,
            )


def examine_clocks(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes whose clock is out of the time in which their probe ran."""
    skews = {}
    for name, report in facts.reports.items():
        if report.asked:
            when = report.asked["time"]
            skew = max(report.began - when, when - report.ended)
            if skew > SKEW_S:
                skews[name] = f"{skew:.0f} s"
    if skews:
        yield ClusterFinding(
            level="warning",
            what=f"clocks differ from this machine's by at least: {_format_values(skews)}",
            meaning="times in logs and of usage are off; files may look newer than they are",
            advice="tell the site",
        )


def examine_speeds(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes that --preflight found lame."""
    kinds = {
        "matrix products (TFLOP/s)": facts.product_tflops,
        "all-reduce (GB/s)": facts.all_reduce_gb_per_s,
    }
    for kind, speeds in kinds.items():
        slow = lame(speeds)
        if slow:
            usual = statistics.median(speeds.values())
            yield ClusterFinding(
                level="error",
                what=f"lame in {kind}, where {usual:.3g} is usual: "
                + _format_values({name: f"{speeds[name]:.3g}" for name in slow}),
                meaning="one such node slows or stops every member that it takes part in",
                advice="nothing; the profile excludes it. Tell the site",
                nodes=slow,
            )


def lame(speeds: Mapping[str, float]) -> tuple[str, ...]:
    """Return who is far below the median: by a quarter, and by 3 deviations of the others.

    The deviation is 1.4826 times the median absolute one (Rousseeuw and Croux 1993).
    """
    if len(speeds) < 2:
        return tuple(name for name, speed in speeds.items() if not speed)
    usual = statistics.median(speeds.values())
    deviation = 1.4826 * statistics.median(abs(speed - usual) for speed in speeds.values())
    limit = min(SLOW * usual, usual - DEVIATIONS * deviation)
    return tuple(sorted(name for name, speed in speeds.items() if speed < limit or not speed))


CHECKS: tuple[Callable[[Facts], Iterator[ClusterFinding]], ...] = (
    examine_answers,
    examine_speeds,
    examine_accounting,
    examine_requeue,
    examine_warning,
    examine_arrays,
    examine_wckey,
    examine_version,
    examine_time,
    examine_steps,
    examine_clocks,
    examine_nodes,
)


def findings(facts: Facts) -> tuple[ClusterFinding, ...]:
    """Return all that is unusual about a cluster."""
    return tuple(finding for check in CHECKS for finding in check(facts))


def profile(
    facts: Facts, found: Iterable[ClusterFinding], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keys of a site profile; `given` are those that the user has chosen."""
    name = facts.partition["PartitionName"]
    seen = {"scheduler": "slurm", "partition": name, **_sizes(usable(facts.nodes, name))}
    seen["max_array_size"] = _largest_array(facts)
    options: dict[str, Any] = dict(given.get("sbatch", {}))
    lost = {name for finding in found for name in finding.nodes}
    if lost < set(facts.reports):  # where all fail alike, the nodes are not to blame
        before = [options["exclude"]] if "exclude" in options else []
        options |= {"exclude": ",".join([*before, *sorted(lost)])} if lost else {}
    return {**seen, **given, **({"sbatch": options} if options else {})}


def _sizes(nodes: tuple[Record, ...]) -> dict[str, Any]:
    """Return what every one of the nodes has, a GPU each where there are GPUs."""
    if not nodes:
        return {}
    gpus = min(map(num_gpus, nodes))
    if not gpus:
        return {"max_nodes": len(nodes)}
    mem_gb = min(read_number(node.get("RealMemory", "")) for node in nodes) / 1024
    cpus = min(read_number(node.get("CPUTot", "")) for node in nodes)
    sizes = {
        "max_nodes": len(nodes),
        "gpus_per_node": gpus,
        "cpus_per_gpu": max(1, cpus // gpus),
        "mem_gb_per_gpu": round(0.95 * mem_gb / gpus, 1),  # the rest is the system's
    }
    return {key: size for key, size in sizes.items() if size}


def _largest_array(facts: Facts) -> int:
    return read_number(facts.config.get("MaxArraySize", "")) or DEFAULT_MAX_ARRAY_SIZE


def _format_values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({value})" if value else name for name, value in values.items())
