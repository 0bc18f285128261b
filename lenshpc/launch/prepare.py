"""Send a conversion to a cluster: an array that shares out the shards, then a job that joins.

Where images are cut from mosaics, an array that shares out the tiles comes before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    cut: Callable[[str, int, int, int], None]
    convert: Callable[[str, int, int, int], None]
    join: Callable[[str], None]


def load_cluster(name: str) -> Site:
    """Return a site profile that has a scheduler."""
    site = load_site(name)
    if site.scheduler != "slurm":
        raise ConfigError(
            f"site {site.name} has no scheduler; leave out --site and --array-size to work on "
            "this machine"
        )
    return site


def send_conversion(
    draft: Draft,
    site: Site,
    *,
    tiles: Sequence[int],
    array_size: int,
    workers: int,
    calls: PrepareCalls,
) -> dict[str, Any]:
    """Send all shards, `workers` processes an element; safe to repeat.

    What an earlier call made of the sources as they still are is kept, but looked at by the jobs.
    `tiles` are the numbers of those that must be cut before. Returns the elements sent, the id of
    their job and that of the joining job, and elements and job of the tiles.
    """
    # beside the draft, since the last job removes that
    folder = draft.path.with_name(f".{draft.path.name}.slurm")
    site = jobs_folder(folder, site)
    name = f"prepare-{draft.spec.dataset}"
    tile_elements, tile_job = send_shares(
        tiles,
        array_size,
        lambda num: executor.conversion_request(f"{name}-tiles", site, folder, num, workers),
        calls.cut,
        draft.folder,
        workers,
    )
    elements, job = send_shares(
        range(len(draft.blocks)),
        array_size,
        # After all tiles, since a shard has images of all of them.
        lambda num: executor.conversion_request(name, site, folder, num, workers, after=tile_job),
        calls.convert,
        draft.folder,
        workers,
    )
    return {
        "tile_elements": tile_elements,
        "tile_job": tile_job,
        "elements": elements,
        "job": job,
        "join": send_join(name, site, folder, job, calls.join, draft.folder),
        "store": str(draft.path),
        "logs": str(folder),
    }
