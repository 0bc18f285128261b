"""`lenshpc simulate`: images that stand in for a survey's."""

from pathlib import Path

import click

from lenshpc.cli.progress import progress_bar


@click.command(short_help="Make images that stand in for a survey's.")
@click.argument("dataset")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--num-lenses", type=int, required=True, help="Training lenses.")
@click.option("--num-nonlenses", type=int, required=True, help="Training non-lenses.")
@click.option("--num-test-lenses", default=0, show_default=True, help="Test lenses.")
@click.option("--num-test-nonlenses", default=0, show_default=True, help="Test non-lenses.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def simulate(
    dataset: str,
    out: Path,
    num_lenses: int,
    num_nonlenses: int,
    num_test_lenses: int,
    num_test_nonlenses: int,
    seed: int,
) -> None:
    """Make images of DATASET (lens_finding) in the new folder OUT, in the original layout.

    The truth (theta_E, shear, source) goes to OUT/truth.csv. Equal seeds give equal images, and
    asking for more leaves the first ones as they are.

    \b
    Example:
      lenshpc simulate lens_finding images --num-lenses 500 --num-nonlenses 500 --seed 1
    """
    from lenshpc.prep.dataset import load_dataset
    from lenshpc.prep.simulate import Counts
    from lenshpc.prep.simulate import simulate as make_images

    counts = Counts(
        lenses=num_lenses,
        nonlenses=num_nonlenses,
        test_lenses=num_test_lenses,
        test_nonlenses=num_test_nonlenses,
    )
    loaded = load_dataset(dataset)
    with progress_bar("simulating") as progress:
        num_images = make_images(loaded, out, counts, seed=seed, progress=progress)
    click.echo(
        f"{num_images} images in {out}; next: lenshpc prepare {dataset} {out} STORE", err=True
    )
