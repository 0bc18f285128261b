"""Scores against what is known of the images: brightness, Einstein radius, other numbers."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from lenshpc.report.content import Figure
from lenshpc.report.figures import INK, add_legend, draw_figure, look_of
from lenshpc.store import Store
from lenshpc.tasks.supervised.merge import Merged

Floats = npt.NDArray[np.floating]

MAX_NUMBERS = 6
MAX_POINTS = 600  # drawn of each class; the medians are over all
NUM_BINS = 8
MIN_DISTINCT = 5
WORDS = {"theta_e": "Einstein radius", "theta_e_arcsec": "Einstein radius (″)"}
FLUX = "magnitude of the summed pixels"


def read_numbers(store: Store) -> dict[str, Floats]:
    """Return what is known of each row of a store: its number columns, and a magnitude.

    Without a column of magnitudes it is -2.5 log10 of the sum of an image's pixels, no zero point.
    """
    floats = {name: store.column(name) for name in store.columns}
    wanted = sorted(floats, key=lambda name: not ("theta_e" in name or _is_magnitude(name)))
    numbers = {
        WORDS.get(name, name.replace("_", " ")): floats[name] for name in wanted[: MAX_NUMBERS - 1]
    }
    if not any(map(_is_magnitude, floats)):
        flux = store.column("moments")[..., 0].sum(axis=1)
        numbers[FLUX] = -2.5 * np.log10(np.where(flux > 0, flux, np.nan))
    return numbers


def _is_magnitude(name: str) -> bool:
    return any(part in {"mag", "magnitude"} for part in name.lower().split("_"))


def draw_numbers(merged: Merged, name: str, numbers: dict[str, Floats]) -> Iterator[Figure]:
    """Yield the probability of the true class of test rows over each number that varies."""
    values = merged.probabilities[name]
    testing = (merged.rows["split"] == "test").to_numpy() & np.isfinite(values).all(axis=1)
    rows = merged.rows.loc[testing]
    labels = rows["label"].to_numpy()
    column = np.ones_like(labels) if values.shape[1] == 2 else labels
    scores = values[testing][np.arange(len(labels)), column]
    for at, (title, of_store) in enumerate(numbers.items()):
        number = of_store[rows["row"].to_numpy()]
        if len(np.unique(number[np.isfinite(number)])) >= MIN_DISTINCT:
            yield _draw(at, title, number, scores, labels, merged.classes)


def _draw(
    at: int,
    title: str,
    number: Floats,
    scores: Floats,
    labels: npt.NDArray[np.integer],
    classes: Sequence[str],
) -> Figure:
    what = f"Probability of {classes[1]}" if len(classes) == 2 else "Probability of the true class"

    def draw(axes: Axes) -> None:
        for label, name in enumerate(classes):
            mine = (labels == label) & np.isfinite(number)
            if mine.any():
                _draw_class(axes, name, look_of(label)["color"], number[mine], scores[mine])
        axes.set(xlabel=title[:1].upper() + title[1:], ylabel=what, ylim=(-0.03, 1.03))
        axes.set_title(f"Score against {title}", color=INK)
        add_legend(axes)

    caption = (
        f"{what} of test images by {title}; lines: median and central half of {NUM_BINS} bins of "
        f"equal counts, points: at most {MAX_POINTS} of each class."
    )
    return draw_figure(f"number_{at}", caption, draw)


def _draw_class(axes: Axes, name: str, color: str, number: Floats, scores: Floats) -> None:
    points = np.random.default_rng(0).permutation(len(number))[:MAX_POINTS]
    axes.scatter(number[points], scores[points], s=5, color=color, alpha=0.3, linewidths=0)
    found = bin_scores(number, scores)
    axes.plot(found["number"], found["median"], color=color, marker=".", label=name)
    axes.fill_between(
        found["number"], found["low"], found["high"], color=color, alpha=0.15, linewidth=0
    )


def bin_scores(number: Floats, scores: Floats, num_bins: int = NUM_BINS) -> pd.DataFrame:
    """Return median number, and quartiles of the scores, in bins of equal counts."""
    frame = pd.DataFrame({"number": number, "score": scores})
    place = pd.Series(number).rank(method="first").sub(1) * min(num_bins, len(frame)) // len(frame)
    groups = frame.groupby(place.to_numpy())
    return pd.DataFrame(
        {
            "number": groups["number"].median(),
            "low": groups["score"].quantile(0.25),
            "median": groups["score"].median(),
            "high": groups["score"].quantile(0.75),
        }
    )
