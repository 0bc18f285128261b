"""`lenshpc simulate`: images that stand in for a survey's."""

from pathlib import Path

import click

from lenshpc.api.progress import progress_bar
from lenshpc.cli.completing import datasets
from lenshpc.cli.options import seed_option
from lenshpc.cli.show import echo


@click.command(short_help="Simulate images in place of a real data set.")
@click.argument("dataset", shell_complete=datasets)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train", metavar="N", required=True, help="Training images of each class.")
@click.option("--val", metavar="N", help="Validation images of each class.")
@click.option("--test", metavar="N", help="Test images of each class.")
@click.option("--difficulty", metavar="D", help="Difficulty of lens_finding: easy, sky, or 0 to 1.")
@seed_option("the images")
@click.option(
    "--workers", type=click.IntRange(1, 1024), help="Number of processes.  [default: all cores]"
)
def simulate(
    dataset: str,
    out: Path,
    train: str,
    val: str | None,
    test: str | None,
    difficulty: str | None,
    seed: int,
    workers: int | None,
) -> None:
    """Simulate images of DATASET in the new folder OUT, laid out like the original data.

    DATASET is a name that ships (lens_finding, multiclass, slc, super_resolution, diffusion,
    physics_guided, foundation) or the path of a .yaml with the key `simulate`. N is a number for
    each class, or CLASS=N,CLASS=N. The truth (Einstein radius, shear, source, subhalos) is in
    OUT/truth.csv and OUT/subhalos.parquet. The same seed gives the same images; with a larger N the
    first ones stay the same. Lenses of lens_finding are as hard to find as in the sky; with
    --difficulty easy a small network finds them within minutes.

    \b
    Examples:
      lenshpc simulate multiclass images --train 1000 --val 200
      lenshpc simulate lens_finding images --train lens=50,nonlens=200 --test 20
    """
    from lenshpc.prep.dataset import load_dataset
    from lenshpc.prep.parallel import num_cores
    from lenshpc.prep.simulation.counts import parse_counts
    from lenshpc.prep.simulation.difficulty import with_difficulty
    from lenshpc.prep.simulation.simulate import simulate as make_images

    loaded = with_difficulty(load_dataset(dataset), difficulty)
    counts = parse_counts(loaded, {"train": train, "val": val, "test": test})
    with progress_bar("simulating") as progress:
        num_images = make_images(
            loaded, out, counts, seed=seed, workers=workers or num_cores(), progress=progress
        )
    echo(f"{num_images} images in {out}; next: lenshpc prepare {dataset} {out} STORE", err=True)
