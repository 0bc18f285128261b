"""Tables of a classification's figures: models, rare false positives, decisions, comparisons."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lenshpc.report.content import Column, Row, Table
from lenshpc.report.format import format_coverage, format_interval, format_number, format_p_value
from lenshpc.report.remarks import note_constant
from lenshpc.statistics.results import ClassificationScores, Evaluation, Scores, ThresholdScores
from lenshpc.tasks.supervised.curves import headline_of

LOOKS = {"model": "", "ensemble": "strong", "combination": "", "baseline": "weak"}
PLAIN = {
    "pr_auc": "PR AUC",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Bal. accuracy",
    "log_loss": "Log-loss",
}
RARE = {
    "tpr0": "TPR₀",
    "tpr10": "TPR₁₀",
    "tpr_at_fpr_1e3": "TPR at FPR 10⁻³",
    "tpr_at_fpr_1e4": "TPR at FPR 10⁻⁴",
    "precision_at_recall_90": "Precision at recall 0.9",
}
CALIBRATION = {"brier": "Brier", "ece": "ECE"}


def main_lines(scores: ClassificationScores) -> list[Evaluation]:
    """Return all lines but the ways to combine models, which have a table of their own."""
    return [one for one in scores.evaluations if one.kind != "combination"]


def columns(*titles: str) -> tuple[Column, ...]:
    """Return columns of numbers."""
    return tuple(Column(title=title) for title in titles)


def format_auc(scores: Scores) -> str:
    """Return the AUC with its interval."""
    return format_interval(scores.auc, scores.auc_low, scores.auc_high)


def models_table(
    scores: ClassificationScores,
    split: str,
    reasons: Mapping[str, str],
    *,
    binary: bool,
    title: str = "",
) -> Table:
    """Return the table of models, ensembles and baselines on one split, `test` or `oof`.

    `reasons` has why a line may have one score for all rows.
    """

    def cells(one: Evaluation) -> Iterator[str]:
        part: Scores = getattr(one, split)
        yield format_auc(part)
        yield from (format_number(getattr(part, key)) for key in PLAIN)
        if binary:
            yield format_number(one.threshold)
        yield format_coverage(part.num_covered, part.num_rows)

    thresholds = ("Threshold",) if binary else ()
    heads = columns("Model", "AUC [interval]", *PLAIN.values(), *thresholds, "Rows")
    table = _lines(main_lines(scores), heads, cells, title)
    return replace(
        table, note=note_constant({one.name: one.test for one in main_lines(scores)}, reasons)
    )


def rare_table(scores: ClassificationScores, *, binary: bool) -> Table:
    """Return what a survey asks: the recall at few false positives, and the calibration."""
    keys = RARE | CALIBRATION if binary else CALIBRATION
    title = "Few false positives, and calibration" if binary else "Calibration"
    heads = columns("Test rows", *keys.values())
    return _lines(
        main_lines(scores),
        heads,
        lambda one: (_with_interval(one.test, key) for key in keys),
        title,
    )


def classes_auc_table(scores: ClassificationScores, classes: Sequence[str]) -> Table:
    """Return the AUC of each class against the rest, and the mean over pairs of classes."""
    return _lines(
        main_lines(scores),
        columns("Test AUC of each class against the rest", *classes, "Mean over pairs"),
        lambda one: map(format_number, (*one.test.class_auc, one.test.auc_ovo)),
        "Each class",
    )


def _lines(
    evaluations: Iterable[Evaluation],
    heads: tuple[Column, ...],
    cells: Callable[[Evaluation], Iterable[str]],
    title: str,
) -> Table:
    rows = (Row(cells=(one.name, *cells(one)), look=LOOKS[one.kind]) for one in evaluations)
    return Table(title=title, columns=heads, rows=tuple(rows))


def _with_interval(scores: Scores | ThresholdScores, key: str) -> str:
    low, high = scores.intervals.get(key, (None, None))
    return format_interval(getattr(scores, key), low, high)


def thresholds_table(scores: ClassificationScores) -> Table:
    """Return the headline's two decisions on test rows, with intervals where there are any."""
    head = headline_of(scores)
    keys = ("f1", "precision", "recall", "balanced_accuracy")
    decisions: dict[str, tuple[float | None, Scores | ThresholdScores]] = {
        "best F1 out-of-fold": (head.threshold, head.test),
        **(
            {"prior-corrected": (head.corrected.threshold, head.corrected)}
            if head.corrected
            else {}
        ),
    }
    rows = (
        Row(cells=(name, format_number(cut), *(_with_interval(found, key) for key in keys)))
        for name, (cut, found) in decisions.items()
    )
    heads = columns(f"{head.name}, test rows", "Threshold", *(PLAIN[key] for key in keys))
    return Table(title="Decisions", columns=heads, rows=tuple(rows))


def per_class_table(scores: ClassificationScores, classes: Sequence[str]) -> Table:
    """Return the classification report of the headline on test rows."""
    head = headline_of(scores)
    keys = ("precision", "recall", "f1", "auc", "pr_auc")
    rows = (
        Row(
            cells=(
                classes[one.label],
                *(format_number(getattr(one, key)) for key in keys),
                f"{one.support:,}",
            )
        )
        for one in head.test.classes
    )
    heads = columns("Class", "Precision", "Recall", "F1", "AUC", "PR AUC", "Rows")
    return Table(title=f"Each class, {head.name}, test rows", columns=heads, rows=tuple(rows))


def comparisons_table(scores: ClassificationScores) -> Table:
    """Return the paired differences of AUC with DeLong's probabilities."""
    rows = (
        Row(
            cells=(
                f"{one.first} − {one.second}",
                format_interval(one.difference, one.low, one.high),
                format_p_value(one.p_value),
                format_p_value(one.p_holm),
            )
        )
        for one in scores.comparisons
    )
    heads = columns("Difference of test AUC", "Value [interval]", "p (DeLong)", "p (Holm)")
    return Table(title="Paired comparisons", columns=heads, rows=tuple(rows))


def combinations_table(scores: ClassificationScores) -> Table:
    """Return the ways to combine models, with the weights that were fitted out-of-fold."""
    combined = [one for one in scores.evaluations if one.kind in {"ensemble", "combination"}]

    def cells(one: Evaluation) -> Iterator[str]:
        weights = scores.weights.get(one.name, {})
        yield format_auc(one.oof)
        yield format_auc(one.test)
        yield from (format_number(getattr(one.test, key)) for key in ("pr_auc", "f1", "log_loss"))
        yield ", ".join(f"{name} {value:.2f}" for name, value in weights.items()) or "equal"

    heads = (
        *columns("Combination", "Out-of-fold AUC", "Test AUC", "PR AUC", "F1", "Log-loss"),
        Column(title="Weights (stacking: coefficients)", words=True),
    )
    return _lines(combined, heads, cells, "Combinations of models")


def rotation_table(scores: ClassificationScores) -> Table:
    """Return the AUC on images turned by 90°."""
    turned = [one for one in scores.evaluations if one.rotation is not None]

    def cells(one: Evaluation) -> Iterator[str]:
        if one.rotation is not None:
            found = one.rotation
            yield from (format_number(one.test.auc), format_number(found.auc))
            yield format_interval(found.change, found.change_low, found.change_high)

    heads = columns("Model", "Test AUC", "Turned by 90°", "Change [interval]")
    return _lines(turned, heads, cells, "Images turned by 90°")
