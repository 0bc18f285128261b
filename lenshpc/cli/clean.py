"""`lenshpc clean`: throw away what ended runs no longer need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenshpc.cli.completing import runs
from lenshpc.cli.show import echo
from lenshpc.errors import LensHpcError
from lenshpc.run.paths import RUNS

if TYPE_CHECKING:
    from lenshpc.run.paths import RunPaths


@click.command(short_help="Remove what ended runs no longer need.")
@click.argument("run", required=False, shell_complete=runs)
@click.option("--runs", "folder", default=RUNS, show_default=True, type=click.Path(path_type=Path))
@click.option("--all", "whole", is_flag=True, help="Remove all of RUN, results too.")
@click.option("--yes", is_flag=True, help="Remove; without it, only list.")
def clean(run: str | None, folder: Path, whole: bool, yes: bool) -> None:
    """Remove checkpoints of done members, job pickles and half-written files, of RUN or all runs.

    Without --yes nothing is removed but listed. A run that waits or runs is left alone. Results,
    logs and weights stay, unless --all is given for a RUN.

    \b
    Examples:
      lenshpc clean
      lenshpc clean lens_finding-9f2c51ab --yes
      lenshpc clean lens_finding-9f2c51ab --all --yes
    """
    if whole and run is None:
        raise click.UsageError("--all needs a RUN")
    from lenshpc.run.paths import find_run, find_runs

    chosen = find_runs(folder) if run is None else [find_run(run, folder)]
    num_bytes = sum(_clean(each, whole=whole, yes=yes, skip=run is None) for each in chosen)
    echo(f"{size_text(num_bytes)} {'removed' if yes else 'to remove, with --yes'}", err=True)


def _clean(run: RunPaths, *, whole: bool, yes: bool, skip: bool) -> int:
    """Remove or list what a run can spare; return its bytes. `skip` leaves one that cannot be."""
    from lenshpc.launch.runs import removable, remove, size_of

    try:
        paths = removable(run, whole=whole)
    except (LensHpcError, OSError) as error:
        if not skip:
            raise
        echo(f"left alone: {error}", err=True)
        return 0
    num_bytes = 0
    for path in paths:
        size = size_of(path)
        num_bytes += size
        echo(f"{size_text(size):>9}  {path}")
        if yes:
            remove(path)
    return num_bytes


def size_text(num_bytes: int) -> str:
    """Say how many bytes, to people."""
    return f"{num_bytes / 1e6:.1f} MB"
