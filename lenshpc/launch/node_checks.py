"""Judge what the probes on the nodes saw: each check yields what is unusual. All pure."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lenshpc.launch.facts import Facts
from lenshpc.launch.finding import ClusterFinding, format_names, format_values
from lenshpc.launch.health import find_complaints, find_driver, require_driver
from lenshpc.launch.networks import Interface, choose_interface

SKEW_S = 2.0
SLOW = 0.75  # of the median
DEVIATIONS = 3.0
LITTLE_GB = 20  # for decoded images, which a node's members share
FEW_FILES = 1024
IN_MEMORY = {"tmpfs", "ramfs", "rootfs"}


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


def examine_sleep(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes that were left switched off."""
    if facts.unexamined:
        yield ClusterFinding(
            level="note",
            what=f"not examined, since switched off: {format_names(list(facts.unexamined))}",
            meaning="SLURM starts such nodes for jobs; to start each for a look may cost money",
            advice="nothing, or again while they are up",
        )


@dataclass(frozen=True, kw_only=True)
class StepCheck:
    """What may be wrong with a `key` of what a step saw.

    `is_wrong` gets its value, and `show` says what people are told of it.
    """

    key: str
    is_wrong: Callable[[Any], bool]
    what: str
    meaning: str
    advice: str
    needs_gpu: bool = False
    show: Callable[[Any], object] = lambda value: value


STEP_CHECKS = (
    StepCheck(
        key="scontrol",
        is_wrong=bool,  # it says why
        what="scontrol cannot be used on nodes",
        meaning="a member cannot requeue itself",
        advice="nothing; a follow-up job is submitted instead",
    ),
    StepCheck(
        key="visible_gpus",
        is_wrong=lambda listed: len([gpu for gpu in listed.split(",") if gpu]) != 1,
        what="a step that asked for 1 GPU sees another number (CUDA_VISIBLE_DEVICES)",
        meaning="GPUs are not bound to jobs: members of two jobs may share one GPU",
        advice="ask the site for ConstrainDevices and gres.conf; until then exclusive: true in "
        "the profile",
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
        key="torch",
        is_wrong=lambda build: not {"cuda", "hip"} & set(build),
        what="torch there is not built for GPUs, or is missing",
        meaning="training there runs on the CPU, or not at all",
        advice="install a torch build for CUDA in the environment that the nodes use",
        needs_gpu=True,
        show=lambda build: build.get("__version__", ""),
    ),
    StepCheck(
        key="address",
        is_wrong=lambda address: not address,
        what="a node's own name has no address there",
        meaning="processes of a member on several nodes do not find each other",
        advice="set interface: NAME in the profile, or tell the site",
    ),
    StepCheck(
        key="lock",
        is_wrong=bool,  # it says why
        what="locks in this folder do not hold between this machine and nodes",
        meaning="two commands could write into one store or run at the same time unseen",
        advice="work in another shared folder, or ask the site to mount this one with flock",
    ),
    StepCheck(
        key="open_files",
        is_wrong=lambda limit: 0 <= limit < FEW_FILES,  # -1 is no limit
        what="few files may be open at a time (ulimit -n)",
        meaning="processes that load images may end with: too many open files",
        advice="setup: [ulimit -n 4096] in the profile, or ask the site",
    ),
)


def examine_steps(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge what the processes on the nodes see."""
    told = _answers(facts)
    for check in STEP_CHECKS:
        wrong = {
            name: check.show(seen[check.key])
            for name, seen in told.items()
            if check.is_wrong(seen[check.key])
        }
        if wrong and (facts.with_gpu or not check.needs_gpu):
            yield ClusterFinding(
                level="warning",
                what=f"{check.what}: {format_values(wrong)}",
                meaning=check.meaning,
                advice=check.advice,
            )


def examine_network(facts: Facts) -> Iterator[ClusterFinding]:
    """Name own names that are loopback addresses, and nodes with several networks."""
    if "interface" in facts.settled:
        return
    seen = see_interfaces(facts)
    names = sorted({one.name for own in seen.values() for one in own})
    best = choose_interface(seen)
    advice = f"interface: {best or 'NAME'} in the profile"
    loops = find_loops(facts)
    if loops:
        yield ClusterFinding(
            level="warning",
            what=f"a node's own name is a loopback address there: {format_values(loops)}",
            meaning="processes of a member on several nodes would talk to themselves, and wait for "
            "ever",
            advice=advice + (f", one of {', '.join(names)}" if names and not best else ""),
        )
    many = {name: ", ".join(map(str, own)) for name, own in seen.items() if len(own) > 1}
    if many:
        yield ClusterFinding(
            level="note",
            what=f"several networks: {format_values(many)}",
            meaning="gloo takes the one of the node's own name, NCCL any that is up; nodes that "
            "take different ones, or a slow one, wait for each other",
            advice=advice + ("" if best else ": the one that joins the nodes"),
        )


def see_interfaces(facts: Facts) -> dict[str, list[Interface]]:
    """Return the interfaces of each node over which ranks may talk."""
    told = {name: seen["interfaces"] for name, seen in _answers(facts).items()}
    every = {name: [Interface(**one) for one in own] for name, own in told.items()}
    return {name: [one for one in own if one.is_candidate] for name, own in every.items()}


def find_loops(facts: Facts) -> dict[str, str]:
    """Return the nodes whose own name is a loopback address there, and that."""
    told = {name: seen["address"] for name, seen in _answers(facts).items()}
    return {name: address for name, address in told.items() if address.startswith("127.")}


def examine_tmpdir(facts: Facts) -> Iterator[ClusterFinding]:
    """Judge the folder for temporary files: decoded images are kept there, once a node."""
    places = {name: seen["tmpdir"] for name, seen in _answers(facts).items()}
    little = {
        name: f"{place['path']}, {place['free_gb']:g} GB free"
        for name, place in places.items()
        if place["free_gb"] < LITTLE_GB
    }
    in_memory = {
        name: f"{place['path']}, {place['kind']}"
        for name, place in places.items()
        if place["kind"] in IN_MEMORY
    }
    advice = "env: {TMPDIR: FOLDER} in the profile, with a larger folder of the node's own disk"
    if little:
        yield ClusterFinding(
            level="warning",
            what=f"little room for temporary files: {format_values(little)}",
            meaning="a store whose decoded images do not fit is refused, or has to be streamed",
            advice=f"{advice}; else --set data.loading=stream",
        )
    if in_memory:
        yield ClusterFinding(
            level="note",
            what=f"temporary files are kept in memory: {format_values(in_memory)}",
            meaning="decoded images there count as memory of the job",
            advice=f"ask for more mem_gb_per_gpu, or {advice}",
        )


def examine_drivers(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes whose driver is too old for the CUDA that torch is built for."""
    old, builds = {}, set()
    for name, seen in _answers(facts).items():
        driver, cuda = find_driver(seen["driver"]), seen["torch"].get("cuda", "")
        needed = require_driver(cuda)
        if driver and needed and driver < needed:
            old[name] = f"driver {driver}"
            builds.add(f"CUDA {cuda} needs {needed}")
    if old:
        yield ClusterFinding(
            level="error",
            what=f"the driver is too old for torch: {format_values(old)}; "
            + ", ".join(sorted(builds)),
            meaning="every member there ends at once",
            advice="install a torch build for the CUDA of this driver, or ask for a newer driver",
            nodes=tuple(old),
        )


def examine_python(facts: Facts) -> Iterator[ClusterFinding]:
    """Tell where nodes do not have the same Python or torch."""
    told = {
        name: f"Python {seen['python']}, torch {seen['torch'].get('__version__', 'missing')}"
        for name, seen in _answers(facts).items()
    }
    if len(set(told.values())) > 1:
        yield ClusterFinding(
            level="warning",
            what=f"nodes differ in their Python: {format_values(told)}",
            meaning="members of one run would differ by where they ran, or fail on some nodes",
            advice="use one environment on a shared file system: python or setup in the profile",
        )


def examine_health(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes of whose GPUs NVIDIA's own tools complain."""
    complaints = {name: find_complaints(seen["health"]) for name, seen in _answers(facts).items()}
    broken = {name: "; ".join(one.failures) for name, one in complaints.items() if one.failures}
    weak = {name: "; ".join(one.warnings) for name, one in complaints.items() if one.warnings}
    if broken:
        yield ClusterFinding(
            level="error",
            what=f"GPUs are not healthy: {format_values(broken)}",
            meaning="members there fail, or compute wrongly",
            advice="nothing; the profile excludes them. Tell the site",
            nodes=tuple(broken),
        )
    if weak:
        yield ClusterFinding(
            level="warning",
            what=f"GPUs show signs of a fault: {format_values(weak)}",
            meaning="members there may be slow, or fail",
            advice="tell the site; measure with --preflight",
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
            what=f"clocks differ from this machine's by at least: {format_values(skews)}",
            meaning="times in logs and of usage are off; files may look newer than they are",
            advice="tell the site",
        )


def examine_speeds(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes that --preflight found slow."""
    kinds = {
        "matrix products (TFLOP/s)": facts.product_tflops,
        "all-reduce (GB/s)": facts.all_reduce_gb_per_s,
    }
    for kind, speeds in kinds.items():
        slow = find_slow(speeds)
        if slow:
            usual = statistics.median(speeds.values())
            yield ClusterFinding(
                level="error",
                what=f"slow in {kind}, where {usual:.3g} is usual: "
                + format_values({name: f"{speeds[name]:.3g}" for name in slow}),
                meaning="one such node slows or stops every member that it takes part in",
                advice="nothing; the profile excludes it. Tell the site",
                nodes=slow,
            )


def examine_kills(facts: Facts) -> Iterator[ClusterFinding]:
    """Name the nodes whose speed --preflight did not learn."""
    if facts.unmeasured:
        yield ClusterFinding(
            level="warning",
            what=f"a measurement was killed on: {format_values(facts.unmeasured)}",
            meaning="how fast these nodes are is not known; they are not excluded",
            advice="run --preflight again; if the same nodes are named, tell the site",
        )


def find_slow(speeds: Mapping[str, float]) -> tuple[str, ...]:
    """Return who is far below the median: by a quarter, and by 3 deviations of the others.

    The deviation is 1.4826 times the median absolute one (Rousseeuw and Croux 1993).
    """
    if len(speeds) < 2:
        return tuple(name for name, speed in speeds.items() if not speed)
    usual = statistics.median(speeds.values())
    deviation = 1.4826 * statistics.median(abs(speed - usual) for speed in speeds.values())
    limit = min(SLOW * usual, usual - DEVIATIONS * deviation)
    return tuple(sorted(name for name, speed in speeds.items() if speed < limit or not speed))


def _answers(facts: Facts) -> dict[str, Mapping[str, Any]]:
    return {name: report.asked for name, report in facts.reports.items() if report.asked}
