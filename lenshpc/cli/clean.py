"""`lenshpc clean`: throw away what ended runs no longer need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenshpc.cli.completing import runs
from lenshpc.cli.options import runs_option
from lenshpc.cli.show import count, echo, size_text
from lenshpc.errors import LensHpcError

if TYPE_CHECKING:
    from lenshpc.launch.runs import Leftover
    from lenshpc.launch.states import Asked
    from lenshpc.run.paths import RunPaths


@click.command(short_help="Remove files that ended runs no longer need.")
@click.argument("run", required=False, shell_complete=runs)
@runs_option("folder")
@click.option("--all", "whole", is_flag=True, help="Remove all of RUN, including its results.")
@click.option("--yes", is_flag=True, help="Remove the files; without it they are only listed.")
def clean(run: str | None, folder: Path, whole: bool, yes: bool) -> None:
    """Remove files that RUN, or each ended run in the folder, no longer needs.

    These are checkpoints of done members, scripts and pickles of jobs, half-written files, and the
    cache of aggregate. Without --yes they are only listed. A run that waits or runs is not touched.
    Results, logs and weights stay, unless --all is given for a RUN. Without its checkpoint a done
    member cannot be trained for more epochs.

    \b
    Examples:
      lenshpc clean
      lenshpc clean lens_finding-9f2c51ab --yes
      lenshpc clean lens_finding-9f2c51ab --all --yes
    """
    if whole and run is None:
        raise click.UsageError("--all needs a RUN")
    from lenshpc.launch.states import ask_for_all
    from lenshpc.run.paths import find_run, find_runs

    chosen = find_runs(folder) if run is None else [find_run(run, folder)]
    asked = ask_for_all(chosen)
    # Nothing is removed on an answer that may be old; only a silence is not asked for again.
    silent = asked if asked.known.silence else None
    alone: dict[str, list[str]] = {}
    sizes = []
    for each in chosen:
        try:
            sizes.append(_clean(each, silent, whole=whole, yes=yes))
        except (LensHpcError, OSError) as error:
            if run is not None:
                raise
            alone.setdefault(str(error), []).append(each.name)
    for told, names in alone.items():
        echo(f"left alone: {', '.join(names)}: {told}", err=True)
    done = "removed" if yes else "to remove, with --yes"
    total = size_text(sum(num_bytes for _, num_bytes in sizes))
    echo(f"{count(sum(num for num, _ in sizes), 'file')}, {total} {done}", err=True)


def _clean(run: RunPaths, silent: Asked | None, *, whole: bool, yes: bool) -> tuple[int, int]:
    """Remove or list what a run can spare; return its files and bytes."""
    from lenshpc.launch.runs import removable

    found = removable(run, whole=whole, asked=silent)
    if found:
        echo(f"{run.name}:")
    sizes = [_spend(one, yes=yes) for one in found]
    return sum(num for num, _ in sizes), sum(num_bytes for _, num_bytes in sizes)


def _spend(leftover: Leftover, *, yes: bool) -> tuple[int, int]:
    """Remove or list files of one kind; return their number and bytes."""
    from lenshpc.launch.runs import files_of, remove, size_of

    num_files = sum(len(files_of(path)) for path in leftover.paths)
    num_bytes = sum(map(size_of, leftover.paths))
    told = f"{count(num_files, 'file')}, {size_text(num_bytes)}"
    echo(f"  {leftover.folder}: {leftover.kind}, {told}")
    if yes:
        for path in leftover.paths:
            remove(path)
    return num_files, num_bytes
