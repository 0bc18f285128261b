"""Draw a run's status as a table, once or until the run has ended."""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live

from lenshpc.cli.show import draw, echo
from lenshpc.cli.sparkline import draw_curve
from lenshpc.cli.table import Heading, Line, draw_lines, draw_table, find_width
from lenshpc.errors import one_line
from lenshpc.launch.local import stop_queue
from lenshpc.launch.states import RunStatus, follow, has_own_queue
from lenshpc.launch.words import (
    FailureText,
    StatusLine,
    list_failures,
    list_lines,
    list_titles,
    summarise_states,
)
from lenshpc.run.completion import resume_command
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan

RANKS = (0, 0, 1, 2, 3, 4, 6, 5, 7)  # in which columns give way, the curve before all
WATCHED_RANKS = (0, 0, 1, 2, 5, 4, 6, 3, 2)  # while a curve and the end change
CURVE_WIDTH = 12
COLOURS = {
    "DONE": "green",
    "TRAINED": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
}


def show(status: RunStatus) -> None:
    """Print the table, and what went wrong."""
    console = Console()
    ascii_only = console.options.ascii_only
    draw(console, render(status, find_width(console), ascii_only=ascii_only))


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
    from lenshpc.report.verdict import format_verdict
    from lenshpc.report.write import read_verdict

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
        if all(line.step != "correct" for line in status.members):
            echo(f"continue with: {resume_command(run)}", err=True)
        sys.exit(1)
    echo(format_verdict(read_verdict(run.report)), err=True)
    echo(f"report: {run.report / 'report.html'}")


def _follow_on_terminal(console: Console, told: Iterator[RunStatus]) -> RunStatus:
    """Redraw the table; return the last status."""
    ascii_only = console.options.ascii_only
    with Live(console=console, refresh_per_second=4) as live:
        for status in told:
            live.update(render(status, console.width, watching=True, ascii_only=ascii_only))
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
        echo(f"stopped; continue with: {resume_command(run)}", err=True)
    else:
        echo("the jobs continue without this window", err=True)
    sys.exit(130)


def render(
    status: RunStatus, width: int | None, *, watching: bool = False, ascii_only: bool = False
) -> Group:
    """Return the table, and below it each kind of failure with its advice.

    `width` is the terminal's; None is a pipe's, where no curves are drawn.
    """
    lines = list_lines(status)
    words, curves = list_titles(status), [list[str]()] * len(lines)
    if width is not None:
        words.append("curve")
        curves = [[draw_curve(line.curve, CURVE_WIDTH, ascii_only=ascii_only)] for line in lines]
    ranks = WATCHED_RANKS if watching else RANKS
    columns = [Heading(word=word, rank=rank) for word, rank in zip(words, ranks, strict=False)]
    rows = [_colour(line, curve) for line, curve in zip(lines, curves, strict=True)]
    silence = [draw_lines(f"not known: {status.silence}", width)] if status.silence else []
    return Group(
        draw_lines(one_line(status.run), width, style="bold"),
        draw_table(columns, rows, width),
        *silence,
        *(_draw_failure(failure, width) for failure in list_failures(status)),
    )


def _colour(line: StatusLine, further: Sequence[str]) -> Line:
    styles = ("", COLOURS.get(line.state, ""))
    return Line(words=(*line.words, *further), note=line.note, styles=styles)


def _draw_failure(failure: FailureText, width: int | None) -> Group:
    return Group(
        "",
        draw_lines(failure.meaning, width, style=COLOURS.get(failure.name, "red")),
        draw_lines(failure.advice, width, indent="  "),
        *(draw_lines(line, width, indent="  | ", style="dim") for line in failure.tail),
    )
