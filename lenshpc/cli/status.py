"""`lenshpc status`: where every member of a run stands."""

import json

import click

from lenshpc.cli.completing import runs


@click.command(short_help="Show where a run's members stand.")
@click.argument("run", shell_complete=runs)
@click.option("--watch", "follow", is_flag=True, help="Go on until nothing waits or runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the states for programs.")
def status(run: str, follow: bool, as_json: bool) -> None:
    """Show the state, epoch and best metric of every member of RUN, and of its report.

    Ctrl-C under --watch stops a run of this machine; jobs of a cluster go on.

    \b
    Examples:
      lenshpc status lens_finding-9f2c51ab
      lenshpc status lens_finding-9f2c51ab --json
    """
    if follow and as_json:
        raise click.UsageError("give either --watch or --json")
    from lenshpc.cli.watch import show, watch
    from lenshpc.launch.states import run_status
    from lenshpc.paths import find_run
    from lenshpc.plan import load_plan

    paths = find_run(run)
    plan = load_plan(paths)
    if follow:
        watch(paths, plan)
    elif as_json:
        click.echo(json.dumps(run_status(paths, plan).as_json(), indent=1))
    else:
        show(run_status(paths, plan))
