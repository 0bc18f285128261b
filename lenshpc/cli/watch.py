"""Draw a run's status as a table, once or until the run has ended."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live

from lenshpc.cli.show import draw, echo
from lenshpc.cli.table import Heading, Line, draw_lines, draw_table, find_width
from lenshpc.errors import one_line
from lenshpc.launch.failures import Failure
from lenshpc.launch.local import read_queue, stop_queue
from lenshpc.launch.states import MemberStatus, RunStatus, run_status
from lenshpc.run.completion import resume_command
from lenshpc.run.gate import compact
from lenshpc.run.ownership import find_owner
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan

MOST_LINES = 100  # of members in one state
MOST_REASONS = 3  # that a line for many members tells
USUAL = ("DONE", "RUNNING", "PENDING")  # states, in the order in which they are counted up
LOCAL_POLL_S, SLURM_POLL_S = 0.5, 10.0
COLUMNS = (
    Heading(word="member"),
    Heading(word="state"),
    Heading(word="epoch", rank=1),
    Heading(word="best", rank=2),
    Heading(word="GPU-h", rank=3),
    Heading(word="job", rank=4),
    Heading(word="node", rank=6),
    Heading(word="ends", rank=5),
)
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
    local = bool(read_queue(run).pid) and find_owner(run) is None
    console = Console(stderr=True)
    follow = _follow_on_terminal if console.is_terminal else _follow_in_lines
    try:
        status = follow(console, _poll(run, plan, LOCAL_POLL_S if local else SLURM_POLL_S))
    except KeyboardInterrupt:
        _handle_interrupt(run, local=local)
    if status.report != "DONE":
        echo(f"run {run.name} has no report; see {run.slurm}", err=True)
        # Else the table says what to do first.
        if all(line.step != "mend" for line in status.members):
            echo(f"go on with: {resume_command(run)}", err=True)
        sys.exit(1)
    echo(f"report: {run.report / 'report.html'}")


def _poll(run: RunPaths, plan: Plan, every_s: float) -> Iterator[RunStatus]:
    """Yield where a run stands until nothing waits or runs; at last that it has ended."""
    while not (status := run_status(run, plan)).has_ended:
        yield status
        time.sleep(every_s)
    yield status


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
        line = summarise(status)
        if line != before:
            echo(f"{datetime.now().astimezone():%H:%M:%S} {line}", err=True)
        before = line
    draw(console, render(status, None))
    return status


def summarise(status: RunStatus) -> str:
    """Return how many members are in which state, and the report's, in a line."""
    counts = count_states(Counter(line.state for line in status.members))
    silence = f"; {status.silence}" if status.silence else ""
    return f"{counts}; report {status.report}{silence}"


def count_states(counts: Mapping[str, int]) -> str:
    """Say how many members are in which state: `3 DONE 2 FAILED`."""
    first = [state for state in USUAL if state in counts]
    others = [state for state in counts if state not in USUAL]
    return " ".join(f"{counts[state]} {state}" for state in [*first, *others])


def _handle_interrupt(run: RunPaths, *, local: bool) -> None:
    if local:
        stop_queue(run)
        echo(f"stopped; go on with: {resume_command(run)}", err=True)
    else:
        echo("the jobs go on without this window", err=True)
    sys.exit(130)


def render(status: RunStatus, width: int | None) -> Group:
    """Return the table, and below it each kind of failure with its advice.

    `width` is the terminal's; None is a pipe's.
    """
    kinds: dict[str, dict[int, Failure]] = {}
    for line in status.members:
        if line.failure:
            kinds.setdefault(line.failure.name, {})[line.index] = line.failure
    report = Line(
        words=("report", status.report, "", "", "", status.report_job, "", ""),
        note=status.report_reason,
        styles=("", COLOURS.get(status.report, "")),
    )
    rows = [*_rows(status), report]
    silence = [draw_lines(f"not known: {status.silence}", width)] if status.silence else []
    return Group(
        draw_lines(one_line(status.run), width, style="bold"),
        draw_table(COLUMNS, rows, width),
        *silence,
        *(_describe_failures(failures, width) for failures in kinds.values()),
    )


def _describe_failures(failures: dict[int, Failure], width: int | None) -> Group:
    """Return which members failed so, what it means, what to do, and the end of a log."""
    first = next(iter(failures.values()))
    who = f"{'member' if len(failures) == 1 else 'members'} {compact(list(failures))}"
    nodes = {one.node for one in failures.values()} - {""}
    blamed = f" on {', '.join(sorted(nodes))}" if nodes and first.action == "exclude node" else ""
    told = one_line(f"{first.name}{blamed}, {who}: {first.meaning}")
    return Group(
        "",
        draw_lines(told, width, style=COLOURS.get(first.name, "red")),
        draw_lines(f"do: {one_line(first.advice)}", width, indent="  "),
        *(draw_lines(line, width, indent="  | ", style="dim") for line in first.tail),
    )


def _rows(status: RunStatus) -> list[Line]:
    """Return a row a member, but one for all members of a state that has very many."""
    num_lines = Counter(line.state for line in status.members)
    crowds = [state for state, number in num_lines.items() if number > MOST_LINES]
    alone = [_row(line, status.silence) for line in status.members if line.state not in crowds]
    return alone + [
        _crowd([line for line in status.members if line.state == state], status.silence)
        for state in crowds
    ]


def _crowd(members: Sequence[MemberStatus], silence: str) -> Line:
    """Return what a row can say of many members in one state."""
    state, spent = members[0].state, f"{sum(line.gpu_hours for line in members):.2f}"
    ends = _local_time(max(line.estimated_end for line in members))
    reasons = Counter(line.reason for line in members if line.reason not in {"", silence})
    told = [
        reason if number == len(members) else f"{number}: {reason}"
        for reason, number in reasons.most_common()
    ]
    return Line(
        words=(f"{len(members)} members", state, "", "", spent, "", "", ends),
        note="; ".join(told) if len(told) <= MOST_REASONS else "",
        styles=("", COLOURS.get(state, "")),
    )


def _row(line: MemberStatus, silence: str) -> Line:
    best = "" if line.best_metric is None else f"{line.best_metric:.4f}"
    epoch, spent = f"{line.epoch}/{line.epochs}", f"{line.gpu_hours:.2f}"
    ends = _local_time(line.estimated_end)
    return Line(
        words=(line.name, line.state, epoch, best, spent, line.job, line.node, ends),
        note="" if line.reason == silence else line.reason,
        styles=("", COLOURS.get(line.state, "")),
    )


def _local_time(text: str) -> str:
    """Return a moment as people here say it: `Tue 14:05`."""
    return datetime.fromisoformat(text).astimezone().strftime("%a %H:%M") if text else ""
