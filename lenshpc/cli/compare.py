"""`lenshpc compare`: which of several finished runs is better, and by how much."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenshpc.cli.completing import runs as complete_runs
from lenshpc.cli.show import draw, echo, fold

if TYPE_CHECKING:
    from rich.console import Console

    from lenshpc.report.comparison import Comparison
    from lenshpc.report.content import Table

LEAST = 8  # letters of a value that is cut


@click.command(short_help="Compare finished runs on the same test rows.")
@click.argument("runs", nargs=-1, required=True, shell_complete=complete_runs, metavar="RUN RUN...")
@click.option("--common", is_flag=True, help="Compare on the test rows that all runs share.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the comparison as one page for a browser.",
    metavar="PAGE.html",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(runs: tuple[str, ...], common: bool, report: Path | None, as_json: bool) -> None:
    """Compare the models and ensembles of two or more finished runs of one task.

    Differences are measured on the same test rows, with intervals and p-values. The hours of
    training and what differs between the recipes are shown too. RUN is a name in runs/ or a path.
    Choose between models by their out-of-fold scores, not by the test scores.

    \b
    Examples:
      lenshpc compare lens_finding-9f2c51ab lens_finding-1c07e2d4
      lenshpc compare theirs ours --common --report comparison.html
    """
    from rich.console import Console

    from lenshpc.api import compare as compare_runs

    found = compare_runs(*runs, common=common, page=report)
    if as_json:
        echo(json.dumps(found.as_json(), indent=1))
        return
    draw_comparison(Console(), found)
    if report is not None:
        echo(f"report: {report}")


def draw_comparison(console: Console, found: Comparison) -> None:
    """Print the tables and verdicts of a comparison."""
    from lenshpc.report.comparison_tables import (
        UNDECIDED,
        describe_rows,
        tabulate_differences,
        tabulate_lines,
        tabulate_pairs,
        tabulate_runs,
    )

    echo("\n".join(fold(describe_rows(found), after="")))
    tables = (
        (tabulate_runs(found), (0, 0, 6, 5, 2, 3, 1, 4)),
        (tabulate_lines(found), _rank_figures(len(found.measures))),
        (tabulate_pairs("Headlines", found.headlines), (0, 2, 0, 4, 1, 3)),
        (tabulate_differences(found), (0,) * (1 + len(found.runs))),
    )
    for table, ranks in tables:
        if table.rows:
            echo("")
            _draw_table(console, table, ranks)
    echo("")
    for text in (*found.verdicts, UNDECIDED):
        echo("\n".join(fold(text, after="")))


def _rank_figures(num_measures: int) -> Sequence[int]:
    """Return ranks of columns: the first measure stays, then hours, then the others in turn."""
    figures = [2 * at + place for at in range(num_measures) for place in (2, 3)]
    return (0, 0, 1, *figures[2:], 2)


def _draw_table(console: Console, table: Table, ranks: Sequence[int]) -> None:
    from lenshpc.cli.table import Heading, Line, draw_table, find_width

    width = find_width(console)
    columns = [
        Heading(word=one.title, rank=rank) for one, rank in zip(table.columns, ranks, strict=True)
    ]
    rows = [Line(words=_cut(row.cells, width, ranks)) for row in table.rows]
    draw(console, draw_table(columns, rows, width))


def _cut(words: tuple[str, ...], width: int | None, ranks: Sequence[int]) -> tuple[str, ...]:
    """Return words of a row none of whose columns may give way, so that they fit a terminal."""
    if width is None or any(ranks) or sum(map(len, words)) + 2 * len(words) <= width:
        return words
    room = max(LEAST, (width - len(words[0])) // (len(words) - 1) - 2)
    return (words[0], *(one if len(one) <= room else f"{one[: room - 1]}…" for one in words[1:]))
