"""Draw a run's status as a table, once or until the run has ended."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lenshpc.cli.show import cell, echo
from lenshpc.errors import printable_lines
from lenshpc.launch.failures import Failure
from lenshpc.launch.local import read_queue, stop_queue
from lenshpc.launch.states import MemberStatus, RunStatus, run_status
from lenshpc.run.completion import resume_command
from lenshpc.run.gate import compact
from lenshpc.run.ownership import find_owner
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan

Cells = tuple[str | Text, ...]
MOST_LINES = 100  # of members in one state
LOCAL_POLL_S, SLURM_POLL_S = 0.5, 10.0
HEADINGS = ("member", "state", "epoch", "best", "GPU-h", "job", "node", "ends", "reason")
COLOURS = {"DONE": "green", "FAILED": "red", "RUNNING": "cyan"}


def show(status: RunStatus) -> None:
    """Print the table, and what went wrong."""
    Console().print(render(status))


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
    try:
        with Live(console=console, refresh_per_second=4) as live:
            status = run_status(run, plan)
            while not status.has_ended:
                live.update(render(status))
                time.sleep(LOCAL_POLL_S if local else SLURM_POLL_S)
                status = run_status(run, plan)
            live.update(render(status))
        if not console.is_terminal:  # rich ends the last line on terminals only
            console.line()
    except KeyboardInterrupt:
        _handle_interrupt(run, local=local)
    if status.report != "DONE":
        echo(f"run {run.name} has no report; see {run.slurm}", err=True)
        echo(f"mend it with: {resume_command(run)}", err=True)
        sys.exit(1)
    echo(f"report: {run.report / 'report.html'}")


def _handle_interrupt(run: RunPaths, *, local: bool) -> None:
    if local:
        stop_queue(run)
        echo(f"stopped; go on with: {resume_command(run)}", err=True)
    else:
        echo("the jobs go on without this window", err=True)
    sys.exit(130)


def render(status: RunStatus) -> Group:
    """Return the table, and below it each kind of failure with its advice."""
    kinds: dict[str, dict[int, Failure]] = {}
    for line in status.members:
        if line.failure:
            kinds.setdefault(line.failure.name, {})[line.index] = line.failure
    return Group(table(status), *map(_describe_failures, kinds.values()))


def _describe_failures(failures: dict[int, Failure]) -> Text:
    """Return which members failed so, what it means, what to do, and the end of a log."""
    first = next(iter(failures.values()))
    who = f"{'member' if len(failures) == 1 else 'members'} {compact(list(failures))}"
    nodes = {one.node for one in failures.values()} - {""}
    blamed = f" on {', '.join(sorted(nodes))}" if nodes and first.action == "exclude node" else ""
    lines = [
        Text(),
        Text.assemble(cell(first.name, "red"), cell(f"{blamed}, {who}: {first.meaning}")),
        Text("  do: ").append_text(cell(first.advice)),
        *(Text(f"  | {printable_lines(line)}", style="dim") for line in first.tail),
    ]
    return Text("\n").join(lines)


def table(status: RunStatus) -> Table:
    """Return the status as a table."""
    grid = Table(title=cell(status.run), title_justify="left", box=None, pad_edge=False)
    rows = _rows(status.members)
    longest = max(len(row[0]) for row in rows)
    grid.add_column("member", min_width=longest)
    for heading in HEADINGS[1:]:
        grid.add_column(heading, overflow="fold" if heading == "reason" else "ellipsis")
    for row in rows:
        grid.add_row(*map(_cell, row))
    last: Cells = (
        "report",
        _state(status.report),
        "",
        "",
        "",
        status.report_job,
        "",
        "",
        status.silence,
    )
    grid.add_row(*map(_cell, last))
    return grid


def _rows(members: Sequence[MemberStatus]) -> list[Cells]:
    """Return a row a member, but one for all members of a state that has very many."""
    num_lines = Counter(line.state for line in members)
    crowds = [state for state, number in num_lines.items() if number > MOST_LINES]
    rows = [_cells(line) for line in members if line.state not in crowds]
    return rows + [_crowd([line for line in members if line.state == state]) for state in crowds]


def _crowd(members: Sequence[MemberStatus]) -> Cells:
    """Return what a row can say of many members in one state."""
    spent = f"{sum(line.gpu_hours for line in members):.2f}"
    ends = _local_time(max(line.estimated_end for line in members))
    reasons = {line.reason for line in members}
    reason = reasons.pop() if len(reasons) == 1 else ""
    state = _state(members[0].state)
    return f"{len(members)} members", state, "", "", spent, "", "", ends, reason


def _cells(line: MemberStatus) -> Cells:
    best = "" if line.best_metric is None else f"{line.best_metric:.4f}"
    state, epoch = _state(line.state), f"{line.epoch}/{line.epochs}"
    spent = f"{line.gpu_hours:.2f}"
    ends = _local_time(line.estimated_end)
    return line.name, state, epoch, best, spent, line.job, line.node, ends, line.reason


def _local_time(text: str) -> str:
    """Return a moment as people here say it: `Tue 14:05`."""
    return datetime.fromisoformat(text).astimezone().strftime("%a %H:%M") if text else ""


def _state(state: str) -> Text:
    return cell(state, COLOURS.get(state, ""))


def _cell(text: str | Text) -> Text:
    return text if isinstance(text, Text) else cell(text)
