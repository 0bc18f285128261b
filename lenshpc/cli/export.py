"""`lenshpc export`: a trained ensemble as one folder, or .zip, for others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenshpc.api.progress import telling
from lenshpc.cli.completing import runs
from lenshpc.cli.show import count, echo, size_text

if TYPE_CHECKING:
    from lenshpc.inference.export import Export

LICENCE = "[A-Za-z0-9][A-Za-z0-9.+-]{0,63}"


@click.command(short_help="Write a trained ensemble as one folder or file, to use and share.")
@click.argument("run", shell_complete=runs)
@click.argument("place", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--models", help="Models of the run, separated by commas.  [default: all but variants]"
)
@click.option(
    "--licence",
    default="unknown",
    show_default=True,
    help="Licence for the model card, by its name on the Hugging Face hub.",
)
@click.option(
    "--program",
    "programs",
    type=click.Choice(["torch", "onnx"]),
    multiple=True,
    help="Also write one program from pixels to answers; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export(
    run: str,
    place: Path,
    models: str | None,
    licence: str,
    programs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the ensemble of RUN to the new folder DIR, or to one file DIR.zip.

    It contains the members' weights, the preparation of images, threshold, calibration and a model
    card, so it works without the run and the store. Its answers are first compared with the run's.

    \b
    Examples:
      lenshpc export lens_finding-9f2c51ab lenses
      lenshpc export lens_finding-9f2c51ab lenses.zip --licence cc-by-4.0
      lenshpc export lens_finding-9f2c51ab lenses --program onnx --program torch
    """
    if place.suffix in {".gz", ".tar", ".tgz", ".bz2", ".xz", ".7z"}:
        raise click.UsageError(f"{place} is neither a folder nor a .zip; name one of the two")
    if not re.fullmatch(LICENCE, licence):
        raise click.UsageError(
            f"--licence {licence!r} is not the name of a licence; give one such as cc-by-4.0 or mit"
        )
    from lenshpc.inference.export import export_run
    from lenshpc.run.paths import find_run

    with telling("reading the run") as say:
        made = export_run(
            find_run(run),
            place,
            models=models.split(",") if models else None,
            licence=licence,
            kinds=tuple(dict.fromkeys(programs)),  # type: ignore[arg-type]  # click has checked them
            say=say,
        )
    if as_json:
        echo(json.dumps(_as_values(made), indent=1))
        return
    echo(
        f"export: {made.place} ({count(len(made.spec.members), 'member')}, "
        f"{size_text(made.num_bytes)})"
    )
    for kind, difference in made.programs.items():
        echo(f"program for {kind}: answers differ by at most {difference:.1g}")
    if licence == "unknown":
        echo("note: the model card names no licence; export with --licence to name one", err=True)
    echo(f"use it with: lenshpc predict {made.place} SOURCE")


def _as_values(made: Export) -> dict[str, object]:
    return {
        "export": str(made.place),
        "ensemble": made.spec.digest,
        "members": len(made.spec.members),
        "bytes": made.num_bytes,
        "programs": dict(made.programs),
    }
