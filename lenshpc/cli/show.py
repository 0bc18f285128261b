"""How a command shows words that came from files, logs and other programs: as text alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lenshpc.errors import one_line, printable_lines

if TYPE_CHECKING:  # it costs 0.1 s, which `lenshpc --help` need not pay
    from rich.text import Text


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, with escapes for all that would act on a terminal but lines and tabs."""
    click.echo(printable_lines(text), err=err, nl=nl)


def cell(text: object, style: str = "") -> Text:
    """Return a text for a table, in which brackets are no markup."""
    from rich.text import Text

    return Text(one_line(text), style=style)
