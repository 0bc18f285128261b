"""`lenshpc prepare`: a folder of images becomes a store."""

from pathlib import Path

import click

from lenshpc.cli.progress import progress_bar


@click.command(short_help="Turn a folder of images into a store.")
@click.argument("dataset")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Fixes the order of the rows.")
def prepare(dataset: str, source: Path, store: Path, seed: int) -> None:
    """Turn the images under SOURCE into a new STORE, laid out as DATASET says.

    DATASET is lens_finding, multiclass, slc, or the path of a .yaml of your own. Pixels are kept
    bit for bit. If anything is wrong with a file, the error names it and no store is made.

    \b
    Example:
      lenshpc prepare slc downloads/SLC_Data stores/slc
    """
    from lenshpc.cli.info import summary
    from lenshpc.prep.convert import convert
    from lenshpc.prep.dataset import load_dataset

    loaded = load_dataset(dataset)
    with progress_bar("converting") as progress:
        made = convert(loaded, source, store, seed=seed, progress=progress)
    click.echo(summary(made), err=True)
