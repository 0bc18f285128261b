"""Gather what is known of a cluster: SLURM's own words, and short jobs on its nodes."""

import fcntl
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from lenshpc.errors import ConfigError, LaunchError
from lenshpc.files import read_json, write_text
from lenshpc.launch import slurm
from lenshpc.launch.asking import (
    Options,
    ask_gpus,
    ask_memory,
    ask_place,
    choose_python,
    format_exports,
    format_options,
)
from lenshpc.launch.constraints import fits
from lenshpc.launch.executor import AGGREGATE_TIME_MIN
from lenshpc.launch.facts import (
    Facts,
    NodeReport,
    Record,
    count_types,
    is_asleep,
    keep_type,
    num_gpus,
    parse_config,
    parse_minutes,
    parse_records,
    usable,
)
from lenshpc.launch.failures import classify, read_tails
from lenshpc.launch.limits import ask_accounting
from lenshpc.launch.sites import Site
from lenshpc.launch.slurm import read_number

PATIENCE_S = 180.0
POLL_S = 0.5
SECONDS = 10.0  # of each measurement of --preflight
PROBE_TIME_MIN, PROBE_MEM_GB = 3, 0.4
SPEED_TIME_MIN, SPEED_MEM_GB = 5, 2.0
CONTEXT_MEM_GB = 2.0  # of the host, for what CUDA and its libraries keep there for each GPU
# How a measurement ends that says nothing of its node's speed.
KILLS = frozenset({"OUT OF MEMORY", "KILLED", "PREEMPTED", "CANCELLED"})

Nodes = tuple[str, ...]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A job of the doctor's, and when it was sent by this machine's clock."""

    job_id: str
    nodes: Nodes
    log: Path
    began: float


@contextmanager
def make_shared_folder(parent: Path, use: str = "doctor") -> Iterator[Path]:
    """Yield a folder below the current one, which the nodes ought to see; removed afterwards."""
    folder = Path(mkdtemp(prefix=f".lenshpc-{use}-", dir=parent.resolve()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cluster(site: Site) -> Facts:
    """Return what SLURM says of itself, without a job. Raises LaunchError where it does not."""
    try:
        config = parse_config(slurm.ask(["scontrol", "show", "config"]))
    except LaunchError as error:
        raise LaunchError(
            f"{error}; runs of this machine need no profile (--site local), and slurm/README.md "
            "shows how to practise on a SLURM cluster on it"
        ) from error
    partitions = parse_records(slurm.ask(["scontrol", "-o", "show", "partition"]))
    every = parse_records(slurm.ask(["scontrol", "-o", "show", "node"]))
    partition = _partition(partitions, site.partition)
    fitting = [node for node in every if fits(node, site.constraint)]
    nodes = keep_type(fitting, site.gpu_type)
    mine = usable(nodes, partition["PartitionName"])
    return Facts(
        config=config,
        partition=partition,
        nodes=nodes,
        gpu_types=count_types(usable(fitting, partition["PartitionName"])),
        cpu_partitions=_cpu_partitions(partitions, every, partition["PartitionName"]),
        accounting=ask_accounting(site, partition),
        settled=frozenset(site.model_fields_set),
        with_gpu=bool(mine) and all(map(num_gpus, mine)),
    )


def _cpu_partitions(
    partitions: Iterable[Record], nodes: Sequence[Record], own: str
) -> tuple[str, ...]:
    """Return the other partitions with time for a report, those with the fewest GPUs first."""
    shares = {}
    for one in partitions:
        name, minutes = one["PartitionName"], parse_minutes(one.get("MaxTime", ""))
        gpus = [num_gpus(node) > 0 for node in usable(nodes, name)]
        has_time = minutes is None or minutes >= AGGREGATE_TIME_MIN
        if gpus and has_time and one.get("State", "UP") == "UP" and name != own:
            shares[name] = sum(gpus) / len(gpus)
    return tuple(sorted(shares, key=lambda name: shares[name]))


def _partition(partitions: Sequence[Record], wanted: str | None) -> Record:
    """Return the partition of that name, or the default one."""
    for one in partitions:
        if wanted == one["PartitionName"] or (wanted is None and one.get("Default") == "YES"):
            return one
    names = ", ".join(one["PartitionName"] for one in partitions)
    raise ConfigError(
        f"no partition {wanted or 'is the default'}; give --partition, one of {names}"
    )


def probe_nodes(facts: Facts, site: Site, folder: Path, progress: Progress) -> Facts:
    """Return the facts with what a short job on each node that is up saw.

    Where none is up, one is switched on.
    """
    nodes = usable(facts.nodes, facts.partition["PartitionName"])
    asleep = [node["NodeName"] for node in nodes if is_asleep(node)]
    awake = [node["NodeName"] for node in nodes if not is_asleep(node)]
    names = awake or asleep[:1]
    token = secrets.token_hex(8)
    write_text(folder / "token", token)
    cpus = max(1, min([2, *(read_number(node.get("CPUTot", "")) for node in nodes)]))
    module = f"-m lenshpc.launch.probe {shlex.quote(str(folder))}"
    lines = [
        _srun(site, f"{module} bare", ""),
        _srun(site, f"{module} asked", f"--cpus-per-task={cpus}"),
    ]
    size = {"cpus-per-task": cpus, "time": PROBE_TIME_MIN}
    size |= _sizes(site, int(facts.with_gpu), cpus, PROBE_MEM_GB)
    with _hold_lock(folder / "lock"):
        each = [(name,) for name in names]
        steps, ended = _run(site, folder, each, lines, lambda _: size, progress)
    return replace(
        facts,
        token=token,
        reports={step.nodes[0]: _report(step, folder, ended) for step in steps},
        unexamined=tuple(name for name in asleep if name not in names),
        num_cpus=cpus,
    )


@contextmanager
def _hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock that the probes ought to see; where there are no locks, they see none."""
    with path.open("wb") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _report(step: Step, folder: Path, ended: Mapping[str, float]) -> NodeReport:
    bare, asked = (folder / f"{step.nodes[0]}-{kind}.json" for kind in ("bare", "asked"))
    return NodeReport(
        bare=_json(bare),
        asked=_json(asked),
        log=step.log.read_text(errors="replace") if step.log.is_file() else "",
        has_ended=step.job_id in ended,
        began=step.began,
        ended=ended.get(step.job_id, 0.0),
    )


def measure(facts: Facts, site: Site, folder: Path, progress: Progress) -> Facts:
    """Return the facts with the speeds of the nodes whose probe came back.

    Matrix products on each alone; then an all-reduce between each and its neighbour in a ring. A
    node counts with its better neighbour, so that a slow one does not take others along.
    """
    names = [name for name, report in facts.reports.items() if report.asked]
    gpus = {node["NodeName"]: num_gpus(node) for node in facts.nodes}
    pairs: list[Nodes] = list(zip(names, [*names[1:], *names[:1]], strict=True))
    pairs = pairs[: 1 if len(names) == 2 else len(names)] if len(names) > 1 else []
    line = [_srun(site, f"-m lenshpc.engine.preflight {shlex.quote(str(folder))} {SECONDS}", "")]

    def size(num_gpus: int) -> Options:
        mem_gb = SPEED_MEM_GB + num_gpus * CONTEXT_MEM_GB
        return _sizes(site, num_gpus, 1, mem_gb) | {"time": SPEED_TIME_MIN}

    def all_gpus(nodes: Nodes) -> Options:
        return size(gpus[nodes[0]])

    def one_gpu(nodes: Nodes) -> Options:
        return size(min(1, *(gpus[name] for name in nodes)))

    alone = _run(site, folder, [(name,) for name in names], line, all_gpus, progress)
    both = _run(site, folder, pairs, line, one_gpu, progress)  # after, so that none disturbs one
    return replace(
        facts,
        product_tflops=_best(folder, *alone),
        all_reduce_gb_per_s=_best(folder, *both),
        unmeasured=_find_unmeasured(folder, *alone) | _find_unmeasured(folder, *both),
    )


def _sizes(site: Site, gpus: int, cpus: int, mem_gb: float) -> Options:
    return {**ask_gpus(site, gpus), **ask_memory(site, mem_gb, cpus=cpus, gpus=gpus)}


def _best(folder: Path, steps: Iterable[Step], ended: Mapping[str, float]) -> dict[str, float]:
    """Return each node's best speed in the jobs that ended; 0 where one ended without any.

    What was killed is told apart: it is no slow node.
    """
    best: dict[str, float] = {}
    for step in steps:
        if step.job_id in ended and not _find_kill(folder, step):
            speed = _json(folder / f"{step.job_id}-speed.json").get("speed", 0.0)
            best |= {name: max(best.get(name, 0.0), speed) for name in step.nodes}
    return best


def _find_unmeasured(
    folder: Path, steps: Iterable[Step], ended: Mapping[str, float]
) -> dict[str, str]:
    """Return the nodes of the jobs that were killed, with the line of the log that says so."""
    kills = {step.nodes: _find_kill(folder, step) for step in steps if step.job_id in ended}
    return {name: line for nodes, line in kills.items() if line for name in nodes}


def _find_kill(folder: Path, step: Step) -> str:
    """Return the line that says how a job without a speed was killed; nothing of any other."""
    if (folder / f"{step.job_id}-speed.json").is_file():
        return ""
    failure = classify("", logs=read_tails([step.log]))
    return failure.line if failure.name in KILLS else ""


def _json(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _srun(site: Site, arguments: str, options: str) -> str:
    step = ["srun", "--export=ALL", "--kill-on-bad-exit=1", options, *site.step_args]
    return " ".join([*step, choose_python(site), arguments])


def _run(
    site: Site,
    folder: Path,
    groups: Iterable[Nodes],
    lines: Sequence[str],
    size: Callable[[Nodes], Options],
    progress: Progress,
) -> tuple[list[Step], dict[str, float]]:
    """Run the lines as a job on each group of nodes; return the jobs and when they ended."""
    steps: list[Step] = []
    try:
        for nodes in groups:
            # One by one into the list: where a later job is refused, those that were sent are
            # known, and are cancelled.
            steps.append(_send(site, folder, nodes, lines, size(nodes)))  # noqa: PERF401 (or lost)
        return steps, _wait(steps, progress)
    except BaseException:
        cancel_jobs({step.job_id for step in steps})
        raise


def _send(site: Site, folder: Path, nodes: Nodes, lines: Sequence[str], size: Options) -> Step:
    """Submit a job of one task on each of the nodes."""
    name = f"{'+'.join(nodes)}-{secrets.token_hex(8)}"
    script, log = folder / f"{name}.sh", folder / f"{name}.out"
    place = ask_place(site)
    for key in ("constraint", "exclude", "exclusive"):  # the nodes are named, and one GPU will do
        place.pop(key, None)
    own = {
        "job-name": "lenshpc-doctor",
        "output": str(log).replace("%", "%%"),  # SLURM puts ids in place of %j
        "ntasks-per-node": 1,
        "nodes": len(nodes),
        "nodelist": ",".join(nodes),
    }
    options = [f"#SBATCH {shlex.quote(one)}" for one in format_options(place | size | own)]
    # Else `python -m` would import from the folder of the command, which may be everybody's.
    safe = "export PYTHONSAFEPATH=1"
    text = ["#!/bin/bash", *options, *format_exports(site), *site.setup, safe, *lines, ""]
    write_text(script, "\n".join(text))
    began = time.time()
    return Step(job_id=slurm.sbatch(script), nodes=nodes, log=log, began=began)


def _wait(steps: Sequence[Step], progress: Progress) -> dict[str, float]:
    """Return when each job was seen to have ended; not of those that did not start in time.

    One that hangs ends at its own time limit.
    """
    left, ended = {step.job_id for step in steps}, dict[str, float]()
    deadline = time.monotonic() + PATIENCE_S
    while left:
        time.sleep(POLL_S)
        states = ask_states(left)
        gone = left - set(states)
        ended |= dict.fromkeys(gone, time.time())
        left -= gone
        progress(len(ended), len(steps))
        if time.monotonic() > deadline:
            waiting = {job_id for job_id in left if states[job_id] == "PENDING"}
            cancel_jobs(waiting)
            left -= waiting
    return ended


def ask_states(job_ids: set[str]) -> dict[str, str]:
    """Return job → its state, of those that SLURM has in its queue."""
    text = slurm.ask(["squeue", "-h", "-o", "%i|%T||", "-j", ",".join(sorted(job_ids))])
    return {job_id: one.state for job_id, one in slurm.parse_squeue(text).items()}


def cancel_jobs(job_ids: set[str]) -> None:
    """Cancel jobs, if there are any."""
    if job_ids:
        slurm.order(["scancel", *sorted(job_ids)])
