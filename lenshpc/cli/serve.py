"""`lenshpc serve`: the runs in a browser, as they go on."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lenshpc.cli.show import echo
from lenshpc.run.paths import RUNS


@click.command(short_help="Show the runs in a browser, as they go on.")
@click.option("--runs", "folder", default=RUNS, show_default=True, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), help="The port; else the first free one.")
@click.option("--json", "as_json", is_flag=True, help="Print the address for programs.")
def serve(folder: Path, port: int | None, as_json: bool) -> None:
    """Show runs, members' states, growing curves, reports and studies in a browser.

    The page is read-only and answers on this machine alone, to whoever has the address with its
    token; from another machine, through the ssh line that is printed. Ctrl-C ends it, and touches
    no run.

    \b
    Examples:
      lenshpc serve
      lenshpc serve --runs /scratch/runs --port 8137
    """
    from lenshpc.run.paths import find_runs
    from lenshpc.serving.folder import RunsFolder
    from lenshpc.serving.scheduler import Scheduler
    from lenshpc.serving.server import open_server

    find_runs(folder)  # a folder that is not there is told now and not on a page
    serving = open_server(RunsFolder(folder, Scheduler()), port)
    if as_json:
        echo(json.dumps({"url": serving.url, "token": serving.token}))
    else:
        echo(serving.url)
        echo(f"from another machine, first: {serving.tunnel}", err=True)
        echo("Ctrl-C ends it", err=True)
    with serving.server:
        serving.server.serve_forever()
