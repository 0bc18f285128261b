"""Pictures of a classification: the worst mistakes of each class, and what was looked at."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.errors import LensHpcError
from lenshpc.report.content import Block, Gallery, Picture, Prose
from lenshpc.report.format import format_number
from lenshpc.report.pictures import Stretch, colours, encode_png, overlay, stretch_of
from lenshpc.run.results import RunResults
from lenshpc.store import Store

Bytes = npt.NDArray[np.uint8]
Explain = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating]]

NUM_WORST = 12  # of each true class
NUM_EXPLAINED = 4  # of each true class
MAX_CLASSES = 6
NUM_STRETCH = 128  # images that decide what is black and white


def draw_galleries(
    results: RunResults, store: Store, mistakes: pd.DataFrame, classes: Sequence[str]
) -> Iterator[Block]:
    """Yield a gallery of the worst mistakes of each true class, then what was looked at in them.

    `mistakes` has row, id, label, predicted and p_true of all test rows decided wrongly, the worst
    first.
    """
    worst = mistakes.groupby("label", sort=True).head(NUM_WORST)
    worst = worst[worst["label"] < MAX_CLASSES]
    if worst.empty:
        return
    results.say("reading the images of mistakes")
    pixels = _read_colours(store, worst["row"].to_numpy())
    for label, some in worst.groupby("label", sort=True):
        yield _gallery(int(str(label)), some, pixels, classes)
    if "explain" in results.tools and results.trainings:
        results.say("asking what the network looked at")
        asked = worst.groupby("label", sort=True).head(NUM_EXPLAINED)
        explain = partial(results.tools["explain"], results.trainings[0].member)
        yield _explain(explain, asked, pixels, classes)


def _read_colours(store: Store, rows: npt.NDArray[np.int64]) -> dict[int, Bytes]:
    """Return row → pixels (H, W, 3) on one stretch, that of test images drawn at random."""
    stretch = _stretch(store)
    images = store.read(rows)
    return {
        int(row): colours(stretch.levels(image)) for row, image in zip(rows, images, strict=True)
    }


def _stretch(store: Store) -> Stretch:
    rows = np.flatnonzero(store.in_split("test"))
    drawn = np.random.default_rng(0).permutation(rows)[:NUM_STRETCH]
    return stretch_of(store.read(np.sort(drawn)))


def _gallery(
    label: int, some: pd.DataFrame, pixels: dict[int, Bytes], classes: Sequence[str]
) -> Gallery:
    panels = ((_picture(line, pixels[line["row"]], classes),) for line in some.to_dict("records"))
    return Gallery(
        name=f"mistakes_{label}",
        title=_title(label, classes),
        caption="The worst first, with the probability of the true class. All pictures have the "
        "same asinh stretch.",
        panels=tuple(panels),
    )


def _title(label: int, classes: Sequence[str]) -> str:
    if len(classes) > 2:
        return f"{classes[label]} classified as another class"
    kind = ("False positives", "False negatives")[label]
    return f"{kind}: {classes[label]} classified as {classes[1 - label]}"


def _picture(line: dict[Hashable, Any], pixels: Bytes, classes: Sequence[str]) -> Picture:
    true, taken = classes[line["label"]], classes[line["predicted"]]
    return Picture(
        png=encode_png(pixels),
        text=f"{line['id']}: {true} classified as {taken}",
        caption=format_number(line["p_true"]) + (f", for {taken}" if len(classes) > 2 else ""),
    )


def _explain(
    explain: Explain, asked: pd.DataFrame, pixels: dict[int, Bytes], classes: Sequence[str]
) -> Block:
    rows = asked["row"].to_numpy()
    try:
        maps = explain(rows)
    except LensHpcError as error:
        return Prose(text=f"No picture of what the network looked at: {error}.")
    panels = (
        (
            _picture(line, pixels[line["row"]], classes),
            Picture(
                png=encode_png(overlay(pixels[line["row"]], heat)),
                text=f"{line['id']}: what the network looked at",
            ),
        )
        for line, heat in zip(asked.to_dict("records"), maps, strict=True)
    )
    return Gallery(
        name="explained",
        title="What the network looked at",
        caption="Grad-CAM of the first member for the class that it predicts (integrated "
        "gradients for a network without feature maps), over the worst mistakes: the "
        "brighter a place, the more it supported that class.",
        panels=tuple(panels),
    )
