"""Find out how a cluster takes jobs, by asking sbatch without sending one (`--test-only`)."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from lenshpc.errors import LaunchError
from lenshpc.launch import slurm
from lenshpc.launch.asking import ask_gpus, ask_memory, ask_place, format_options
from lenshpc.launch.facts import Asking, Facts, count_gpus, is_slice, keep_type, usable
from lenshpc.launch.sites import CpuJobs, Site

MEM_GB, TIME_MIN = 0.4, 3
USUAL = {"gpu_request": "gpus-per-node", "gpu_type": None, "mem_request": "mem"}


def try_ways(facts: Facts, site: Site) -> Facts:
    """Return the facts with the way in which jobs are taken, what the profile says kept.

    Raises LaunchError where none is.
    """
    refusals = []
    for keys in _ways(facts, site):
        way = site.model_copy(update=keys)
        refused = _refusal(way, int(facts.with_gpu))
        if not refused:
            found = {key: keys[key] for key in keys if key not in facts.settled}
            unusual = {key: value for key, value in found.items() if value != USUAL[key]}
            asking = _ask_without_gpu(facts, way, unusual)
            return replace(facts, asking=asking, nodes=keep_type(facts.nodes, way.gpu_type))
        refusals.append(refused)
    if not refusals:
        return facts  # no node takes jobs
    why, accounts = refusals[0], facts.accounting.accounts
    advice = "give another --partition or --qos"
    if "account" in why.lower():
        named = f", one of {', '.join(accounts)}" if accounts else "; you have none, ask the site"
        advice = f"give --account{named}"
    raise LaunchError(
        f"sbatch accepts no job in partition {facts.partition['PartitionName']}: {why}; {advice}"
    )


def use_ways(site: Site, asking: Asking) -> Site:
    """Return the site with the keys that were found, which the doctor's own jobs need too."""
    keys = {key: value for key, value in asking.keys.items() if key in USUAL}
    return site.model_copy(update=keys)


def _ways(facts: Facts, site: Site) -> Iterator[dict[str, Any]]:
    """Yield keys of a profile to be tried, the usual ones first."""
    nodes = usable(facts.nodes, facts.partition["PartitionName"])
    kinds = sorted({kind for node in nodes for kind in count_gpus(node) if kind})
    requests, types = ["gpus-per-node", "gres"], [None, *kinds]
    if kinds and all(map(is_slice, kinds)):  # as sites' own pages ask for them
        requests, types = requests[::-1], [*kinds, None]
    choices: dict[str, list[Any]] = {
        "gpu_request": requests if facts.with_gpu else [site.gpu_request],
        "gpu_type": types if facts.with_gpu else [site.gpu_type],
        "mem_request": ["mem", "mem-per-cpu", "mem-per-gpu", "none"],
    }
    settled = {key: [getattr(site, key)] for key in choices if key in facts.settled}
    ways = list((choices | settled).values())
    for values in product(*ways) if nodes else ():
        yield dict(zip(choices, values, strict=True))


def _ask_without_gpu(facts: Facts, way: Site, keys: dict[str, Any]) -> Asking:
    """Return the keys, with where a job without a GPU goes if not where the members do."""
    if not facts.with_gpu or "cpu_jobs" in facts.settled:
        return Asking(keys=keys)
    refused = _refusal(way.without_gpu(), 0)
    if not refused:
        return Asking(keys=keys)
    for name in facts.cpu_partitions:
        elsewhere = way.model_copy(update={"cpu_jobs": CpuJobs(partition=name)})
        if not _refusal(elsewhere.without_gpu(), 0):
            return Asking(keys=keys | {"cpu_jobs": {"partition": name}}, cpu_refused=refused)
    return Asking(keys=keys | {"cpu_jobs": {"gpus": 1}}, cpu_refused=refused)


def _refusal(site: Site, gpus: int) -> str:
    """Return why sbatch would not take a small job; nothing where it would."""
    options = {
        **ask_place(site),
        **ask_gpus(site, gpus),
        **ask_memory(site, MEM_GB, cpus=1, gpus=gpus),
        "nodes": 1,
        "ntasks-per-node": 1,
        "time": TIME_MIN,
    }
    try:
        slurm.ask(["sbatch", "--test-only", *format_options(options), "--wrap=true"])
    except LaunchError as refused:
        if slurm.is_busy(refused):
            raise
        return str(refused).removeprefix("sbatch failed: ")
    return ""
