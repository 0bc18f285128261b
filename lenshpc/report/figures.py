"""The report's figures as SVG, legible on light and dark pages and to colour-blind readers."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from lenshpc.aggregate.baseline import BASELINE
from lenshpc.aggregate.classification import Curve, Scores
from lenshpc.aggregate.merge import ENSEMBLE, Probabilities
from lenshpc.plan import Plan
from lenshpc.report.findings import Findings

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color), without those too pale on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
GREY = "#8a8a8a"
INK = "#0a0b0c"  # becomes `currentColor`: the text colour of the page that holds the figure
SIZE_INCH = (5.2, 3.7)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
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


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve of a figure and how it looks."""

    label: str
    auc: float
    pr_auc: float
    look: dict[str, Any]
    curve: Curve


def draw_figures(plan: Plan, findings: Findings) -> dict[str, str]:
    """Return figure name → SVG text, in the order of the report."""
    drawings: dict[str, Callable[[Axes, Plan, Findings], None]] = {
        "roc": draw_roc,
        "roc_log": draw_roc_log,
        "precision_recall": draw_precision_recall,
        "scores": draw_scores,
        "confusion_test": draw_confusion_test,
        "confusion_oof": draw_confusion_oof,
        "history_loss": draw_history_loss,
        "history_auc": draw_history_auc,
    }
    result = {}
    with matplotlib.rc_context(STYLE):
        for name, draw in drawings.items():
            with _figure() as (figure, axes):
                draw(axes, plan, findings)
                result[name] = render_svg(figure, name)
    return result


@contextmanager
def _figure() -> Iterator[tuple[Figure, Axes]]:
    figure = Figure(figsize=SIZE_INCH, layout="constrained")
    yield figure, figure.add_subplot()
    figure.clear()


def render_svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element whose ids begin with `name` and ink is `currentColor`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
    return svg.replace(INK, "currentColor")


def model_looks(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return name → line style; the same model looks the same in every figure."""
    looks: dict[str, dict[str, Any]] = {
        model: {"color": PALETTE[at % len(PALETTE)], "linestyle": _dash(at)}
        for at, model in enumerate(plan.recipe.models)
    }
    looks[ENSEMBLE] = {"color": INK, "linestyle": "-", "linewidth": 2.0}
    looks[BASELINE] = {"color": GREY, "linestyle": ":"}
    return looks


def _dash(at: int) -> Any:
    return ("-", "--", "-.", (0, (1, 1)))[at // len(PALETTE) % 4]


def _lines(plan: Plan, findings: Findings) -> list[Line]:
    """Return a line a model for two classes; for more, a line a class of the headline."""
    if len(plan.classes) == 2:
        looks = model_looks(plan)
        return [
            Line(
                label=one.name.partition(" (")[0],
                auc=one.test.auc,
                pr_auc=one.test.pr_auc,
                look=looks[one.name],
                curve=curve,
            )
            for one in findings.evaluations
            for curve in one.curves
        ]
    head = findings.headline
    return [
        Line(
            label=plan.classes[curve.label],
            auc=head.test.class_auc[curve.label],
            pr_auc=float("nan"),
            look={"color": PALETTE[curve.label % len(PALETTE)], "linestyle": _dash(curve.label)},
            curve=curve,
        )
        for curve in head.curves
    ]


def draw_roc(axes: Axes, plan: Plan, findings: Findings) -> None:
    """Draw true over false positive rate on test rows."""
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for line in _lines(plan, findings):
        rates = line.curve.false_positive_rate, line.curve.true_positive_rate
        axes.plot(*rates, label=f"{line.label}  {line.auc:.4f}", **line.look)
    axes.set(xlabel="False positive rate", ylabel="True positive rate", title="ROC, test")
    _legend(axes, "lower right", "AUC")


def draw_roc_log(axes: Axes, plan: Plan, findings: Findings) -> None:
    """Draw the ROC curve over a logarithmic false positive rate, where surveys work."""
    floor = 0.5 / max(findings.headline.test.num_covered, 1)
    for line in _lines(plan, findings):
        rate = np.maximum(line.curve.false_positive_rate, floor)
        points = rate, line.curve.true_positive_rate
        axes.plot(*points, label=line.label, drawstyle="steps-post", **line.look)
    axes.set(xscale="log", xlim=(floor, 1), ylim=(-0.02, 1.02))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set(
        xlabel="False positive rate", ylabel="True positive rate", title="ROC at low rates, test"
    )
    _legend(axes, "lower right")


def draw_precision_recall(axes: Axes, plan: Plan, findings: Findings) -> None:
    """Draw precision over recall on test rows."""
    for line in _lines(plan, findings):
        figure = "" if np.isnan(line.pr_auc) else f"  {line.pr_auc:.4f}"
        points = line.curve.recall, line.curve.precision
        axes.plot(*points, label=line.label + figure, drawstyle="steps-post", **line.look)
    axes.set(xlabel="Recall", ylabel="Precision", title="Precision and recall, test")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    _legend(axes, "lower left", "PR AUC" if len(plan.classes) == 2 else None)


def draw_scores(axes: Axes, plan: Plan, findings: Findings) -> None:
    """Draw how the headline's probabilities are distributed in each class of the test rows."""
    binary = len(plan.classes) == 2
    peak = max(
        _draw_scores_of(axes, name, PALETTE[label % len(PALETTE)], _scores_of(findings, label))
        for label, name in enumerate(plan.classes)
    )
    if findings.headline.threshold is not None:
        axes.axvline(findings.headline.threshold, color=INK, linestyle="--", linewidth=1)
    what = f"Probability of {plan.classes[1]}" if binary else "Probability of the true class"
    axes.set(xlabel=what, ylabel="Test rows", title=f"Scores of {findings.headline.name}")
    axes.set(xlim=(0, 1), ylim=(0.7, 8 * max(peak, 1)), yscale="log")  # room for the legend
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    _legend(axes, "upper right")


def _scores_of(findings: Findings, label: int) -> Probabilities:
    rows = findings.merged.rows
    values = findings.merged.probabilities[findings.merged.headline]
    asked = (rows["split"] == "test") & (rows["label"] == label)
    shown = values[asked.to_numpy(), 1 if values.shape[1] == 2 else label]
    return np.asarray(shown[np.isfinite(shown)])


def _draw_scores_of(axes: Axes, name: str, color: str, scores: Probabilities) -> int:
    counts, edges = np.histogram(scores, bins=40, range=(0, 1))
    axes.stairs(counts, edges, fill=True, alpha=0.18, color=color)
    axes.stairs(counts, edges, linewidth=1.5, color=color, label=name)
    return int(counts.max())


def draw_confusion_test(axes: Axes, plan: Plan, findings: Findings) -> None:
    """Draw the headline's confusion matrix of test rows."""
    _draw_confusion(axes, plan.classes, findings.headline.test)
    axes.set_title(f"{findings.headline.name}, test")


def draw_confusion_oof(axes: Axes, plan: Plan, findings: Findings) -> None:
    """Draw the headline's confusion matrix of out-of-fold rows."""
    _draw_confusion(axes, plan.classes, findings.headline.oof)
    axes.set_title(f"{findings.headline.name}, out-of-fold")


def _draw_confusion(axes: Axes, classes: tuple[str, ...], scores: Scores) -> None:
    counts = np.array(scores.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = np.empty((*counts.shape, 4))
    image[..., :3] = to_rgb(PALETTE[0])
    image[..., 3] = 0.04 + 0.5 * share  # ink stays legible over the fullest cell
    edges = np.arange(len(classes) + 1) - 0.5
    axes.pcolormesh(edges, edges, image)
    for (true, predicted), count in np.ndenumerate(counts):
        text = f"{count:,}\n{share[true, predicted]:.1%}"
        axes.text(predicted, true, text, ha="center", va="center", fontsize=_fit(len(classes)))
    axes.set(xlim=(edges[0], edges[-1]), ylim=(edges[-1], edges[0]))
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="Predicted", ylabel="True")
    axes.grid(visible=False)


def _fit(num_classes: int) -> float:
    return max(5.0, 12 - num_classes)


def draw_history_loss(axes: Axes, plan: Plan, findings: Findings) -> None:
    """Draw the losses of all members: full lines on validation rows, dashed ones on training."""
    _draw_history(axes, plan, findings, "train_loss", alpha=0.45, linestyle="--")
    _draw_history(axes, plan, findings, "val_loss", alpha=0.9, linestyle="-")
    axes.set(xlabel="Epoch", ylabel="Loss", title="Loss (dashed: training)")
    _model_legend(axes, plan)


def draw_history_auc(axes: Axes, plan: Plan, findings: Findings) -> None:
    """Draw the validation AUC of all members; a point marks each one's best epoch."""
    _draw_history(axes, plan, findings, "val_auc", alpha=0.9, linestyle="-")
    looks = model_looks(plan)
    for training in findings.trainings:
        color = looks[training.member.model]["color"]
        best = training.done.get("best_epoch", float("nan")), training.best("val_auc")
        axes.plot(*best, marker="o", markersize=4, color=color)
    axes.set(xlabel="Epoch", ylabel="Validation AUC", title="AUC (points: epoch kept)")
    _model_legend(axes, plan)


def _draw_history(axes: Axes, plan: Plan, findings: Findings, column: str, **look: Any) -> None:
    looks = model_looks(plan)
    for training in findings.trainings:
        if {"epoch", column} <= set(training.history):
            color = looks[training.member.model]["color"]
            values = training.history["epoch"], training.history[column]
            axes.plot(*values, color=color, linewidth=1.1, **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _model_legend(axes: Axes, plan: Plan) -> None:
    looks = model_looks(plan)
    for model in plan.recipe.models:
        axes.plot([], [], color=looks[model]["color"], label=model)
    _legend(axes, "best")


def _legend(axes: Axes, place: Any, title: str | None = None) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, title=title)
