"""`lenshpc verify`: is a store what was written, and what was read?"""

from __future__ import annotations

from pathlib import Path

import click

from lenshpc.api.progress import progress_bar
from lenshpc.cli.show import echo


@click.command(short_help="Check every hash of a store, and its pixels against the source.")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), help="Source folder to compare every pixel with."
)
@click.option(
    "--allow-pickle", is_flag=True, help="Read pickled [image, number] files; arrays only, no code."
)
@click.option(
    "--workers", type=click.IntRange(1, 1024), help="Number of processes.  [default: all cores]"
)
def verify(store: Path, against: Path | None, allow_pickle: bool, workers: int | None) -> None:
    """Check every hash of STORE, and with --against that each pixel equals the source's.

    The exit code is 0 if all is well, and 2 if not; the message names the shard or the file.

    \b
    Example:
      lenshpc verify stores/slc --against downloads/SLC_Data
    """
    from lenshpc.prep.parallel import num_cores
    from lenshpc.prep.verify import verify as check

    with progress_bar("verifying") as progress:
        whole = check(
            store,
            against=against,
            allow_pickle=allow_pickle,
            workers=workers or num_cores(),
            progress=progress,
        )
    equal = f"; every pixel equals {against}, bit for bit" if against else ""
    size = f"{whole.num_rows} images in {whole.num_shards} shards"
    echo(f"{store} is intact: {size}{equal}", err=True)
