"""Figures of a classification: curves with bands, scores, calibration, comparison, confusion."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import FormatStrFormatter

from lenshpc.report.content import Figure
from lenshpc.report.figures import (
    GREY,
    INK,
    PALETTE,
    Look,
    add_legend,
    draw_figure,
    look_of,
    model_looks,
)
from lenshpc.statistics.results import ClassificationScores, Curve, Evaluation
from lenshpc.tasks.supervised.merge import Merged, Probabilities

MAX_TICK_CLASSES = 12


@dataclass(frozen=True, kw_only=True)
class PlottedCurve:
    """One curve of a figure and how it looks; only a `banded` one shows its interval."""

    label: str
    auc: float
    pr_auc: float
    look: Look
    curve: Curve
    banded: bool


def headline_of(scores: ClassificationScores) -> Evaluation:
    """Return the evaluation that stands for the run."""
    return next(one for one in scores.evaluations if one.name == scores.headline)


def select_shown(scores: ClassificationScores) -> list[Evaluation]:
    """Return the lines that figures show: the models, the headline, the best baseline.

    Which baseline is best is told by the out-of-fold rows.
    """
    baselines = [one for one in scores.evaluations if one.kind == "baseline"]
    # Out-of-fold: chosen by its test figure, the best of several baselines would be too good.
    best = max(baselines, key=lambda one: np.nan_to_num(one.oof.auc), default=None)
    return [
        one
        for one in scores.evaluations
        if one.kind == "model" or one.name == scores.headline or one is best
    ]


def looks_of(scores: ClassificationScores) -> dict[str, Look]:
    """Return name → line style of what figures show."""
    models = [one.name for one in scores.evaluations if one.kind == "model"]
    looks = model_looks(models)
    for one in scores.evaluations:
        if one.kind == "baseline":
            looks[one.name] = {"color": GREY, "linestyle": ":"}
        elif one.kind != "model":
            looks[one.name] = {"color": INK, "linestyle": "-", "linewidth": 2.0}
    return looks


def _lines(scores: ClassificationScores, classes: Sequence[str]) -> list[PlottedCurve]:
    """Return a line a model for two classes; for more, a line a class of the headline."""
    head = headline_of(scores)
    if len(classes) == 2:
        looks = looks_of(scores)
        return [
            PlottedCurve(
                label=_short(one.name),
                auc=one.test.auc,
                pr_auc=one.test.pr_auc,
                look=looks[one.name],
                curve=curve,
                banded=one is head,
            )
            for one in select_shown(scores)
            for curve in one.curves
        ]
    return _lines_by_class(head, classes)


def _other_models(scores: ClassificationScores) -> list[Evaluation]:
    """Return the models that do not stand for the run themselves."""
    return [
        one
        for one in scores.evaluations
        if one.kind == "model" and one.name != scores.headline and one.test.num_covered
    ]


def _lines_by_class(head: Evaluation, classes: Sequence[str]) -> list[PlottedCurve]:
    """Return a line a class, each against the rest."""
    by_class = {one.label: one for one in head.test.classes}
    return [
        PlottedCurve(
            label=classes[curve.label],
            auc=by_class[curve.label].auc,
            pr_auc=by_class[curve.label].pr_auc,
            look=look_of(curve.label),
            curve=curve,
            banded=True,
        )
        for curve in head.curves
    ]


def draw_curves(scores: ClassificationScores, merged: Merged) -> Iterator[Figure]:
    """Yield the curves, the scores and the calibration on test rows."""
    lines = _lines(scores, merged.classes)
    head = headline_of(scores)
    whose = head.name if len(merged.classes) == 2 else "each class"
    floor = 0.5 / max(head.test.num_covered, 1)
    others = _other_models(scores) if len(merged.classes) > 2 else []

    yield draw_figure(
        "roc",
        f"ROC curves on the test rows; band: 95% interval of {whose}.",
        lambda axes: _draw_roc(axes, lines),
    )
    for one in others:
        yield draw_figure(
            f"roc_{one.name}",
            f"ROC curves of {one.name} on the test rows; bands: 95% intervals.",
            partial(_draw_roc, lines=_lines_by_class(one, merged.classes)),
        )
    yield draw_figure(
        "roc_log",
        "The same with a logarithmic false positive rate, where a survey operates.",
        lambda axes: _draw_roc_log(axes, lines, floor),
    )
    yield draw_figure(
        "precision_recall",
        f"Precision against recall on the test rows; band: 95% interval of {whose}.",
        lambda axes: _draw_precision_recall(axes, lines),
    )
    yield draw_figure(
        "scores",
        "Scores of the test rows by true class; dashed: the threshold.",
        lambda axes: _draw_scores(axes, head, merged),
    )
    if any(one.reliability for one in select_shown(scores)):
        yield draw_figure(
            "reliability",
            "Calibration on the test rows, in bins with equally many rows; bars: 95% interval of "
            f"{head.name}.",
            lambda axes: _draw_reliability(axes, scores, merged.classes),
        )


def _draw_roc(axes: Axes, lines: Sequence[PlottedCurve]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for line in lines:
        _fill(axes, line, line.curve.fpr_grid, line.curve.tpr_low, line.curve.tpr_high)
        rates = line.curve.false_positive_rate, line.curve.true_positive_rate
        axes.plot(*rates, label=f"{line.label}  {line.auc:.4f}", **line.look)
    axes.set(xlabel="False positive rate", ylabel="True positive rate", title="ROC, test")
    add_legend(axes, "AUC")


def _draw_roc_log(axes: Axes, lines: Sequence[PlottedCurve], floor: float) -> None:
    for line in lines:
        grid = np.maximum(line.curve.fpr_grid, floor)
        _fill(axes, line, grid, line.curve.tpr_low, line.curve.tpr_high)
        rate = np.maximum(line.curve.false_positive_rate, floor)
        points = rate, line.curve.true_positive_rate
        axes.plot(*points, label=line.label, drawstyle="steps-post", **line.look)
    axes.set(xscale="log", xlim=(floor, 1), ylim=(-0.02, 1.02))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set(xlabel="False positive rate", ylabel="True positive rate")
    axes.set_title("ROC at low rates, test")
    add_legend(axes)


def _draw_precision_recall(axes: Axes, lines: Sequence[PlottedCurve]) -> None:
    for line in lines:
        curve = line.curve
        _fill(axes, line, curve.recall_grid, curve.precision_low, curve.precision_high)
        label = f"{line.label}  {line.pr_auc:.4f}"
        axes.plot(curve.recall, curve.precision, label=label, drawstyle="steps-post", **line.look)
    axes.set(xlabel="Recall", ylabel="Precision", title="Precision and recall, test")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    add_legend(axes, "PR AUC")


def _fill(
    axes: Axes, line: PlottedCurve, grid: Probabilities, low: Probabilities, high: Probabilities
) -> None:
    if line.banded and len(grid):
        axes.fill_between(grid, low, high, color=line.look["color"], alpha=0.15, linewidth=0)


def _draw_scores(axes: Axes, head: Evaluation, merged: Merged) -> None:
    """Draw how the headline's probabilities are distributed in each class of the test rows."""
    binary = len(merged.classes) == 2
    peak = max(
        _draw_scores_of(axes, name, look_of(label)["color"], _scores_of(merged, head.name, label))
        for label, name in enumerate(merged.classes)
    )
    if head.threshold is not None:
        axes.axvline(head.threshold, color=INK, linestyle="--", linewidth=1)
    what = f"Probability of {merged.classes[1]}" if binary else "Probability of the true class"
    axes.set(xlabel=what, ylabel="Test rows", title=f"Scores of {head.name}")
    axes.set(xlim=(0, 1), ylim=(0.7, 1.5 * max(peak, 1)), yscale="log")
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    add_legend(axes)


def _scores_of(merged: Merged, name: str, label: int) -> Probabilities:
    values = merged.probabilities[name]
    asked = (merged.rows["split"] == "test") & (merged.rows["label"] == label)
    found = values[asked.to_numpy(), 1 if values.shape[1] == 2 else label]
    return np.asarray(found[np.isfinite(found)])


def _draw_scores_of(axes: Axes, name: str, color: str, scores: Probabilities) -> int:
    counts, edges = np.histogram(scores, bins=40, range=(0, 1))
    axes.stairs(counts, edges, fill=True, alpha=0.18, color=color)
    axes.stairs(counts, edges, linewidth=1.5, color=color, label=name)
    return int(counts.max())


def _draw_reliability(axes: Axes, scores: ClassificationScores, classes: Sequence[str]) -> None:
    looks = looks_of(scores)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for one in select_shown(scores):
        found = one.reliability
        if found is None or one.kind == "baseline":
            continue
        if one.name == scores.headline:
            reach = np.maximum([found.observed - found.low, found.high - found.observed], 0)
            look = {"color": looks[one.name]["color"], "linewidth": 1.0, "capsize": 2}
            axes.errorbar(found.predicted, found.observed, reach, fmt="none", **look)
        label = f"{one.name}  {one.test.ece:.4f}"
        axes.plot(found.predicted, found.observed, marker=".", label=label, **looks[one.name])
    binary = len(classes) == 2
    axes.set(xlabel=f"Mean probability of {classes[1]}" if binary else "Mean largest probability")
    axes.set(ylabel=f"Share of {classes[1]}" if binary else "Share that is right")
    axes.set(title="Calibration, test", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    add_legend(axes, "ECE")


def draw_comparison(scores: ClassificationScores) -> Iterator[Figure]:
    """Yield bars of AUC and PR AUC on test rows, a line each, with intervals."""
    for key, title in (("auc", "AUC"), ("pr_auc", "PR AUC")):
        yield draw_figure(
            f"compare_{key}",
            f"{title} on the test rows with 95% intervals; hollow: out-of-fold.",
            lambda axes, key=key, title=title: _draw_bars(axes, scores, key, title),  # type: ignore[misc]
            size_inch=(5.2, 1.0 + 0.32 * len(scores.evaluations)),
        )


def _draw_bars(axes: Axes, scores: ClassificationScores, key: str, title: str) -> None:
    looks, evaluations = looks_of(scores), scores.evaluations
    for at, one in enumerate(evaluations):
        value = getattr(one.test, key)
        color = looks[one.name]["color"]
        axes.barh(at, value, height=0.62, color=color, alpha=0.35)
        low, high = one.test.intervals.get(key, (np.nan, np.nan))
        axes.plot([low, high], [at, at], color=color, linewidth=2)
        axes.plot(getattr(one.oof, key), at, "o", mfc="none", color=color, markersize=5)
        if np.isfinite(value):
            axes.text(1.06, at, f"{value:.4f}", va="center", fontsize=9)
    axes.set_yticks(range(len(evaluations)), [_short(one.name) for one in evaluations])
    axes.set(xlabel=title, xlim=(0, 1.28), ylim=(len(evaluations) - 0.5, -0.5))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(visible=False, axis="y")


def _short(name: str) -> str:
    """Return what tells a line from the others of its kind: `ensemble (greedy)` → `greedy`."""
    kind, _, inner = name.partition(" (")
    return fill(inner.removesuffix(")") or kind, 20)


def draw_confusions(scores: ClassificationScores, classes: Sequence[str]) -> Iterator[Figure]:
    """Yield the headline's confusion matrices, and that of each model on test rows."""
    head = headline_of(scores)
    matrices = {"test": head.test.confusion, "oof": head.oof.confusion}
    words = {"test": f"{head.name} on the test rows", "oof": f"{head.name} on the out-of-fold rows"}
    if head.corrected is not None:
        matrices["corrected"] = head.corrected.confusion
        words["corrected"] = f"{head.name} on the test rows at the prior-corrected threshold"
    for one in _other_models(scores):
        matrices[one.name] = one.test.confusion
        words[one.name] = f"{one.name} on the test rows"
    for name, confusion in matrices.items():
        yield draw_figure(
            f"confusion_{name}",
            f"Confusion matrix of {words[name]}; shares are of the true class.",
            lambda axes, confusion=confusion: _draw_confusion(axes, classes, confusion),  # type: ignore[misc]
        )


def _draw_confusion(
    axes: Axes, classes: Sequence[str], confusion: tuple[tuple[int, ...], ...]
) -> None:
    counts = np.array(confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = np.empty((*counts.shape, 4))
    image[..., :3] = to_rgb(PALETTE[0])
    image[..., 3] = 0.04 + 0.5 * share  # ink stays legible over the fullest cell
    edges = np.arange(len(classes) + 1) - 0.5
    axes.pcolormesh(edges, edges, image)
    if len(classes) <= MAX_TICK_CLASSES:
        size = max(5.0, 12 - len(classes))
        for (true, predicted), count in np.ndenumerate(counts):
            text = f"{count:,}\n{share[true, predicted]:.1%}"
            axes.text(predicted, true, text, ha="center", va="center", fontsize=size)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(edges[-1], edges[0]))
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="Predicted", ylabel="True")
    axes.grid(visible=False)
