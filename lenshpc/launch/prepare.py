"""Send a conversion to a cluster: an array that shares out the shards, then a job that joins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lenshpc.errors import ConfigError
from lenshpc.launch import executor
from lenshpc.launch.shards import jobs_folder, send_join, send_shares
from lenshpc.launch.sites import Site, load_site

if TYPE_CHECKING:  # it costs 1 s, which `resume` need not pay
    from lenshpc.store import Draft


@dataclass(frozen=True)
class PrepareCalls:
    """The functions that the jobs run; they live above this floor and are handed down."""

    convert: Callable[[str, int, int, int], None]
    join: Callable[[str], None]


def load_cluster(name: str) -> Site:
    """Return a site profile that has a scheduler."""
    site = load_site(name)
    if site.scheduler != "slurm":
        raise ConfigError(
            f"site {site.name} has no scheduler; leave out --site and --array-size to do it here"
        )
    return site


def send_conversion(
    draft: Draft, site: Site, *, array_size: int, workers: int, calls: PrepareCalls
) -> dict[str, Any]:
    """Send all shards, `workers` processes an element; safe to repeat.

    What an earlier call made of the sources as they still are is kept, but looked at by the jobs.
    Returns the elements sent, the id of their job and that of the joining job.
    """
    # beside the draft, since the last job removes that
    folder = draft.path.with_name(f".{draft.path.name}.slurm")
    site = jobs_folder(folder, site)
    name = f"prepare-{draft.spec.dataset}"
    elements, job = send_shares(
        range(len(draft.blocks)),
        array_size,
        lambda num: executor.conversion_request(name, site, folder, num, workers),
        calls.convert,
        draft.folder,
        workers,
    )
    return {
        "elements": elements,
        "job": job,
        "join": send_join(name, site, folder, job, calls.join, draft.folder),
        "store": str(draft.path),
        "logs": str(folder),
    }
