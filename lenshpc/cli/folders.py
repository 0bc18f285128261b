"""`--runs`: the folder in which a command finds its runs, or makes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lenshpc.run.paths import RUNS

Command = TypeVar("Command", bound=Callable[..., Any])


def runs_option(parameter: str) -> Callable[[Command], Command]:
    """Return a decorator that gives a command the option, under the name of its parameter."""
    return click.option(
        "--runs",
        parameter,
        default=RUNS,
        show_default=True,
        type=click.Path(path_type=Path),
        help="Folder of the runs.",
    )
