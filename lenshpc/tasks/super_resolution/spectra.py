"""Figures of super-resolved images: power over frequency, and errors over the members' spread."""

from collections.abc import Callable, Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from lenshpc.report.content import Figure
from lenshpc.report.figures import GREY, INK, POWERS, Look, add_legend, draw_figure, look_of
from lenshpc.tasks.super_resolution.judge import EnlargementScores, ResultRow, TrueSpectrum

Draw = Callable[[Axes], None]

FREQUENCY = "Spatial frequency (cycles a high-resolution pixel)"


def power_error(line: ResultRow, truth: TrueSpectrum) -> float:
    """Return the mean distance from 1 of a line's power ratio, where signal exceeds noise."""
    below = truth.frequency < truth.knee
    return float(np.abs(line.spectrum.ratio[below] - 1).mean()) if below.any() else float("nan")


def draw_spectra(scores: EnlargementScores) -> Iterator[Figure]:
    """Yield power, its ratio to the true one, and the correlation with it, over frequency."""
    looks, truth = _looks(scores), scores.truth

    def power(axes: Axes) -> None:
        axes.semilogy(truth.frequency, truth.power, color=INK, label="true images")
        for line in scores.lines:
            axes.semilogy(truth.frequency, line.spectrum.power, label=line.name, **looks[line.name])
        axes.axhline(truth.noise, color=GREY, linestyle=":", label="noise floor")
        axes.set(ylabel="Power", title="Power spectrum")
        axes.yaxis.set_major_formatter(POWERS)

    def ratio(axes: Axes) -> None:
        for line in scores.lines:
            axes.plot(truth.frequency, line.spectrum.ratio, label=line.name, **looks[line.name])
        axes.axhspan(0.9, 1.1, color=GREY, alpha=0.15, linewidth=0)
        axes.set(
            ylabel="Power over true power", ylim=(0, 2), title="Power relative to the true images"
        )

    def correlation(axes: Axes) -> None:
        for line in scores.lines:
            found = line.spectrum.correlation
            axes.plot(truth.frequency, found, label=line.name, **looks[line.name])
        axes.set(ylabel="Correlation", title="Correlation with the true images")

    captions = {
        "power": "Azimuthal mean of the power under a Hann window, mean over test images; noise "
        "floor: that of the true images beyond 0.45 cycles a pixel.",
        "ratio": "Power of each line divided by that of the true images; grey band: within a "
        "tenth.",
        "correlation": "Correlation of the transforms of each line with those of the true images.",
    }
    for draw in (power, ratio, correlation):
        name = draw.__name__
        yield draw_figure(
            f"spectrum_{name}", captions[name] + _format_knee(truth), _frame(draw, truth)
        )


def _frame(draw: Draw, truth: TrueSpectrum) -> Draw:
    def draw_framed(axes: Axes) -> None:
        draw(axes)
        axes.axvline(truth.knee, color=GREY, linestyle="--", linewidth=0.9)
        axes.set(xlabel=FREQUENCY, xlim=(0, 0.5))
        add_legend(axes)

    return draw_framed


def _format_knee(truth: TrueSpectrum) -> str:
    return (
        f" Dashed: {truth.knee:.3f} cycles a pixel, beyond which the true images are mostly noise."
    )


def _looks(scores: EnlargementScores) -> dict[str, Look]:
    """Return name → line style: models in colours, baselines in grey dashes."""
    dashes = iter(("-", "--", "-.", ":"))
    models = iter(range(24))
    return {
        line.name: {"color": GREY, "linestyle": next(dashes), "linewidth": 1.1}
        if line.kind == "baseline"
        else look_of(next(models))
        for line in scores.lines
    }


def draw_calibration(scores: EnlargementScores) -> Iterator[Figure]:
    """Yield the error of pixels over the spread of the members there, where there are several."""
    lines = [line for line in scores.lines if line.calibration is not None]
    if not lines:
        return
    looks, noise = _looks(scores), np.sqrt(scores.truth.noise)

    def draw(axes: Axes) -> None:
        for line in lines:
            if (found := line.calibration) is not None:
                name = f"{line.name}, {found.num_members} members"
                axes.loglog(
                    found.predicted, found.observed, ".-", label=name, **_colour(looks, line)
                )
        ends = np.array(axes.get_xlim())
        axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=0.9, label="error = spread")
        axes.axhline(noise, color=GREY, linestyle=":", label="noise of the true images")
        axes.set(xlabel="Spread over members", ylabel="Error of their mean", xlim=ends)
        axes.set_title("Error over spread")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(POWERS)
            axis.set_minor_formatter(NullFormatter())
        add_legend(axes)

    caption = (
        "Root mean square error of pixels of test images, in bins with equally many pixels by "
        "the members' standard deviation. The error includes the noise of the true images, which "
        "no spread predicts."
    )
    yield draw_figure("spread_calibration", caption, draw)


def _colour(looks: dict[str, Look], line: ResultRow) -> Look:
    return {"color": looks[line.name]["color"]}
