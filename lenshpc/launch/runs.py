"""The runs in a folder: what each is worth knowing of, and what can be thrown away."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lenshpc.errors import ConfigError, LensHpcError
from lenshpc.launch.jobs import records
from lenshpc.launch.states import RunStatus, run_status
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, load_plan


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One line of `lenshpc list`; `fault` says why nothing else is known of a run."""

    run: str
    states: dict[str, int]
    report: str
    submitted: str
    num_bytes: int
    fault: str = ""


def find_runs(folder: Path) -> list[RunPaths]:
    """Return the runs in a folder, by name."""
    return [RunPaths(path.parent.resolve()) for path in sorted(folder.glob("*/plan.json"))]


def summarise(run: RunPaths) -> RunSummary:
    """Return what is worth knowing of a run at a glance; one that cannot be read stops no other."""
    num_bytes = sum(path.lstat().st_size for path in _files(run.root))
    try:
        status = run_status(run, load_plan(run))
        jobs = records(run)
    except LensHpcError as error:
        fault = str(error)
        return RunSummary(
            run=run.name, states={}, report="", submitted="", num_bytes=num_bytes, fault=fault
        )
    return RunSummary(
        run=run.name,
        states=dict(Counter(line.state for line in status.members)),
        report=status.report,
        submitted=jobs[-1].submitted if jobs else "",
        num_bytes=num_bytes,
    )


def removable(run: RunPaths, *, whole: bool) -> list[Path]:
    """Return what a run no longer needs: checkpoints, pickles and drafts; or all of it.

    Raises ConfigError while anything of it waits or runs.
    """
    plan = load_plan(run)
    status = run_status(run, plan)
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
    if path.is_dir() and not path.is_symlink():
        return sum(each.lstat().st_size for each in _files(path))
    return path.lstat().st_size


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield Path(folder, name)
