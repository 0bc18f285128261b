"""`lenshpc prepare`: a folder of images becomes a store."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lenshpc.api.progress import progress_bar
from lenshpc.cli.arrays import array_options, load_array_site
from lenshpc.cli.completing import datasets
from lenshpc.cli.options import seed_option
from lenshpc.cli.show import echo, say_withheld

if TYPE_CHECKING:
    from lenshpc.store import Draft


@click.command(short_help="Turn a folder of images into a store.")
@click.argument("dataset", shell_complete=datasets)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
@seed_option("the order of the rows")
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="Number of processes.  [default: all cores; with --site 1]",
)
@array_options("Convert", "each with --workers processes")
@click.option(
    "--codec",
    type=click.Choice(["lz4", "zstd", "none"]),
    default="lz4",
    show_default=True,
    help="Compression of the pixels.",
)
@click.option(
    "--chunk-rows",
    type=click.IntRange(1, 4096),
    default=32,
    show_default=True,
    help="Images that are decoded together.",
)
@click.option(
    "--shard-rows",
    type=click.IntRange(1, 1_000_000),
    help="Images in one file.  [default: 64 MiB of images, at most 2048]",
)
@click.option(
    "--allow-pickle", is_flag=True, help="Read pickled [image, number] files; arrays only, no code."
)
@click.option("--json", "as_json", is_flag=True, help="Print the store, or the jobs, as JSON.")
def prepare(
    dataset: str,
    source: Path,
    store: Path,
    as_json: bool,
    workers: int | None,
    site: str | None,
    array_size: int | None,
    **options: Any,
) -> None:
    """Turn the images under SOURCE, laid out as DATASET says, into a new STORE.

    DATASET is a name that ships (lens_finding, multiclass, slc, super_resolution,
    super_resolution_hsc_hst, diffusion, physics_guided, foundation) or the path of your own .yaml.
    Pixels are kept bit for bit. If a file is wrong, the error names it and no store is made. After
    an interruption the same command continues where it stopped, and reads changed files again; the
    store is the same, byte for byte, as without the interruption.

    \b
    Examples:
      lenshpc prepare slc downloads/SLC_Data stores/slc
      lenshpc prepare ./mine.yaml images/ store --site ./my.yaml --array-size 9
    """
    cluster = load_array_site(site, array_size)
    from lenshpc.cli.info import summary
    from lenshpc.launch.prepare import send_conversion
    from lenshpc.prep.convert import Options, convert, draft_store
    from lenshpc.prep.cutouts import open_stacks
    from lenshpc.prep.dataset import load_dataset
    from lenshpc.prep.parallel import num_cores
    from lenshpc.store.contents import contents
    from lenshpc.worker import PREPARE_CALLS

    loaded, layout = load_dataset(dataset), Options(**options)
    tell = partial(echo, err=True)
    if cluster and array_size:
        say_withheld(cluster)
        draft = draft_store(loaded, source, store, layout, tell=tell)
        stacks = open_stacks(draft)
        sent = send_conversion(
            draft,
            cluster,
            tiles=stacks.missing() if stacks else (),
            array_size=array_size,
            workers=workers or 1,
            calls=PREPARE_CALLS,
        )
        echo(json.dumps(sent, indent=1) if as_json else _advice(draft, sent), err=not as_json)
        return
    with progress_bar("converting") as progress:
        made = convert(
            loaded,
            source,
            store,
            layout,
            workers=workers or num_cores(),
            progress=progress,
            tell=tell,
        )
    echo(json.dumps(contents(made), indent=1) if as_json else summary(made), err=not as_json)


def _advice(draft: Draft, sent: dict[str, Any]) -> str:
    tiles, num_jobs = sent["tile_job"], len(sent["tile_elements"])
    before = f"tiles are cut by array {tiles} of {num_jobs} jobs; then " if tiles else ""
    return (
        f"{before}{draft.num_rows} images in {len(draft.blocks)} shards: "
        f"array {sent['job'] or 'none'} of {len(sent['elements'])} jobs, then job {sent['join']}, "
        f"which makes {draft.path}; logs in {sent['logs']}. If a job fails, repeat the command: "
        "what is made already is kept"
    )
