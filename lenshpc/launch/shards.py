"""Send an array of jobs that share out the shards which an array on disk still lacks."""

from collections.abc import Callable, Iterable
from pathlib import Path

from lenshpc.errors import ConfigError
from lenshpc.launch import executor, snapshot
from lenshpc.launch.executor import JobRequest, Sending
from lenshpc.launch.sites import Site
from lenshpc.run.ownership import find_risk


def jobs_folder(folder: Path, site: Site) -> Site:
    """Make the private folder of the jobs; return the site with the copy of the code in it.

    ConfigError where the folder was there and others may have written in it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)  # pickles lie here
    risk = find_risk(folder)
    if risk:
        raise ConfigError(f"{risk}, and jobs would execute what is in it; choose another folder")
    code = snapshot.read(folder / "code")
    code.keep()
    return code.before(site)


def send_join(
    name: str, site: Site, folder: Path, after: str, call: Callable[[str], None], root: Path
) -> str:
    """Send the job that joins what an array has made; return its id."""
    # After the array, whatever its end: with shards missing it fails and says so, and the same
    # command goes on.
    request = executor.joining_request(name, site, folder, after=after)
    return executor.submit_single(request, Sending(), call, root)


def send_shares(
    missing: Iterable[int],
    array_size: int,
    request: Callable[[int], JobRequest],
    call: Callable[..., None],
    root: Path,
    *arguments: int,
) -> tuple[list[int], str]:
    """Return the elements that have shards to write, and the id of their job, empty without any.

    Element e of E writes the shards e, e + E, …: no two elements ever write the same one.
    """
    # By the shard's number, as the tasks count: by place in the list, a repeated command would
    # share out differently from one that still runs.
    elements = sorted({shard % array_size for shard in missing})
    if not elements:
        return elements, ""
    asked = request(len(elements))
    return elements, executor.submit_array(
        asked, Sending(), call, root, elements, array_size, *arguments
    )
