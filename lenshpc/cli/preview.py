"""What `lenshpc submit --dry-run` prints: members, what is asked for and why, the exact scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lenshpc.config import locate, read_yaml
from lenshpc.launch.executor import estimate_memory_gb
from lenshpc.launch.sites import (
    DEFAULTS,
    VARIABLES,
    Site,
    has_gpus,
    profile_keys,
    read_variables,
)
from lenshpc.launch.submit import requests
from lenshpc.run.adoption import Offer
from lenshpc.run.completion import is_done
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan
from lenshpc.run.planning import PlannedRun, describe_plan
from lenshpc.run.sections import Resources

SIZES = ("nodes", "gpus_per_node", "tasks_per_node", *DEFAULTS)
WAYS = ("gpu_request", "gpu_type", "mem_request", "exclusive", "interface", "container")

Source = tuple[str, str, str]  # key, value, where it comes from


def preview_chain(
    chain: Sequence[PlannedRun],
    offers: Sequence[Offer],
    site: Site,
    profile: str,
    recipes: Sequence[str],
    given: Mapping[str, Any],
) -> str:
    """Return what a dry run prints of the runs that a command would send.

    `profile` and `recipes` are named as on the command line, whose keys `given` are the first's.
    """
    return "\n\n".join(
        preview(
            one.paths,
            one.plan,
            site,
            trace(one.plan, site, profile, name, given if one is chain[0] else {}),
            offer,
            num_rows=len(one.splits),
        )
        for one, offer, name in zip(chain, offers, recipes, strict=True)
    )


def preview(
    run: RunPaths,
    plan: Plan,
    site: Site,
    sources: Iterable[Source],
    offer: Offer,
    *,
    num_rows: int,
) -> str:
    """Return the array's map, what is asked for, the exact scripts, the cost at most."""
    members = [("element", "member", "what happens to it"), *_list_members(run, plan, offer)]
    num_sent = sum(word.startswith("submitted") for _, _, word in members)
    first, second, *others = describe_plan(
        run,
        plan,
        num_sent,
        on_gpus=has_gpus(site, plan.recipe.resources),
        is_limited=site.scheduler == "slurm",
    ).items()
    told = (first, second, ("site", f"{site.name} ({site.scheduler})"), *others)
    lines = [
        *(f"{key:<12} {text}" for key, text in told),
        "",
        *_columns([("asked for", "value", "from"), *sources, *_estimate(plan, site, num_rows)]),
        "",
        *_columns(members),
        *_describe_nearest(plan, offer),
    ]
    if site.scheduler == "slurm":
        parts, aggregate = requests(plan, site, run, num_rows)
        for number, part in enumerate(parts, 1):
            which = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
            lines += ["", f"--- sbatch: the members{which}", part.script()]
        lines += ["", "--- sbatch: the report", aggregate.script()]
    return "\n".join(lines)


def _estimate(plan: Plan, site: Site, num_rows: int) -> Iterator[Source]:
    """Yield the memory of the report's job, where the profile leaves it to the Plan."""
    if site.scheduler == "slurm" and site.cpu_jobs.mem_gb is None:
        mem_gb = estimate_memory_gb(plan, num_rows)
        yield "report_mem_gb", str(mem_gb), f"estimated from {num_rows:,} rows"


def _list_members(run: RunPaths, plan: Plan, offer: Offer) -> Iterator[Source]:
    """Yield each member's number and name, and whether it is done, taken over or sent."""
    told = {
        "done": "done, taken over from {}",
        "trained": "submitted to predict, trained as {}",
        "begun": "submitted to continue from epoch {} of {}",
    }
    for member in plan.members:
        source = offer.found.get(member)
        if source is not None:
            values = (source.epochs, source.title) if source.state == "begun" else (source.title,)
            word = told[source.state].format(*values)
        else:
            word = "done" if run.plan.is_file() and is_done(run, plan, member) else "submitted"
        yield f"{member.index:>7}", member.name, word


def _describe_nearest(plan: Plan, offer: Offer) -> Iterator[str]:
    """Yield what differs from the nearest run, where members are sent that are found nowhere."""
    if offer.nearest is None or len(offer.found) == len(plan.members):
        return
    yield ""
    yield f"nearest run: {offer.nearest.name}, which differs in"
    rows = [
        (key, json.dumps(there), json.dumps(here))
        for key, (there, here) in offer.differences.items()
    ]
    yield from _columns([("key", "there", "here"), *rows])


def _columns(rows: list[Source]) -> list[str]:
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"{key:<{first}}  {value:<{second}}  {source}" for key, value, source in rows]


def trace(
    plan: Plan, site: Site, profile: str, recipe: str, given: Mapping[str, Any]
) -> list[Source]:
    """Return where each value that a job is sent with comes from."""
    keys = profile_keys(profile)
    own = dict.fromkeys(keys, f"site {site.name}")
    own |= {key: VARIABLES[key] for key in read_variables(keys)}
    written = read_yaml(locate("jobs", recipe)).get("resources") or {}
    sizes = [
        (
            key,
            _format_size(plan.recipe.resources, site, key),
            _source(key, own if key in DEFAULTS else {}, written, given),
        )
        for key in SIZES
        if getattr(plan.recipe.resources, key) is not None
    ]
    if site.scheduler != "slurm":
        return sizes[:2]
    places = [
        (key, _format_value(getattr(site, key)), own[key])
        for key in (*VARIABLES, *WAYS)
        if key in own
    ]
    block = site.cpu_jobs.model_dump(exclude_unset=True)
    return [
        *sizes,
        *places,
        *((f"cpu_jobs.{k}", str(v), own["cpu_jobs"]) for k, v in block.items()),
    ]


def _format_size(size: Resources, site: Site, key: str) -> str:
    """Return a size that is asked for, and that there are no GPUs where some are asked for."""
    lacks = key == "gpus_per_node" and size.gpus_per_node and not has_gpus(site, size)
    return f"{getattr(size, key)}, but there is none here" if lacks else str(getattr(size, key))


def _source(
    key: str, own: Mapping[str, str], written: Mapping[str, Any], given: Mapping[str, Any]
) -> str:
    """Return who said a size: the command line wins over the profile, that over the recipe."""
    if f"resources.{key}" in given or "resources" in given:
        return "command line"
    return own.get(key) or ("recipe" if key in written else "default")


def _format_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
