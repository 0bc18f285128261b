"""Options that several commands have: `--runs` and `--seed`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lenshpc.run.paths import RUNS

Command = TypeVar("Command", bound=Callable[..., Any])


def runs_option(parameter: str) -> Callable[[Command], Command]:
    """Return a decorator that gives a command `--runs`, under the name of its parameter."""
    return click.option(
        "--runs",
        parameter,
        default=RUNS,
        show_default=True,
        type=click.Path(path_type=Path),
        help="Folder of the runs.",
    )


def seed_option(what: str) -> Callable[[Command], Command]:
    """Return a decorator that gives a command `--seed`, told by what is drawn with it."""
    return click.option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),
        default=0,
        show_default=True,
        help=f"Seed of {what}.",
    )
