"""`lenshpc serve`: the runs in a browser, as they go on."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lenshpc.cli.options import runs_option
from lenshpc.cli.show import echo


@click.command(short_help="Show the runs live in a browser.")
@runs_option("folder")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of this machine.  [default: the first free one from 8137]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
def serve(folder: Path, port: int | None, as_json: bool) -> None:
    """Show runs, members' states, growing curves, reports and studies in a browser.

    It only reads, and answers only on this machine, to whoever has the address with its token. From
    another machine, use the ssh line that it prints. Ctrl-C ends it, and affects no run.

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
        echo("Ctrl-C stops it", err=True)
    with serving.server:
        serving.server.serve_forever()
