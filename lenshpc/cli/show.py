"""How a command shows words that came from files, logs and other programs: as text alone."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import click

from lenshpc.errors import one_line, printable_lines

if TYPE_CHECKING:  # it costs 0.1 s, which `lenshpc --help` need not pay
    from rich.console import Console, RenderableType
    from rich.text import Text

    from lenshpc.launch.sites import Site


WIDTH = 80


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, with escapes for all that would act on a terminal but lines and tabs."""
    click.echo(printable_lines(text), err=err, nl=nl)


def draw(console: Console, shown: RenderableType) -> None:
    """Print lines that are as long as they shall be, whatever the console believes of its width."""
    console.print(shown, crop=False)


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 member`, `2 members`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def cell(text: object, style: str = "") -> Text:
    """Return a text for a table, in which brackets are no markup."""
    from rich.text import Text

    return Text(one_line(text), style=style)


def fold(text: str, begin: str = "", after: str = "  ") -> list[str]:
    """Return a text in lines of at most `WIDTH`, also in a pipe: paths and options stay whole."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=begin,
        subsequent_indent=after,
        break_long_words=False,
        break_on_hyphens=False,
    )


def say_withheld(site: Site) -> None:
    """Say which variables of SLURM are set here and reach no job, but those that the site took."""
    from lenshpc.launch.sites import VARIABLES
    from lenshpc.launch.slurm import withheld_variables

    if site.scheduler != "slurm":
        return
    taken = {name for key, name in VARIABLES.items() if getattr(site, key) == os.environ.get(name)}
    names = [name for name in withheld_variables() if name not in taken]
    if names:
        some = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        echo(f"note: not passed on to jobs, which get what the profile says: {some}", err=True)


def size_text(num_bytes: int) -> str:
    """Say how many bytes, to people: `512 B`, `41.0 MB`."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while round(size, 1) >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{num_bytes} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
