"""One command at a time sends jobs of a run; what a stopped one left open, the next one settles."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from lenshpc.errors import LaunchError
from lenshpc.launch.jobs import NEVER_SENT, intents, record
from lenshpc.launch.slurm import find_jobs
from lenshpc.run.ownership import find_owner
from lenshpc.run.paths import RunPaths


@contextmanager
def submission_lock(run: RunPaths) -> Iterator[int]:
    """Hold the run's lock, with nothing left open; yield the lock's file for sbatch to inherit."""
    with (run.slurm / "lock").open("ab") as lock:
        # flock and no pid file: it ends with its holders, who may be on other nodes and cannot be
        # asked. The file is never removed, or two commands would lock two files of one name.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Under the lock and before anything else: what is open may be the very members that are
        # about to be sent.
        settle(run)
        yield lock.fileno()


def reconcile(run: RunPaths) -> str:
    """Settle what a stopped command left open; return why that was not possible, or nothing."""
    if not intents(run):
        return ""
    owner = find_owner(run)
    if owner:  # a search for our jobs tells nothing of another user's
        return f"{owner} has left a submission open; their next command settles it"
    with (run.slurm / "lock").open("ab") as lock:
        try:
            # `status` must not wait behind a submission, and must not settle one that is under way.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            settle(run)
        except BlockingIOError:
            return "another command is sending"
        except LaunchError as error:
            return str(error)
    return ""


def settle(run: RunPaths) -> None:
    """Record the ids of jobs whose submission was interrupted, or that they were never sent.

    The caller holds the lock, so no sbatch is under way. Raises LaunchError if the controller
    does not answer.
    """
    left = intents(run)
    if not left:
        return
    # All sources or none: it raises where the controller is silent, since a job taken for never
    # sent is sent twice.
    found = find_jobs([job.token for job in left]) | _read_links(run)
    for job in left:
        _, mark, index = job.follows.partition("_")
        job_id = found[job.token] + mark + index if job.token in found else NEVER_SENT
        record(run, job.model_copy(update={"job_id": job_id}))


def _read_links(run: RunPaths) -> dict[str, str]:
    """Return token → job id of the jobs that began: each element links its name to the pickle."""
    links = (path for path in run.slurm.glob("*_submitted.pkl") if path.is_symlink())
    return {path.readlink().stem: path.name.partition("_")[0] for path in links}
