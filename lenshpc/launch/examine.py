"""Gather what is known of a cluster: SLURM's own words, and short jobs on its nodes."""

import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from lenshpc.errors import ConfigError, LaunchError
from lenshpc.files import read_json, write_text
from lenshpc.launch import slurm
from lenshpc.launch.asking import ask_place
from lenshpc.launch.facts import (
    Facts,
    NodeReport,
    Record,
    fits,
    num_gpus,
    parse_config,
    parse_records,
    usable,
)
from lenshpc.launch.sites import Site
from lenshpc.launch.slurm import read_number

PATIENCE_S = 180.0
POLL_S = 0.5
SECONDS = 10.0  # of each measurement of --preflight
PROBE_TIME_MIN, PROBE_MEM_MB = 3, 400
SPEED_TIME_MIN, SPEED_MEM_MB = 5, 2000

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
def make_shared_folder(parent: Path) -> Iterator[Path]:
    """Yield a folder below the current one, which the nodes ought to see; removed afterwards."""
    folder = Path(mkdtemp(prefix=".lenshpc-doctor-", dir=parent.resolve()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cluster(site: Site) -> Facts:
    """Return what SLURM says of itself, without a job. Raises LaunchError where it does not."""
    config = parse_config(slurm.ask(["scontrol", "show", "config"]))
    partitions = parse_records(slurm.ask(["scontrol", "-o", "show", "partition"]))
    nodes = parse_records(slurm.ask(["scontrol", "-o", "show", "node"]))
    try:
        slurm.ask(["sacct", "-X", "-n", "-P", "--format=JobID"])
        error = ""
    except LaunchError as refused:
        error = str(refused)
    return Facts(
        config=config,
        partition=_partition(partitions, site.partition),
        nodes=tuple(node for node in nodes if fits(node, site.constraint)),
        accounting_error=error,
    )


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
    """Return the facts with what a short job on each usable node saw."""
    nodes = usable(facts.nodes, facts.partition["PartitionName"])
    token = secrets.token_hex(8)
    write_text(folder / "token", token)
    with_gpu = bool(nodes) and all(map(num_gpus, nodes))
    cpus = max(1, min([2, *(read_number(node.get("CPUTot", "")) for node in nodes)]))
    module = f"-m lenshpc.launch.probe {shlex.quote(str(folder))}"
    lines = [
        _srun(site, f"{module} bare", ""),
        _srun(site, f"{module} asked", f"--cpus-per-task={cpus}"),
    ]
    size = [f"--cpus-per-task={cpus}", f"--mem={PROBE_MEM_MB}M", f"--time={PROBE_TIME_MIN}"]
    size += _gpus(int(with_gpu))
    each = [(node["NodeName"],) for node in nodes]
    steps, ended = _run(site, folder, each, lines, lambda _: size, progress)
    reports = {step.nodes[0]: _report(step, folder, ended) for step in steps}
    return replace(facts, token=token, reports=reports, num_cpus=cpus, with_gpu=with_gpu)


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
    node counts with its better neighbour, so that a lame one does not take others along.
    """
    names = [name for name, report in facts.reports.items() if report.asked]
    gpus = {node["NodeName"]: num_gpus(node) for node in facts.nodes}
    pairs: list[Nodes] = list(zip(names, [*names[1:], *names[:1]], strict=True))
    pairs = pairs[: 1 if len(names) == 2 else len(names)] if len(names) > 1 else []
    line = [_srun(site, f"-m lenshpc.engine.preflight {shlex.quote(str(folder))} {SECONDS}", "")]
    size = [f"--mem={SPEED_MEM_MB}M", f"--time={SPEED_TIME_MIN}"]

    def all_gpus(nodes: Nodes) -> list[str]:
        return [*size, *_gpus(gpus[nodes[0]])]

    def one_gpu(nodes: Nodes) -> list[str]:
        return [*size, *_gpus(min(1, *(gpus[name] for name in nodes)))]

    alone = _run(site, folder, [(name,) for name in names], line, all_gpus, progress)
    both = _run(site, folder, pairs, line, one_gpu, progress)  # after, so that none disturbs one
    return replace(
        facts,
        product_tflops=_best(folder, *alone),
        all_reduce_gb_per_s=_best(folder, *both),
    )


def _gpus(count: int) -> list[str]:
    return [f"--gpus-per-node={count}"] if count else []


def _best(folder: Path, steps: Iterable[Step], ended: Mapping[str, float]) -> dict[str, float]:
    """Return each node's best speed in the jobs that ended; 0 where one ended without any."""
    best: dict[str, float] = {}
    for step in steps:
        if step.job_id in ended:
            speed = _json(folder / f"{step.job_id}-speed.json").get("speed", 0.0)
            best |= {name: max(best.get(name, 0.0), speed) for name in step.nodes}
    return best


def _json(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _srun(site: Site, arguments: str, options: str) -> str:
    python = site.interpreter or shlex.quote(sys.executable)
    return " ".join(["srun", "--kill-on-bad-exit=1", options, *site.step_args, python, arguments])


def _run(
    site: Site,
    folder: Path,
    groups: Iterable[Nodes],
    lines: Sequence[str],
    size: Callable[[Nodes], list[str]],
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
        _cancel({step.job_id for step in steps})
        raise


def _send(
    site: Site, folder: Path, nodes: Nodes, lines: Sequence[str], size: Sequence[str]
) -> Step:
    """Submit a job of one task on each of the nodes."""
    name = f"{'+'.join(nodes)}-{secrets.token_hex(8)}"
    script, log = folder / f"{name}.sh", folder / f"{name}.out"
    own = ["--job-name=lenshpc-doctor", f"--output={log}", "--ntasks-per-node=1"]
    own += [f"--nodes={len(nodes)}", f"--nodelist={','.join(nodes)}"]
    options = [f"#SBATCH {option}" for option in (*own, *size, *_options(site))]
    # Else `python -m` would import from the folder of the command, which may be everybody's.
    safe = "export PYTHONSAFEPATH=1"
    write_text(script, "\n".join(["#!/bin/bash", *options, *site.setup, safe, *lines, ""]))
    began = time.time()
    return Step(job_id=slurm.sbatch(script), nodes=nodes, log=log, began=began)


def _options(site: Site) -> list[str]:
    return [
        f"--{key}" if value is True else f"--{key}={value}"
        for key, value in ask_place(site).items()
        if key not in {"constraint", "exclude", "exclusive"}  # the node is named
    ]


def _wait(steps: Sequence[Step], progress: Progress) -> dict[str, float]:
    """Return when each job was seen to have ended; not of those that did not start in time.

    One that hangs ends at its own time limit.
    """
    left, ended = {step.job_id for step in steps}, dict[str, float]()
    deadline = time.monotonic() + PATIENCE_S
    while left:
        time.sleep(POLL_S)
        states = _states(left)
        gone = left - set(states)
        ended |= dict.fromkeys(gone, time.time())
        left -= gone
        progress(len(ended), len(steps))
        if time.monotonic() > deadline:
            waiting = {job_id for job_id in left if states[job_id] == "PENDING"}
            _cancel(waiting)
            left -= waiting
    return ended


def _states(job_ids: set[str]) -> dict[str, str]:
    text = slurm.ask(["squeue", "-h", "-o", "%i|%T||", "-j", ",".join(sorted(job_ids))])
    return {job_id: one.state for job_id, one in slurm.parse_squeue(text).items()}


def _cancel(job_ids: set[str]) -> None:
    if job_ids:
        slurm.order(["scancel", *sorted(job_ids)])
