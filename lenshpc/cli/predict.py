"""`lenshpc predict`: a trained ensemble looks at new images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lenshpc.api.progress import progress_bar
from lenshpc.cli.arrays import array_options, load_array_site
from lenshpc.cli.completing import datasets, runs
from lenshpc.cli.show import count, echo, say_withheld
from lenshpc.errors import ConfigError

if TYPE_CHECKING:
    from lenshpc.inference.outputs import Predictions


@click.command(short_help="Apply a trained run to new images, and list the best candidates.")
@click.argument("run", shell_complete=runs)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results.  [default: predictions/RUN-SOURCE]",
)
@click.option(
    "--dataset",
    shell_complete=datasets,
    help="Dataset of the files in SOURCE: a name, or your .yaml.  [default: the run's]",
)
@click.option(
    "--models", help="Models of the run, separated by commas.  [default: all but variants]"
)
@click.option(
    "--prior",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Expected fraction of positives among these images; moves the threshold.",
)
@click.option("--rank-by", metavar="CLASS", help="Class to rank by.  [default: the last class]")
@click.option(
    "--top",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Number of candidates.",
)
@click.option(
    "--part-rows",
    type=click.IntRange(1, 10**6),
    help="Images in one part of the table.  [default: 4096; 256 for some tasks]",
)
@click.option("--trust-code", is_flag=True, help="Run the network code that comes with an export.")
@array_options("Predict", "each with one GPU")
@click.option("--json", "as_json", is_flag=True, help="Print the summary, or the jobs, as JSON.")
def predict(
    run: str,
    source: Path,
    out: Path | None,
    models: str | None,
    site: str | None,
    array_size: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Apply the networks of RUN, or of an export, to the images of SOURCE.

    SOURCE is a store, or a folder with images at any depth; labels are not needed. The results are
    tables in parts/ with a row for each image, candidates.csv, and gallery.html, where you grade
    candidates in a browser. After an interruption the same command continues where it stopped.

    \b
    Examples:
      lenshpc predict lens_finding-9f2c51ab survey/ --prior 0.001
      lenshpc predict my-export/ stores/survey --out found --site ./my.yaml --array-size 16
    """
    from lenshpc.inference.archive import is_packed
    from lenshpc.inference.predict import begin_predictions, join, name_folder, predict_parts
    from lenshpc.launch.modes import writing

    if site is not None and is_packed(Path(run)):
        raise ConfigError(
            f"{run} would be unpacked on this machine, where jobs do not see it; unpack it where "
            "they do, and give that folder"
        )
    cluster = load_array_site(site, array_size)
    with writing(cluster.umask if cluster else None):
        predictions = begin_predictions(
            run,
            source,
            out or name_folder(run, source),
            models=models.split(",") if models else None,
            say=lambda text: echo(text, err=True),
            **options,
        )
        if cluster and array_size:
            say_withheld(cluster)
            _send(predictions, cluster, array_size, as_json=as_json)
            return
        with progress_bar("predicting") as progress:
            predict_parts(predictions.root, progress=progress)
        summary = join(predictions.root)
    told = {**summary, "predictions": str(predictions.root)}
    echo(json.dumps(told, indent=1) if as_json else _describe(told), err=not as_json)


def _send(predictions: Predictions, cluster: Any, array_size: int, *, as_json: bool) -> None:
    from lenshpc.launch.predict import send_predictions
    from lenshpc.worker import PREDICT_CALLS

    sent = send_predictions(
        predictions.root.resolve(),
        predictions.request.name,
        predictions.trained.spec.recipe.resources,
        predictions.missing(),
        cluster,
        array_size=array_size,
        calls=PREDICT_CALLS,
    )
    images, parts = predictions.request.num_rows, predictions.num_parts
    advice = (
        f"{count(images, 'image')} in {count(parts, 'part')}: array {sent['job'] or 'none'} of "
        f"{count(len(sent['elements']), 'job')}, then job {sent['join']}, which writes candidates "
        f"and gallery to {predictions.root}; logs in {sent['logs']}. If a job fails, repeat the "
        "command: what is done already is kept"
    )
    echo(json.dumps(sent, indent=1) if as_json else advice, err=not as_json)


def _describe(summary: dict[str, Any]) -> str:
    decisions = ", ".join(f"{num:,} {name}" for name, num in summary["decisions"].items())
    flags = ", ".join(f"{num:,} {name}" for name, num in summary["flags"].items())
    cut = summary["settings"].get("threshold")
    odd = [f"unreadable: {name}: {why}" for name, why in [*summary["unreadable"].items()][:3]]
    lines = [
        f"{count(summary['num_images'], 'image')}: {decisions or 'no decision'}"
        + (f", at threshold {cut:.4g}" if cut is not None else ""),
        f"flagged: {flags or 'none'}",
        *odd,
        f"candidates: {summary['predictions']}/candidates.csv",
        f"gallery:    {summary['predictions']}/gallery.html",
    ]
    return "\n".join(lines)
