"""The runs in a folder: what each is worth knowing of, and what can be thrown away."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lenshpc.errors import ConfigError, LaunchError, LensHpcError, read_error
from lenshpc.launch.jobs import records
from lenshpc.launch.states import RunStatus, run_status
from lenshpc.run.ownership import find_owner
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, load_plan


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One line of `lenshpc list`; `fault` says what of a run cannot be read."""

    run: str
    states: dict[str, int]
    report: str
    submitted: str
    num_bytes: int
    fault: str = ""


def summarise(run: RunPaths) -> RunSummary:
    """Return what is worth knowing of a run at a glance; one that cannot be read stops no other."""
    try:
        status = run_status(run, load_plan(run))
        jobs = records(run)
    except LensHpcError as error:
        return _describe_unread(run, error)
    except OSError as error:
        return _describe_unread(run, read_error(error.filename or run.root, error))
    return RunSummary(
        run=run.name,
        states=dict(Counter(line.state for line in status.members)),
        report=status.report,
        submitted=jobs[-1].submitted if jobs else "",
        num_bytes=size_of(run.root),
        fault=_describe_faults(status),
    )


def _describe_unread(run: RunPaths, error: LensHpcError) -> RunSummary:
    num_bytes, fault = size_of(run.root), str(error)
    return RunSummary(
        run=run.name, states={}, report="", submitted="", num_bytes=num_bytes, fault=fault
    )


def _describe_faults(status: RunStatus) -> str:
    """Return the first fault in the members' files, and how many members have one."""
    told = [f"{line.name}: {line.fault}" for line in status.members if line.fault]
    return f"{told[0]}; {len(told)} of {len(status.members)} members" if told else ""


def removable(run: RunPaths, *, whole: bool) -> list[Path]:
    """Return what a run no longer needs: checkpoints, pickles and drafts; or all of it.

    Raises ConfigError while anything of it waits or runs and of another user's, LaunchError where
    nobody can tell.
    """
    owner = find_owner(run)
    if owner:
        raise ConfigError(f"run {run.name} belongs to {owner}, who alone may clean it")
    plan = load_plan(run)
    status = run_status(run, plan)
    if status.silence:
        raise LaunchError(f"what run {run.name} needs is not known: {status.silence}; try again")
    # Jobs that wait still read their pickles, and a member that runs its checkpoints.
    if not status.has_ended:
        raise ConfigError(f"run {run.name} is under way; first: lenshpc cancel {run.name}")
    if whole:
        return [run.root]
    return [*_leftovers(run, plan, status), *_find_unused(run)]


def _leftovers(run: RunPaths, plan: Plan, status: RunStatus) -> Iterator[Path]:
    """Yield the checkpoints of done members, and the half-written files of all."""
    for member, line in zip(plan.members, status.members, strict=True):
        paths = run.member(member.name)
        if line.state == "DONE" and paths.checkpoint.is_dir():
            yield paths.checkpoint
        yield from paths.root.glob(".*.tmp")


def _find_unused(run: RunPaths) -> Iterator[Path]:
    """Yield what submitit and sbatch no longer read, now that no job is left."""
    for pattern in ("*.pkl", ".submission_file_*", "lenshpc-*.sh"):
        yield from run.slurm.glob(pattern)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    files = _files(path) if path.is_dir() and not path.is_symlink() else [path]
    return sum(map(_size, files))


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # gone since: jobs rename and remove files
        return 0


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield Path(folder, name)
