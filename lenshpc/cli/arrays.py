"""`--site` and `--array-size`: a command does its work as a job array of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lenshpc.cli.completing import sites

if TYPE_CHECKING:
    from lenshpc.launch.sites import Site

Command = TypeVar("Command", bound=Callable[..., Any])


def array_options(verb: str, jobs: str) -> Callable[[Command], Command]:
    """Return a decorator that gives a command both options, told by its verb and what jobs are."""
    site = click.option(
        "--site",
        shell_complete=sites,
        help=f"{verb} as a job array on this SLURM site: a name, or your .yaml.",
    )
    size = click.option(
        "--array-size",
        type=click.IntRange(1, 100_000),
        help=f"Number of jobs in the array, {jobs}.",
    )

    def decorate(command: Command) -> Command:
        return site(size(command))

    return decorate


def load_array_site(site: str | None, array_size: int | None) -> Site | None:
    """Return the site of an array; None where the work is done here."""
    if (site is None) != (array_size is None):
        raise click.UsageError("--site and --array-size go together")
    if site is None:
        return None
    from lenshpc.launch.prepare import load_cluster

    return load_cluster(site)
