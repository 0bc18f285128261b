"""Write the quality report of a store: findings, tables, figures and pictures in one HTML file."""

import base64
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lenshpc.errors import ConfigError
from lenshpc.files import write_text
from lenshpc.quality.findings import find, tabulate
from lenshpc.quality.neighbours import TURNS, Copies, find_copies, turn_images
from lenshpc.quality.statistics import WINDOW_DEG, class_rows, position_angles
from lenshpc.quality.survey import BIN_PX, ImageStatistics, survey
from lenshpc.report.figures import INK, PALETTE, SIZE_INCH, render_svg, style
from lenshpc.report.html import make_environment
from lenshpc.report.pictures import Stretch, colours, encode_png
from lenshpc.report.summary import without_nan
from lenshpc.store import Store

NUM_PICTURES = 10  # of each class
BIN_DEG = 10


def write_quality_report(
    store: Store, path: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Write the page at `path`, replacing an earlier one, and return its content as JSON values."""
    _check_place(store, path)
    surveyed = survey(store, progress)
    copies = find_copies(store, surveyed)
    tables = tabulate(store, surveyed, copies)
    content = {"findings": [asdict(one) for one in find(store, tables)], **tables}
    pictures = _Pictures(store, surveyed)
    page = (
        make_environment(Path(__file__).parent)
        .get_template("quality.html")
        .render(
            store=store,
            content=content,
            figures=draw_figures(store, surveyed, copies),
            means=pictures.means(),
            gallery=pictures.gallery(),
            pairs=pictures.pairs(copies),
            window_deg=WINDOW_DEG,
            bin_px=BIN_PX,
        )
    )
    write_text(path, page)
    clean: dict[str, Any] = without_nan(content)
    return clean


def _check_place(store: Store, path: Path) -> None:
    if path.suffix != ".html" or path.resolve().is_relative_to(store.path.resolve()):
        reason = "give a name that ends in .html, outside the store"
    elif not path.parent.is_dir():
        reason = f"{path.parent} is no folder; make it first"
    else:
        return
    raise ConfigError(f"cannot write a report at {path}: {reason}")


def draw_figures(store: Store, surveyed: ImageStatistics, copies: Copies) -> dict[str, Markup]:
    """Return figure name → SVG."""
    drawings: dict[str, Callable[[Any], None]] = {
        "distances": lambda axes: _draw_distances(axes, copies),
        "orientation": lambda axes: _draw_orientation(axes, store, surveyed),
        **{
            f"profile-{at}": partial(_draw_profile, store=store, surveyed=surveyed, at=at)
            for at in range(len(store.channels))
        },
    }
    result = {}
    with style():
        for name, draw in drawings.items():
            figure = Figure(figsize=SIZE_INCH, layout="constrained")
            draw(figure.add_subplot())
            result[name] = Markup(render_svg(figure, name))  # noqa: S704 - our own SVG
    return result


def _draw_distances(axes: Any, copies: Copies) -> None:
    highest = max(float(one.distances.max()) for one in copies.comparisons)
    edges = np.linspace(0, max(highest, copies.threshold * 1.1), 60)
    for at, one in enumerate(copies.comparisons):
        share = np.full(len(one.distances), 1 / len(one.distances))
        label = f"{one.query} to {one.reference}" if one.across else f"within {one.query}"
        axes.hist(
            one.distances, edges, weights=share, histtype="step", color=PALETTE[at % 6],
            label=label, linestyle="-" if one.across else "--", linewidth=1.5,
        )  # fmt: skip
    axes.axvline(copies.threshold, color=INK, linestyle=":", label="threshold of a copy")
    axes.set(xlabel="Distance to the nearest image", ylabel="Share of images")
    axes.legend()


def _draw_orientation(axes: Any, store: Store, surveyed: ImageStatistics) -> None:
    edges = np.arange(0, 180 + BIN_DEG, BIN_DEG)
    for label, name in enumerate(store.classes):
        angles = position_angles(surveyed.ellipticity[class_rows(store, surveyed, label)])
        share = np.histogram(angles, edges)[0] / max(len(angles), 1)
        axes.stairs(share, edges, color=PALETTE[label % 6], linewidth=1.5, label=name)
    axes.axhline(BIN_DEG / 180, color=INK, linestyle=":", label="uniform")
    axes.set(xlabel="Position angle from +x, counter-clockwise (°)", ylabel="Share of images")
    axes.set_xticks(range(0, 181, 30))
    axes.legend()


def _draw_profile(axes: Any, store: Store, surveyed: ImageStatistics, at: int) -> None:
    radius = BIN_PX * (np.arange(surveyed.profiles.shape[2]) + 0.5)
    for label, name in enumerate(store.classes):
        profiles = surveyed.profiles[class_rows(store, surveyed, label), at] / store.scale
        if len(profiles):
            mean, spread = profiles.mean(axis=0), profiles.std(axis=0)
            axes.plot(radius, mean, color=PALETTE[label % 6], label=name)
            band = mean - spread, mean + spread
            axes.fill_between(radius, *band, color=PALETTE[label % 6], alpha=0.15, linewidth=0)
    axes.set(xlabel="Radius (px)", ylabel=f"Mean pixel, {store.channels[at]}")
    axes.legend()


class _Pictures:
    """Images as PNG inside the page, all on one asinh scale."""

    def __init__(self, store: Store, surveyed: ImageStatistics) -> None:
        self._store, self._survey = store, surveyed
        finite = surveyed.finite
        low = np.quantile(surveyed.samples[finite], 0.01, axis=(0, 2))
        high = np.median(surveyed.maximum[finite], axis=0)
        self._stretch = Stretch(low=low[:, None, None], high=high[:, None, None])

    def means(self) -> list[dict[str, str]]:
        """Return the mean image of each class."""
        named = zip(self._store.classes, self._survey.mean_images, strict=True)
        return [self._picture(image, f"Mean of {name}", name) for name, image in named]

    def gallery(self) -> list[tuple[str, list[dict[str, str]]]]:
        """Return images drawn at random, class by class."""
        rng = np.random.default_rng(0)
        shown = []
        for label, name in enumerate(self._store.classes):
            rows = np.flatnonzero(class_rows(self._store, self._survey, label))
            drawn = np.sort(rng.permutation(rows)[:NUM_PICTURES])
            images = (
                self._store.read(drawn) if len(drawn) else np.empty((0, *self._store.image_shape))
            )
            ids = self._store.text("id", drawn).to_pylist()
            pictures = [
                self._picture(image, f"{name}: {one}", "")
                for image, one in zip(images, ids, strict=True)
            ]
            shown.append((name, pictures))
        return shown

    def pairs(self, copies: Copies) -> list[tuple[str, list[dict[str, Any]]]]:
        """Return the closest pairs of each comparison, the first turned onto the second."""
        return [
            (
                f"{one.query} against {one.reference}" if one.across else f"Within {one.query}",
                [self._pair(line) for line in one.closest.head(6).to_dict("records")],
            )
            for one in copies.comparisons
        ]

    def _pair(self, line: dict[Any, Any]) -> dict[str, Any]:
        rows = np.array([line["row"], line["nearest"]])
        first, second = self._store.read(rows)
        ids, names = self._store.text("id", rows).to_pylist(), self._store.column("label", rows)
        return {
            **line,
            "turn": TURNS[line["turn"]],
            "pictures": [
                self._picture(image, str(one), self._store.classes[name] if name >= 0 else "")
                for image, one, name in zip(
                    (turn_images(first, line["turn"]), second), ids, names, strict=True
                )
            ],
        }

    def _picture(self, image: NDArray[Any], text: str, caption: str) -> dict[str, str]:
        png = encode_png(colours(self._stretch.levels(image)))
        data = base64.b64encode(png).decode()
        return {"src": f"data:image/png;base64,{data}", "alt": text, "caption": caption}
