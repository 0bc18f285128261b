"""`lenshpc resume`: send again what is neither done nor under way."""

import click

from lenshpc.cli.completing import runs
from lenshpc.cli.show import say_withheld


@click.command(short_help="Resubmit the members that are not done.")
@click.argument("run", shell_complete=runs)
@click.option("--nodes", type=click.IntRange(1), help="Nodes for one member, from now on.")
@click.option("--gpus-per-node", type=click.IntRange(0), help="GPUs on each node, from now on.")
@click.option("--wait", is_flag=True, help="Show the progress until the run has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print the run and its jobs as JSON.")
def resume(
    run: str, nodes: int | None, gpus_per_node: int | None, wait: bool, as_json: bool
) -> None:
    """Submit the members of RUN that are neither done nor under way, and a new report after them.

    A member resumes from its last checkpoint. With other nodes or GPUs it does so where that is the
    same training: with as many processes, without batch norm, or with train.sync_batchnorm=true.

    \b
    Examples:
      lenshpc resume lens_finding-9f2c51ab
      lenshpc resume diffusion-1c88d0aa --nodes 1 --gpus-per-node 4
    """
    if wait and as_json:
        raise click.UsageError("give either --wait or --json")
    from lenshpc.cli.status import warn_of_changes
    from lenshpc.cli.submit import report
    from lenshpc.launch.sites import read_site
    from lenshpc.launch.submit import resume as send
    from lenshpc.run.ownership import require_own
    from lenshpc.run.paths import find_run
    from lenshpc.run.plan import load_plan
    from lenshpc.worker import CALLS

    paths = find_run(run)
    require_own(paths)
    if paths.site.is_file():
        say_withheld(read_site(paths))
    plan = load_plan(paths)
    warn_of_changes(paths)
    report(paths, plan, send(paths, CALLS, nodes, gpus_per_node), as_json=as_json)
    if wait:
        from lenshpc.cli.watch import watch

        watch(paths, plan)
