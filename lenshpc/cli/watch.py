"""Draw a run's status as a table, once or until the run has ended."""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live

from lenshpc.cli.show import draw, echo
from lenshpc.cli.table import Heading, Line, draw_lines, draw_table, find_width
from lenshpc.errors import one_line
from lenshpc.launch.local import stop_queue
from lenshpc.launch.states import RunStatus, follow, has_own_queue
from lenshpc.launch.words import (
    COLUMNS,
    FailureText,
    StatusLine,
    list_failures,
    list_lines,
    summarise_states,
)
from lenshpc.run.completion import resume_command
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan

RANKS = (0, 0, 1, 2, 3, 4, 6, 5)  # in which columns give way
COLOURS = {"DONE": "green", "FAILED": "red", "CANCELLED": "yellow", "RUNNING": "cyan"}


def show(status: RunStatus) -> None:
    """Print the table, and what went wrong."""
    console = Console()
    draw(console, render(status, find_width(console)))


def watch_all(runs: Sequence[tuple[RunPaths, Plan]]) -> None:
    """Watch runs that follow one another; where one fails, those of this machine after it end."""
    for place, (run, plan) in enumerate(runs):
        try:
            watch(run, plan)
        except SystemExit:
            for later, _ in runs[place + 1 :]:
                stop_queue(later)
            raise


def watch(run: RunPaths, plan: Plan) -> None:
    """Redraw the table until nothing waits or runs; exit 1 if the run did not come to a report.

    Ctrl-C stops a local run. Jobs of a cluster go on.
    """
    is_local = has_own_queue(run)
    console = Console(stderr=True)
    draw_on = _follow_on_terminal if console.is_terminal else _follow_in_lines
    try:
        status = draw_on(console, follow(run, plan))
    except KeyboardInterrupt:
        _handle_interrupt(run, is_local=is_local)
    if status.report != "DONE":
        echo(f"run {run.name} has no report; see {run.slurm}", err=True)
        # Else the table says what to do first.
        if all(line.step != "mend" for line in status.members):
            echo(f"go on with: {resume_command(run)}", err=True)
        sys.exit(1)
    echo(f"report: {run.report / 'report.html'}")


def _follow_on_terminal(console: Console, told: Iterator[RunStatus]) -> RunStatus:
    """Redraw the table; return the last status."""
    with Live(console=console, refresh_per_second=4) as live:
        for status in told:
            live.update(render(status, console.width))
    return status


def _follow_in_lines(console: Console, told: Iterator[RunStatus]) -> RunStatus:
    """Print a line when something changes, and the table at last; return the last status."""
    before = ""
    for status in told:
        line = summarise_states(status)
        if line != before:
            echo(f"{datetime.now().astimezone():%H:%M:%S} {line}", err=True)
        before = line
    draw(console, render(status, None))
    return status


def _handle_interrupt(run: RunPaths, *, is_local: bool) -> None:
    if is_local:
        stop_queue(run)
        echo(f"stopped; go on with: {resume_command(run)}", err=True)
    else:
        echo("the jobs go on without this window", err=True)
    sys.exit(130)


def render(status: RunStatus, width: int | None) -> Group:
    """Return the table, and below it each kind of failure with its advice.

    `width` is the terminal's; None is a pipe's.
    """
    columns = [Heading(word=word, rank=rank) for word, rank in zip(COLUMNS, RANKS, strict=True)]
    silence = [draw_lines(f"not known: {status.silence}", width)] if status.silence else []
    return Group(
        draw_lines(one_line(status.run), width, style="bold"),
        draw_table(columns, [_colour(line) for line in list_lines(status)], width),
        *silence,
        *(_draw_failure(failure, width) for failure in list_failures(status)),
    )


def _colour(line: StatusLine) -> Line:
    return Line(words=line.words, note=line.note, styles=("", COLOURS.get(line.state, "")))


def _draw_failure(failure: FailureText, width: int | None) -> Group:
    return Group(
        "",
        draw_lines(failure.meaning, width, style=COLOURS.get(failure.name, "red")),
        draw_lines(failure.advice, width, indent="  "),
        *(draw_lines(line, width, indent="  | ", style="dim") for line in failure.tail),
    )
