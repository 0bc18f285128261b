"""`lenshpc list`: the runs there are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenshpc.cli.clean import size_text
from lenshpc.cli.show import cell, echo
from lenshpc.run.paths import RUNS

if TYPE_CHECKING:
    from lenshpc.launch.runs import RunSummary


@click.command("list", short_help="List the runs with their states and sizes.")
@click.option("--runs", "folder", default=RUNS, show_default=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the runs for programs.")
def list_runs(folder: Path, as_json: bool) -> None:
    """List the runs in a folder: states of members, the report, last submission, and size.

    \b
    Example:
      lenshpc list --runs /scratch/runs
    """
    from lenshpc.launch.runs import summarise
    from lenshpc.run.paths import find_runs

    found = [summarise(run) for run in find_runs(folder)]
    if as_json:
        echo(json.dumps([asdict(each) for each in found], indent=1))
        return
    _print_table(found)


def _print_table(found: list[RunSummary]) -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for heading in ("run", "members", "report", "submitted", "size"):
        drawn.add_column(heading, overflow="fold")
    for each in found:
        states = ", ".join(f"{count} {state}" for state, count in each.states.items())
        states = states or "not known, see below"
        words = (each.run, states, each.report, each.submitted, size_text(each.num_bytes))
        drawn.add_row(*map(cell, words))
    Console().print(drawn)
    for each in found:
        if each.fault:
            echo(f"{each.run}: {each.fault}", err=True)
