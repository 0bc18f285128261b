"""The nodes that a run's jobs avoid, since a failure was blamed on them.

Noted by the batch script of the job that failed, and by `submit` and `resume` for jobs that SLURM
itself ended; one JSON line a node and failure. Without its line a node is used again.

A failure whose cause nodes can share (a path, a container, clocks) excludes a node while it is the
only one; once another has it, it is no node's own, and would take one after the other from the run.
A lost node or a broken GPU is each node's own, so any number of them stay excluded.
"""

import re
from collections import defaultdict
from typing import Annotated

from pydantic import Field

from lenshpc.config import Frozen
from lenshpc.launch.failures import Failure
from lenshpc.launch.rules import RULES
from lenshpc.launch.sites import Site
from lenshpc.run.paths import RunPaths
from lenshpc.run.records import read_lines

SHARED = frozenset(rule.name for rule in RULES if rule.is_shared)
NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # it comes from a log, and goes to sbatch


class Exclusion(Frozen):
    """One node, the failure that it is blamed for, and whose job that was."""

    node: Annotated[str, Field(pattern=rf"^{NODE.pattern}$")]
    failure: str = ""
    job: str = ""


def note(run: RunPaths, job: str, failure: Failure | None) -> None:
    """Note the node that a job's failure is blamed on, if it is."""
    if failure is None or failure.action != "exclude node":
        return
    if failure.node in _read_noted(run)[failure.name]:
        return
    # The name comes from a log, which any program may write, and reaches an sbatch line.
    if NODE.fullmatch(failure.node):
        line = Exclusion(node=failure.node, failure=failure.name, job=job)
        with run.excluded.open("a", encoding="utf-8") as stream:
            # the line before may be half written, by a job that was killed
            stream.write(f"\n{line.model_dump_json()}\n")


def nodes(run: RunPaths) -> tuple[str, ...]:
    """Return the nodes to avoid, by name: not those that have a cause in common."""
    noted = _read_noted(run).items()
    own = (some for name, some in noted if len(some) == 1 or name not in SHARED)
    return tuple(sorted(set().union(*own)))


def _read_noted(run: RunPaths) -> defaultdict[str, set[str]]:
    """Return the nodes that were noted for each failure."""
    noted = defaultdict(set)
    for line in read_lines(Exclusion, run.excluded):
        noted[line.failure].add(line.node)
    return noted


def before(site: Site, run: RunPaths) -> Site:
    """Return the site whose jobs avoid the nodes, and those that its profile excludes."""
    avoided = nodes(run)
    if not avoided:
        return site
    # Joined, never replaced: the site's own exclusions stay.
    own = [str(site.sbatch["exclude"])] if "exclude" in site.sbatch else []
    options = {**site.sbatch, "exclude": ",".join([*own, *avoided])}
    return site.model_copy(update={"sbatch": options})
