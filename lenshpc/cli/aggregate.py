"""`lenshpc aggregate`: the members' predictions become a report."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from lenshpc.cli.completing import runs


@click.command(short_help="Merge a run's predictions and write its report.")
@click.argument("run", shell_complete=runs)
@click.option("--allow-partial", is_flag=True, help="Report what is there if members are missing.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json for programs.")
def aggregate(run: str, allow_partial: bool, as_json: bool) -> None:
    """Merge the predictions of RUN (a name in runs/ or a path) and write its report.

    A member without predictions is an error that names the command which mends it.

    \b
    Example:
      lenshpc aggregate lens_finding-9f2c51ab
    """
    from lenshpc.report.markdown import render_table
    from lenshpc.run.paths import find_run
    from lenshpc.worker import write_report

    paths = find_run(run)
    with _telling() as say:
        report = write_report(paths, allow_partial=allow_partial, say=say)
    if as_json:
        click.echo((paths.report / "report.json").read_text(encoding="utf-8"), nl=False)
        return
    click.echo(render_table(report.overview))
    click.echo(f"report: {paths.report / 'report.html'}")


@contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows on a terminal what is being done."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("reading the run") as status:
        yield status.update
