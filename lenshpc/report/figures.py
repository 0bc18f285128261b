"""Figures as SVG, legible on light and dark pages and to colour-blind readers; training history."""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from lenshpc.errors import printable_lines
from lenshpc.report.content import Figure
from lenshpc.report.format import format_metric
from lenshpc.run.results import Training, val_metrics

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color), without those too pale on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
GREY = "#8a8a8a"
INK = "#0a0b0c"  # becomes `currentColor`: the text colour of the page that holds the figure
SIZE_INCH = (5.2, 3.7)
LEGEND_LETTERS = 64  # in a line of a legend
LINE_INCH = 0.19
DIGITS = re.compile(r"-?\d+\.\d{3,}")  # of a coordinate in points, of which two are seen
POWERS = FormatStrFormatter("%g")  # of a logarithmic axis
STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
    "path.simplify_threshold": 0.3,  # points: a curve of a large set stays a small file
    "pdf.fonttype": 42,  # journals refuse type 3
    # Ids from this salt and no date below: equal figures are equal files.
    "svg.hashsalt": "lenshpc",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.alpha": 0.13,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "lines.linewidth": 1.6,
    "font.size": 10,
    **dict.fromkeys(
        ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], INK
    ),
    "grid.color": INK,
}


Look = dict[str, Any]


@contextmanager
def style() -> Iterator[None]:
    """Draw in the house's style, whatever a `matplotlibrc` of the current folder says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def draw_figure(
    name: str,
    caption: str,
    draw: Callable[[Axes], None],
    size_inch: tuple[float, float] = SIZE_INCH,
) -> Figure:
    """Return the figure that `draw` puts on empty axes."""
    # It becomes a file's name, and ids in the page.
    name = re.sub(r"[^\w-]", "_", name)
    # Figures of their own and no pyplot: that keeps global state, and looks for a display.
    with style():
        canvas = Canvas(figsize=size_inch, layout="constrained")
        axes = canvas.add_subplot()
        draw(axes)
        text, svg = describe_axes(axes, caption), render_svg(canvas, name)
        # What the layout has placed stays there: to lay out once more costs as much again.
        canvas.set_layout_engine("none")
        pdf = render_pdf(canvas)
        canvas.clear()
    return Figure(name=name, caption=caption, svg=svg, text=text, pdf=pdf)


def describe_axes(axes: Axes, caption: str) -> str:
    """Return what a drawing shows in words: its caption, axes and what its legends name."""
    x, y = axes.get_xlabel(), axes.get_ylabel()
    figure = axes.get_figure()
    legends = figure.legends if figure else []
    named = "; ".join(one.get_text() for legend in legends for one in legend.get_texts())
    sides = f" {y} against {x}." if x and y else f" Horizontal axis: {x}." if x else ""
    return f"{caption}{sides}{f' Shown: {named}.' if named else ''}"


def render_pdf(figure: Canvas) -> bytes:
    """Return a figure as PDF, for papers: its letters are text, and equal figures equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def render_svg(figure: Canvas, name: str) -> str:
    """Return a figure as an SVG element whose ids begin with `name` and ink is `currentColor`."""
    _make_printable(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    # Ids with the figure's name: all figures stand in one page, where equal ids would clip one by
    # another's path.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
    svg = re.sub(r' d="[^"]+"', lambda path: DIGITS.sub(_round, path[0]), svg)
    return svg.replace(INK, "currentColor")


def _round(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _make_printable(figure: Canvas) -> None:
    """Write out in all words of a figure what no font has a sign for: names are users' data."""
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        # Drawn anew from the axis, so not to be set as other texts are.
        if labels != [_keep_lines(label) for label in labels]:
            axis.set_ticks(axis.get_ticklocs(), [_keep_lines(label) for label in labels])
    for text in figure.findobj(Text):
        text.set_text(_keep_lines(text.get_text()))


def _keep_lines(text: str) -> str:
    return printable_lines(text, kept="\n")


def look_of(at: int) -> Look:
    """Return the colour and dashes of the line number `at`: 24 that differ."""
    dash = ("-", "--", "-.", (0, (1, 1)))[at // len(PALETTE) % 4]
    return {"color": PALETTE[at % len(PALETTE)], "linestyle": dash}


def model_looks(models: Iterable[str]) -> dict[str, Look]:
    """Return name → line style; a model looks the same in every figure."""
    return {model: look_of(at) for at, model in enumerate(models)}


def add_legend(axes: Axes, title: str | None = None) -> None:
    """Add a legend below the axes, where there is something to name; the figure grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    if not handles or not isinstance(figure, Canvas):
        return
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = min(len(labels), max(1, LEGEND_LETTERS // (longest + 6)))
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title)
    figure.set_figheight(figure.get_figheight() + LINE_INCH * (ceil(lines) + bool(title)))


def draw_histories(models: Sequence[str], trainings: Sequence[Training]) -> list[Figure]:
    """Return a figure for each metric of the validation rows, by epoch, a line a member."""
    return [_draw_history(models, trainings, metric) for metric in val_metrics(trainings)]


def _draw_history(models: Sequence[str], trainings: Sequence[Training], metric: str) -> Figure:
    looks = model_looks(models)
    trained = any(f"train_{metric}" in training.history for training in trainings)

    def draw(axes: Axes) -> None:
        for training in trainings:
            color = looks[training.member.model]["color"]
            _draw_line(axes, training, f"train_{metric}", color=color, alpha=0.45, linestyle="--")
            _draw_line(axes, training, f"val_{metric}", color=color, alpha=0.9)
            epoch = 1 + training.done.get("best_epoch", float("nan"))
            best = training.best(f"val_{metric}")
            axes.plot([epoch], [best], marker="o", markersize=4, color=color)
        for model in models:
            axes.plot([], [], color=looks[model]["color"], label=model)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        dashed = " (dashed: training)" if trained else ""
        axes.set(xlabel="Epoch", ylabel=f"Validation {format_metric(metric)}")
        title = format_metric(metric)
        axes.set_title(f"{title[:1].upper()}{title[1:]}{dashed}; points: epoch kept")
        add_legend(axes)

    caption = f"Validation {format_metric(metric)} of every member by epoch."
    return draw_figure(f"history_{metric}", caption, draw)


def _draw_line(axes: Axes, training: Training, column: str, **look: Any) -> None:
    if {"epoch", column} <= set(training.history):
        epochs = 1 + training.history["epoch"]  # the engine counts from 0, people from 1
        axes.plot(epochs, training.history[column], linewidth=1.1, **look)
