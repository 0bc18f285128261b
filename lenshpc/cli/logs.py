"""`lenshpc logs`: what a member's job has written."""

import sys

import click

from lenshpc.cli.completing import runs
from lenshpc.cli.show import echo


@click.command(short_help="Show the log of a member.")
@click.argument("run", shell_complete=runs)
@click.option(
    "--member",
    type=click.IntRange(min=0),
    help="Number of the member.  [default: the first that failed, else that runs]",
)
@click.option(
    "--rank",
    type=click.IntRange(min=0),
    help="Number of the process.  [default: the one whose log has the failure, else 0]",
)
@click.option(
    "-f", "--follow", "follows", is_flag=True, help="Keep printing until the member has ended."
)
def logs(run: str, member: int | None, rank: int | None, follows: bool) -> None:
    """Show the log of a member of RUN: what one process of its newest job has written.

    During the training it has a line for each epoch.

    \b
    Examples:
      lenshpc logs lens_finding-9f2c51ab
      lenshpc logs lens_finding-9f2c51ab --member 3 -f
    """
    from lenshpc.errors import read_error
    from lenshpc.launch.logs import find_log, follow, make_end_check
    from lenshpc.launch.states import run_status
    from lenshpc.run.paths import find_run
    from lenshpc.run.plan import load_plan

    paths = find_run(run)
    plan = load_plan(paths)
    line, path = find_log(paths, run_status(paths, plan), member, rank)
    echo(f"{line.name}, {line.state}: {path}", err=True)
    try:
        if not follows:
            echo(path.read_text(encoding="utf-8", errors="replace"), nl=False)
            return
        for text in follow(path, make_end_check(paths, plan, line.index)):
            echo(text, nl=False)
    except OSError as error:
        raise read_error(path, error) from error
    except KeyboardInterrupt:
        sys.exit(130)
