"""Judge a cluster: text of SLURM's commands and reports of its nodes → findings and a profile.

All pure; `launch.examine` gathers the facts. Every finding says what was seen, what it means for a
run, and what to do.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lenshpc.launch import cluster_checks, node_checks
from lenshpc.launch.facts import Facts, Record, num_gpus, parse_minutes, usable
from lenshpc.launch.finding import LEVELS, ClusterFinding
from lenshpc.launch.networks import choose_interface
from lenshpc.launch.sites import Site
from lenshpc.launch.slurm import read_number

CHECKS: tuple[Callable[[Facts], Iterator[ClusterFinding]], ...] = (
    node_checks.examine_answers,
    node_checks.examine_drivers,
    node_checks.examine_health,
    node_checks.examine_speeds,
    node_checks.examine_kills,
    cluster_checks.examine_accounting,
    cluster_checks.examine_requeue,
    cluster_checks.examine_warning,
    cluster_checks.examine_arrays,
    cluster_checks.examine_limits,
    cluster_checks.examine_wckey,
    cluster_checks.examine_asking,
    cluster_checks.examine_gpus,
    cluster_checks.examine_version,
    cluster_checks.examine_time,
    node_checks.examine_steps,
    node_checks.examine_network,
    node_checks.examine_tmpdir,
    node_checks.examine_python,
    node_checks.examine_clocks,
    node_checks.examine_sleep,
    cluster_checks.examine_nodes,
)


def findings(facts: Facts) -> tuple[ClusterFinding, ...]:
    """Return all that is unusual about a cluster, the worst first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return tuple(sorted(found, key=lambda one: LEVELS.index(one.level)))


def profile(
    facts: Facts, found: Iterable[ClusterFinding], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keys of a site profile; `given` are those that the user has chosen."""
    name = facts.partition["PartitionName"]
    nodes = usable(facts.nodes, name)
    seen = {"scheduler": "slurm", "partition": name, **_sizes(nodes), **_bare_gpus(facts)}
    seen |= {**_limits(facts), **facts.asking.keys, **_interface(facts)}
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


def _bare_gpus(facts: Facts) -> dict[str, Any]:
    """Return the keys for nodes whose GPUs SLURM does not know of: they come with the node."""
    told = [report.asked["gpu_devices"] for report in facts.reports.values() if report.asked]
    if facts.with_gpu or not all(told) or not told:
        return {}
    whole = {} if facts.partition.get("OverSubscribe") == "EXCLUSIVE" else {"exclusive": True}
    return {"gpus_per_node": min(map(len, told)), "gpu_request": "none", **whole}


def _limits(facts: Facts) -> dict[str, int]:
    """Return the keys that keep arrays and jobs within what is taken here."""
    limits = facts.accounting.limits
    jobs = [one.jobs for one in limits if one.jobs is not None]
    submitted = [one.submitted for one in limits if one.submitted is not None]
    queue = read_number(facts.config.get("MaxJobCount", ""))
    submitted += [queue] if queue else []  # in which the elements of arrays count too
    size = min([cluster_checks.largest_array(facts), *(num - 1 for num in submitted)])
    minutes = [parse_minutes(facts.partition.get("MaxTime", "")), *(one.minutes for one in limits)]
    longest = min((num for num in minutes if num), default=cluster_checks.LONG_MIN)
    keys = {"max_array_size": max(1, size)}  # one more job is for the report
    if jobs and min(jobs) < Site.model_fields["max_parallel"].default:
        keys["max_parallel"] = max(1, min(jobs))
    if longest < cluster_checks.LONG_MIN:
        keys["time_min"] = longest
    return keys


def _interface(facts: Facts) -> dict[str, str]:
    """Return the network for members, where it has to be said and can be told."""
    seen = node_checks.see_interfaces(facts)
    is_unclear = node_checks.find_loops(facts) or any(len(own) > 1 for own in seen.values())
    best = choose_interface(seen) if is_unclear else None
    return {"interface": best} if best else {}
