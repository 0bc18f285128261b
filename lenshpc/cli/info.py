"""`lenshpc info`: what a store holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lenshpc.cli.show import echo

if TYPE_CHECKING:  # zarr and pandas cost 0.5 s, which `lenshpc --help` need not pay
    from lenshpc.store import Store


@click.command(short_help="Show what a store contains.")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the contents as JSON.")
@click.option(
    "--report",
    is_flag=False,
    flag_value="",
    metavar="[PAGE.html]",
    help="Write a quality report of all images.  [default: STORE-quality.html]",
)
def info(store: Path, as_json: bool, report: str | None) -> None:
    """Show what STORE contains: rows by split and class, pixels, statistics, hash, size.

    \b
    Examples:
      lenshpc info stores/slc --json
      lenshpc info stores/slc --report
    """
    from lenshpc.store import open_store
    from lenshpc.store.contents import contents

    opened = open_store(store)
    found = contents(opened)
    if report is not None:
        page = Path(report) if report else store.with_name(f"{store.resolve().name}-quality.html")
        found |= {"report": str(page), "quality": _quality(opened, page)}
    if as_json:
        echo(json.dumps(found, indent=1))
        return
    echo(summary(opened))
    if report is not None:
        for one in found["quality"]["findings"]:
            echo(f"{one['gravity']:<8} {one['title']}")
        echo(f"report: {found['report']}")


def _quality(store: Store, page: Path) -> dict[str, Any]:
    from lenshpc.api.progress import progress_bar
    from lenshpc.quality.report import write_quality_report

    with progress_bar("surveying") as progress:
        return write_quality_report(store, page, progress)


def summary(store: Store) -> str:
    """Return what `info` prints to people."""
    from lenshpc.store.contents import describe

    lines = describe(store)
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())
