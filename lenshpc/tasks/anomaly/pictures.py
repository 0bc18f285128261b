"""Galleries of the most and least anomalous images: image, reconstruction, residual."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps

from lenshpc.data.decoded import Decoded
from lenshpc.report.content import Gallery, Picture
from lenshpc.report.pictures import Stretch, colours, encode_png, stretch_of
from lenshpc.run.plan import Plan
from lenshpc.run.predictions import read_array
from lenshpc.run.results import RunResults
from lenshpc.statistics.results import Floats
from lenshpc.store import Store
from lenshpc.tasks.anomaly.judge import most_and_least
from lenshpc.tasks.anomaly.merge import MergedScores

NUM_SHOWN = 8  # of the most, and of the least anomalous test images


def draw_strangest(results: RunResults, merged: MergedScores, store: Store) -> Iterator[Gallery]:
    """Yield galleries of image, reconstruction and residual by the first member."""
    member = results.trainings[0].member
    line = merged.heads[member.model]
    places = most_and_least(merged, line, NUM_SHOWN)
    for which, some in places.items():
        rows = merged.rows.iloc[list(some)]
        images = Decoded(store, results.plan.recipe.data).images(rows["row"].to_numpy())
        drawn = read_array(results.run, member, "reconstruction", rows["row"].to_numpy())
        yield _gallery(which, line, rows, images, np.asarray(drawn, np.float32), results.plan)


def _gallery(
    which: str, line: str, rows: pd.DataFrame, images: Floats, drawn: Floats, plan: Plan
) -> Gallery:
    stretch = stretch_of(images)
    left = images - drawn
    reach = float(np.quantile(np.abs(left), 0.995)) or 1.0
    panels = (
        _panel(one, images[at], drawn[at], left[at] / reach, stretch, plan.classes)
        for at, one in enumerate(rows.to_dict("records"))
    )
    return Gallery(
        name=f"{which}_anomalous",
        title=f"The {which} anomalous test images by {line}",
        caption="Image, reconstruction and residual (red: light missing from the reconstruction, "
        f"blue: too much; full colour is {reach:.3g} in the store's units).",
        panels=tuple(panels),
    )


def _panel(
    row: Mapping[Any, Any],
    image: Floats,
    drawn: Floats,
    left: Floats,
    stretch: Stretch,
    classes: Sequence[str],
) -> tuple[Picture, ...]:
    name = f"{row['id']} ({classes[row['label']]})"
    residual = 255 * colormaps["RdBu_r"]((left.mean(axis=0) + 1) / 2)[..., :3]
    return (
        Picture(
            png=encode_png(colours(stretch.levels(image))),
            text=name,
            caption=classes[row["label"]],
        ),
        Picture(
            png=encode_png(colours(stretch.levels(drawn))),
            text=f"{name}: reconstruction",
            caption="reconstruction",
        ),
        Picture(
            png=encode_png(residual.astype(np.uint8)),
            text=f"{name}: residual",
            caption="residual",
        ),
    )
