"""`lenshpc aggregate`: the members' predictions become a report."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenshpc.cli.completing import runs
from lenshpc.cli.meant import SettingType
from lenshpc.cli.show import draw, echo

if TYPE_CHECKING:
    from lenshpc.report.content import Table


@click.command(short_help="Merge a run's predictions and write its report.")
@click.argument("run", shell_complete=runs)
@click.option("--allow-partial", is_flag=True, help="Write a report even if members are missing.")
@click.option("--force", "replace", is_flag=True, help="Replace a report that shows more.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    type=SettingType(),
    help="Evaluate with another setting, in a report beside the first.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write to FOLDER/report, for a run of another user.",
    metavar="FOLDER",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def aggregate(
    run: str,
    allow_partial: bool,
    replace: bool,
    assignments: tuple[str, ...],
    out: Path | None,
    opens: bool,
    as_json: bool,
) -> None:
    """Merge the predictions of RUN (a name in runs/ or a path) and write its report.

    If a member is missing, the command fails and says what to do. It also fails if the new report
    would show less than the one that is there, since members, weights or the store are gone.

    --set changes how the members are evaluated (ensemble, method.test_prior, ...): nothing is
    trained, and the report is written beside the first one, to report-VALUE or report-KEY-VALUE.

    \b
    Examples:
      lenshpc aggregate lens_finding-9f2c51ab
      lenshpc aggregate lens_finding-9f2c51ab --set ensemble=stacking
      lenshpc aggregate /project/runs/lens_finding-9f2c51ab --out theirs
    """
    from lenshpc.api import aggregate as write_report
    from lenshpc.config import parse_assignment
    from lenshpc.report.verdict import format_verdict

    changes = dict(map(parse_assignment, assignments))
    report = write_report(
        run, changes, out=out, allow_partial=allow_partial, replace=replace, verbose=True
    )
    if opens and not webbrowser.open(report.page.resolve().as_uri()):
        echo(f"no browser can be opened here; the page is {report.page}", err=True)
    if as_json:
        echo((report.folder / "report.json").read_text(encoding="utf-8"), nl=False)
        return
    _draw_overview(report.overview)
    echo(format_verdict(report.verdict))
    echo(f"report: {report.page}")


def _draw_overview(table: Table) -> None:
    """Print a table as Markdown, or on a terminal as many of its columns as there is room for."""
    from rich.console import Console

    from lenshpc.cli.table import Heading, Line, draw_table, find_width
    from lenshpc.report.markdown import render_table

    console = Console()
    width = find_width(console)
    if width is None:
        echo(render_table(table))
        return
    columns = [Heading(word=one.title, rank=at) for at, one in enumerate(table.columns)]
    draw(console, draw_table(columns, [Line(words=row.cells) for row in table.rows], width))
    if table.note:
        draw(console, table.note)
