"""A page of candidates to grade by eye: one HTML file that needs no other file and no network."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from lenshpc.files import write_text
from lenshpc.inference.cutouts import render_cutouts
from lenshpc.inference.sources import POSITION
from lenshpc.report.html import hash_source, make_environment
from lenshpc.report.latex import escape_cell

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class GalleryHeading:
    """What the top of a gallery says of the prediction that its candidates come from."""

    run: str
    source: str
    num_images: int
    threshold: float | None  # of a decision; None where the task makes none
    prior: float | None  # None: as in the training images
    digest: str  # of the prediction: grades are kept under it, so two galleries do not mix


@dataclass(frozen=True, kw_only=True)
class Value:
    """One column of a candidate: all its digits, and those to show."""

    name: str
    exact: str
    shown: str
    is_number: bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the page shows of a row; `key` and `cell` are JSON, so that no byte of an id is lost."""

    rank: int
    id: str
    key: str
    cell: str  # the id as it goes into a table
    png: str
    values: Sequence[Value]


def write_gallery(
    path: Path, frame: pd.DataFrame, images: NDArray[Any], heading: GalleryHeading
) -> None:
    """Write the gallery of some candidates, best first.

    `images` (N, C, H, W) are their pixels as the source has them, in any units. Whoever opens the
    page grades with A, B, C and N; it keeps the grades in the browser, and saves them as
    `grades.csv` with rank, id, score and grade.
    """
    style, script = ((_HERE / f"gallery.{kind}").read_text("utf-8") for kind in ("css", "js"))
    page = make_environment(_HERE).get_template("gallery.html")
    write_text(
        path,
        page.render(
            heading=heading,
            candidates=list(_list_candidates(frame, images)),
            numbers=[name for name in frame if _is_number(frame, str(name))],
            in_colour=images.shape[1] >= 3,
            style=Markup(style),  # noqa: S704 - our own file, as the script is
            script=Markup(script),  # noqa: S704
            # Nothing else is run or applied, whatever an id brings into the page.
            style_hash=hash_source(style),
            script_hash=hash_source(script),
        ),
    )


def _is_number(frame: pd.DataFrame, name: str) -> bool:
    return is_numeric_dtype(frame[name]) and not is_bool_dtype(frame[name])


def _list_candidates(frame: pd.DataFrame, images: NDArray[Any]) -> Iterator[Candidate]:
    # As arrays: rows of pandas turn a float32 into a float64 with digits that it never had.
    columns = {str(name): frame[name].to_numpy() for name in frame if name != "id"}
    pngs = render_cutouts(images)
    for at, (id_, png) in enumerate(zip(frame["id"].astype(str), pngs, strict=True)):
        yield Candidate(
            rank=at + 1,
            id=id_,
            key=json.dumps(id_),
            cell=json.dumps(escape_cell(id_)),
            png=base64.b64encode(png).decode(),
            values=[
                _describe(name, column[at], _is_number(frame, name))
                for name, column in columns.items()
            ],
        )


def _describe(name: str, value: Any, is_number: bool) -> Value:
    exact = "" if pd.isna(value) else str(value)
    shown = exact
    if is_number and exact:
        digits = ".6f" if name in POSITION else "#.4g"  # to a milliarcsecond or so
        shown = f"{float(value):{digits}}" if isinstance(value, np.floating) else exact
    return Value(name=name, exact=exact, shown=shown or "–", is_number=is_number)
