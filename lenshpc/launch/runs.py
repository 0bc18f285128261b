"""The runs in a folder: what each is worth knowing of, and what can be thrown away."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lenshpc.errors import ConfigError, LaunchError, LensHpcError, read_error
from lenshpc.files import read_json
from lenshpc.launch.jobs import records
from lenshpc.launch.states import Asked, RunStatus, run_status
from lenshpc.run.completion import reference
from lenshpc.run.ownership import find_owner
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, load_plan


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One line of `lenshpc list`.

    `headline` is the number that stands for the run in its report, `verdict` the colour of what the
    report says of it, `submitted` ISO 8601 in UTC, `num_bytes` None where nobody counted, `fault`
    what of a run cannot be read, `silence` why its jobs' states are not known. `gpu_hours` are of
    `unit`: GPU, or process where members are on CPUs.
    """

    run: str
    dataset: str = ""
    task: str = ""
    strategy: str = ""
    states: dict[str, int]
    report: str = ""
    headline: str = ""
    verdict: str = ""
    gpu_hours: float = 0.0
    unit: str = "GPU"
    submitted: str = ""
    num_bytes: int | None = None
    fault: str = ""
    silence: str = ""


def summarise(run: RunPaths, asked: Asked) -> RunSummary:
    """Return what is worth knowing of a run at a glance; one that cannot be read stops no other."""
    num_bytes = size_of(run.root)
    try:
        plan = load_plan(run)
        told = describe_run(run, plan, run_status(run, plan, asked))
    except LensHpcError as error:
        told = describe_unread(run, error)
    except OSError as error:
        told = describe_unread(run, read_error(error.filename or run.root, error))
    return replace(told, num_bytes=num_bytes)


def describe_run(run: RunPaths, plan: Plan, status: RunStatus) -> RunSummary:
    """Return what is worth knowing of a run whose status is known."""
    jobs = records(run)
    headline, verdict = _read_headline(run)
    return RunSummary(
        run=run.name,
        dataset=plan.dataset,
        task=plan.recipe.task,
        strategy=plan.recipe.strategy,
        states=dict(Counter(line.state for line in status.members)),
        report=status.report,
        headline=headline,
        verdict=verdict,
        gpu_hours=round(sum(line.gpu_hours for line in status.members), 4),
        unit=status.unit,
        submitted=jobs[-1].submitted if jobs else "",
        fault=_describe_faults(status),
        silence=status.silence,
    )


def describe_unread(run: RunPaths, error: LensHpcError) -> RunSummary:
    """Return what is known of a run that cannot be read: why."""
    return RunSummary(run=run.name, states={}, fault=str(error))


def _describe_faults(status: RunStatus) -> str:
    """Return the first fault in the members' files, and how many members have one."""
    told = [f"{line.name}: {line.fault}" for line in status.members if line.fault]
    return f"{told[0]}; {len(told)} of {len(status.members)} members" if told else ""


def _read_headline(run: RunPaths) -> tuple[str, str]:
    """Return the number that stands for a run and the verdict's colour, as far as a report tells.

    The verdict is empty where the task gives none.
    """
    try:
        content: Any = read_json(run.report / "report.json")
        return str(content["in_short"]), str((content.get("verdict") or {}).get("colour", ""))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "", ""


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Files of one kind in a folder of a run that it no longer needs; `folder` is from the run."""

    folder: str
    kind: str
    paths: tuple[Path, ...]


def removable(run: RunPaths, *, whole: bool, asked: Asked | None = None) -> list[Leftover]:
    """Return what a run no longer needs: checkpoints, pickles and drafts; or all of it.

    Raises ConfigError while anything of it waits or runs and of another user's, LaunchError where
    nobody can tell.
    """
    owner = find_owner(run)
    if owner:
        raise ConfigError(f"it belongs to {owner}, and only {owner} may clean it")
    plan = load_plan(run)
    status = run_status(run, plan, asked)
    if status.silence:
        raise LaunchError(f"the state of its jobs is unknown: {status.silence}; try again")
    # Jobs that wait still read their pickles, and a member that runs its checkpoints.
    if not status.has_ended:
        raise ConfigError(
            f"its jobs still wait or run; cancel them first: lenshpc cancel {reference(run)}"
        )
    if whole:
        return [Leftover(folder=".", kind="all of the run", paths=(run.root,))]
    return [one for one in _leftovers(run, plan, status) if one.paths]


def _leftovers(run: RunPaths, plan: Plan, status: RunStatus) -> Iterator[Leftover]:
    """Yield checkpoints of done members, half-written files, the cache, and what jobs read."""
    for member, line in zip(plan.members, status.members, strict=True):
        paths = run.member(member.name)
        folder = str(paths.root.relative_to(run.root))
        if line.state == "DONE" and paths.checkpoint.is_dir():
            yield Leftover(folder=folder, kind="checkpoint", paths=(paths.checkpoint,))
        drafts = tuple(sorted(paths.root.glob(".*.tmp")))
        yield Leftover(folder=folder, kind="half-written", paths=drafts)
    parts = tuple(sorted(path for path in run.cache.glob("*") if path.is_dir()))
    yield Leftover(folder="cache", kind="kept by aggregate", paths=parts)
    # What submitit and sbatch no longer read, now that no job is left.
    for kind, pattern in (
        ("pickles", "*.pkl"),
        ("submission files", ".submission_file_*"),
        ("scripts", "lenshpc-*.sh"),
        ("half-written", "usage/.*.tmp"),
    ):
        yield Leftover(folder="slurm", kind=kind, paths=tuple(sorted(run.slurm.glob(pattern))))


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    return sum(map(_size, files_of(path)))


def files_of(path: Path) -> Sequence[Path]:
    """Return a file itself, or all files below a folder."""
    if not path.is_dir() or path.is_symlink():
        return [path]
    return [Path(folder, name) for folder, _, names in os.walk(path) for name in names]


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
