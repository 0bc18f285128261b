"""`lenshpc cancel`: stop what waits or runs."""

import click

from lenshpc.cli.completing import runs
from lenshpc.cli.show import count, echo


@click.command(short_help="Cancel a run's jobs, or those of one member.")
@click.argument("run", shell_complete=runs)
@click.option("--member", type=click.IntRange(min=0), help="Cancel only this member.")
def cancel(run: str, member: int | None) -> None:
    """Cancel the members of RUN that wait or run, and the report if no member is left for it.

    The command returns when their jobs have ended. What is done stays, and `lenshpc resume`
    continues from there.

    \b
    Examples:
      lenshpc cancel lens_finding-9f2c51ab
      lenshpc cancel lens_finding-9f2c51ab --member 3
    """
    from lenshpc.launch.cancel import cancel as stop
    from lenshpc.run.completion import resume_command
    from lenshpc.run.paths import find_run
    from lenshpc.run.plan import load_plan

    paths = find_run(run)
    stopped = stop(paths, load_plan(paths), member)
    members = [count(len(stopped.members), "member")] * bool(stopped.members)
    told = " and ".join([*members, *["the report"] * stopped.report])
    if not told:
        echo("nothing to cancel: no job of it waits or runs", err=True)
        return
    echo(f"{told} cancelled", err=True)
    echo(f"continue with: {resume_command(paths)}", err=True)
