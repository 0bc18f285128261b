"""Judge merged predictions: thresholds from out-of-fold rows, the test rows touched once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc import metrics
from lenshpc.aggregate.merge import Probabilities

NUM_RESAMPLES = 2000
LEVEL = 0.95

Labels = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures of one model on one split; NaN where the covered rows do not define one."""

    num_rows: int
    num_covered: int
    auc: float
    auc_low: float
    auc_high: float
    class_auc: tuple[float, ...]
    pr_auc: float
    accuracy: float
    f1: float
    precision: float
    recall: float
    log_loss: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """ROC and precision-recall points of one class against the rest, on test rows."""

    label: int
    false_positive_rate: Probabilities
    true_positive_rate: Probabilities
    recall: Probabilities
    precision: Probabilities


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One line of the report's table; without a threshold the most probable class is taken."""

    name: str
    threshold: float | None
    oof: Scores
    test: Scores
    curves: tuple[Curve, ...]


def evaluate(
    name: str, rows: pd.DataFrame, probabilities: Probabilities, *, seed: int = 0
) -> Evaluation:
    """Return the evaluation of merged probabilities (N, K) of `rows`."""
    labels = rows["label"].to_numpy()
    out = (rows["split"] == "oof").to_numpy()
    threshold = choose_threshold(labels[out], probabilities[out])
    return Evaluation(
        name=name,
        threshold=threshold,
        oof=score(labels[out], probabilities[out], threshold, seed=seed),
        test=score(labels[~out], probabilities[~out], threshold, seed=seed),
        curves=curves(labels[~out], probabilities[~out]),
    )


def choose_threshold(labels: Labels, probabilities: Probabilities) -> float | None:
    """Return the threshold of largest F1 on out-of-fold rows; None for three and more classes."""
    covered = np.isfinite(probabilities).all(axis=1)
    if probabilities.shape[1] != 2 or len(np.unique(labels[covered])) < 2:
        return None
    return metrics.best_f1_threshold(labels[covered], probabilities[covered, 1])


def score(
    labels: Labels, probabilities: Probabilities, threshold: float | None, *, seed: int = 0
) -> Scores:
    """Return the figures of the rows that are covered."""
    covered = np.isfinite(probabilities).all(axis=1)
    num_rows, num_classes = probabilities.shape
    labels, probabilities = labels[covered], probabilities[covered]
    predicted = metrics.decide(probabilities, threshold)
    precision, recall, f1 = metrics.precision_recall_f1(labels, predicted, num_classes)
    low, high = metrics.bootstrap_auc_interval(
        labels, probabilities, num_resamples=NUM_RESAMPLES, level=LEVEL, seed=seed
    )
    confusion = metrics.confusion_matrix(labels, predicted, num_classes)
    return Scores(
        num_rows=num_rows,
        num_covered=len(labels),
        auc=metrics.roc_auc(labels, probabilities),
        auc_low=low,
        auc_high=high,
        class_auc=tuple(metrics.class_auc(labels, probabilities)),
        pr_auc=metrics.pr_auc(labels, probabilities),
        accuracy=metrics.accuracy(labels, predicted),
        f1=f1,
        precision=precision,
        recall=recall,
        log_loss=metrics.log_loss(labels, probabilities),
        confusion=tuple(tuple(int(count) for count in line) for line in confusion),
    )


def curves(labels: Labels, probabilities: Probabilities) -> tuple[Curve, ...]:
    """Return the curves of each judged class that has rows of both kinds."""
    covered = np.isfinite(probabilities).all(axis=1)
    labels, probabilities = labels[covered], probabilities[covered]
    first = 1 if probabilities.shape[1] == 2 else 0
    return tuple(
        _curve(label, positive, scores)
        for label, (positive, scores) in enumerate(
            metrics.one_versus_rest(labels, probabilities), start=first
        )
        if 0 < positive.sum() < len(positive)
    )


def _curve(label: int, positive: npt.NDArray[np.bool_], scores: metrics.Scores) -> Curve:
    from sklearn.metrics import precision_recall_curve, roc_curve

    false, true, _ = roc_curve(positive, scores)
    precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
    return Curve(
        label=label,
        false_positive_rate=false,
        true_positive_rate=true,
        recall=recall,
        precision=precision,
    )


def find_mistakes(
    rows: pd.DataFrame, probabilities: Probabilities, threshold: float | None, num_shown: int = 20
) -> pd.DataFrame:
    """Return the test rows decided wrongly, the least probable true class first.

    Columns: row, id, label, predicted, p_true (of the true class), p_predicted.
    """
    covered = np.isfinite(probabilities).all(axis=1)
    asked = covered & (rows["split"] == "test").to_numpy()
    found, values = rows[asked], probabilities[asked]
    labels, predicted = found["label"].to_numpy(), metrics.decide(values, threshold)
    at = np.arange(len(found))
    table = found[["row", "id", "label"]].assign(
        predicted=predicted, p_true=values[at, labels], p_predicted=values[at, predicted]
    )
    wrong: pd.DataFrame = table[labels != predicted].sort_values(["p_true", "row"])
    return wrong.head(num_shown).reset_index(drop=True)
