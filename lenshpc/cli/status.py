"""`lenshpc status`: where every member of a run stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from lenshpc.cli.completing import runs
from lenshpc.cli.show import echo

if TYPE_CHECKING:
    from lenshpc.run.paths import RunPaths


@click.command(short_help="Show the states of a run's members.")
@click.argument("run", shell_complete=runs)
@click.option(
    "--watch",
    "follow",
    is_flag=True,
    help="Update the table until nothing waits or runs.",
)
@click.option(
    "--usage", "with_costs", is_flag=True, help="Add what the run has cost, asked for and used."
)
@click.option("--json", "as_json", is_flag=True, help="Print the states as JSON.")
def status(run: str, follow: bool, with_costs: bool, as_json: bool) -> None:
    """Show the state, epoch and best metric of every member of RUN, and the state of its report.

    Ctrl-C under --watch stops a run on this machine; jobs on a cluster continue.

    \b
    Examples:
      lenshpc status lens_finding-9f2c51ab
      lenshpc status lens_finding-9f2c51ab --json
    """
    if follow and (as_json or with_costs):
        raise click.UsageError("--watch goes with neither --json nor --usage")
    from lenshpc.cli.usage import format_usage
    from lenshpc.cli.watch import show, watch
    from lenshpc.launch.states import run_status
    from lenshpc.launch.usage import run_usage
    from lenshpc.run.paths import find_run
    from lenshpc.run.plan import load_plan

    paths = find_run(run)
    plan = load_plan(paths)
    warn_of_changes(paths)
    if follow:
        watch(paths, plan)
        return
    told, usage = run_status(paths, plan), run_usage(paths, plan) if with_costs else None
    if as_json:
        costs = {"usage": usage.as_json()} if usage else {}
        echo(json.dumps(told.as_json() | costs, indent=1))
        return
    show(told)
    if usage:
        echo(format_usage(usage))


def warn_of_changes(run: RunPaths) -> None:
    """Say where members of a run may have seen other versions of packages than others."""
    from lenshpc.launch.provenance import describe_changes

    changes = describe_changes(run)
    if changes:
        echo(f"warning: {changes}", err=True)
