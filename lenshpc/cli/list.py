"""`lenshpc list`: the runs there are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenshpc.cli.options import runs_option
from lenshpc.cli.show import draw, echo, size_text

if TYPE_CHECKING:
    from rich.console import Group

    from lenshpc.launch.runs import RunSummary


COLOURS = {"green": "green", "amber": "yellow", "red": "red"}  # of verdicts, on a terminal


@click.command("list", short_help="List the runs with their states and headlines.")
@runs_option("folder")
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON.")
def list_runs(folder: Path, as_json: bool) -> None:
    """List the runs in a folder, the one that was submitted last at the end.

    A line has the states of the members, the report's headline or state, the colour of its verdict,
    data, strategy, GPU-hours (process-hours on CPUs), day of the last submission, size and task. A
    narrow terminal leaves out the last columns.

    \b
    Examples:
      lenshpc list
      lenshpc list --runs /scratch/runs
    """
    from rich.console import Console

    from lenshpc.cli.table import find_width
    from lenshpc.launch.runs import summarise
    from lenshpc.launch.states import ask_for_all
    from lenshpc.run.paths import find_runs

    runs = find_runs(folder)
    asked = ask_for_all(runs)
    found = sorted((summarise(run, asked) for run in runs), key=lambda one: one.submitted)
    if as_json:
        echo(json.dumps([asdict(each) for each in found], indent=1))
        return
    if not found:
        echo(f"no runs in {folder}; name another folder with --runs", err=True)
        return
    console = Console()
    draw(console, render(found, find_width(console)))
    for each in found:
        if each.fault:
            echo(f"{each.run}: {each.fault}", err=True)
    for silence in dict.fromkeys(each.silence for each in found if each.silence):
        echo(f"not known: {silence}", err=True)


def render(found: list[RunSummary], width: int | None) -> Group:
    """Return a line a run; `width` is a terminal's, None is a pipe's."""
    from lenshpc.cli.table import Heading, Line, draw_table

    headings = (
        Heading(word="run"),
        Heading(word="members"),
        Heading(word="report", rank=2),
        Heading(word="verdict", rank=3),
        Heading(word="data", rank=4),
        Heading(word="strategy", rank=5),
        Heading(word="hours", rank=6),
        Heading(word="submitted", rank=7),
        Heading(word="size", rank=8),
        Heading(word="task", rank=9),
    )
    lines = [
        Line(words=_words(each), styles=("", "", "", COLOURS.get(each.verdict, "")))
        for each in found
    ]
    return draw_table(headings, lines, width)


def _words(each: RunSummary) -> tuple[str, ...]:
    from lenshpc.launch.words import count_states

    return (
        each.run,
        count_states(each.states) or "not known",
        each.headline if each.report == "DONE" else each.report,
        each.verdict if each.report == "DONE" else "",
        each.dataset,
        each.strategy,
        f"{each.gpu_hours:.2f} {each.unit}-h" if each.states else "",
        each.submitted[:10],
        size_text(each.num_bytes or 0),
        each.task,
    )
