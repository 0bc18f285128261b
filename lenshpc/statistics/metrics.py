"""Whole-set metrics of a classification, from labels and class probabilities.

Shapes: N rows, K classes. Scores are the probabilities (N, K), or one score a row (N,) of which the
larger speaks for class 1. Two classes are judged by the last, the positive one; three and more by
the mean over classes of one versus the rest. What the rows at hand do not define, such as an AUC
without a positive row, is NaN. Of tied scores none counts before all do.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import numpy.typing as npt

from lenshpc.statistics.ranking import RankedClass, measure_class

Labels = npt.NDArray[np.integer]
Scores = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]

NUM_BINS = 15


def one_versus_rest(labels: Labels, scores: Scores) -> list[tuple[Flags, Scores]]:
    """Return a pair (is positive, score) for each class that is judged."""
    if scores.ndim == 1:
        return [(labels == 1, scores)]
    num_classes = scores.shape[1]
    judged = (1,) if num_classes == 2 else range(num_classes)
    return [(labels == label, scores[:, label]) for label in judged]


def class_auc(labels: Labels, scores: Scores) -> list[float]:
    """Return the area under the ROC curve of each class that is judged."""
    return [auc_of(*one) for one in one_versus_rest(labels, scores)]


def roc_auc(labels: Labels, scores: Scores) -> float:
    """Return the area under the ROC curve."""
    return float(np.mean(class_auc(labels, scores)))


def ovo_auc(labels: Labels, probabilities: Scores) -> float:
    """Return the mean AUC over all pairs of classes, each by the scores of both (Hand & Till 2001).

    Of two classes it is the AUC.
    """
    num_classes = probabilities.shape[1]
    if num_classes == 2:
        return roc_auc(labels, probabilities)
    areas = [
        auc_of(labels[among] == label, probabilities[among, label])
        for pair in combinations(range(num_classes), 2)
        for among in [np.isin(labels, pair)]
        for label in pair
    ]
    return float(np.mean(areas))


def auc_of(positive: Flags, scores: Scores) -> float:
    """Return the area under one class's ROC curve: the Mann-Whitney statistic by ranks."""
    num_positives, num_negatives = int(positive.sum()), int((~positive).sum())
    if not num_positives or not num_negatives:
        return float("nan")
    negatives = np.sort(scores[~positive])
    asked = np.sort(scores[positive])  # searching for ascending values is faster
    below = np.searchsorted(negatives, asked, "left") + np.searchsorted(negatives, asked, "right")
    return float(below.sum() / (2 * num_positives * num_negatives))


def pr_auc(labels: Labels, scores: Scores) -> float:
    """Return the average precision."""
    return mean_over_classes(RankedClass.average_precision, labels, scores)


def recall_at_fpr(labels: Labels, scores: Scores, rate: float) -> float:
    """Return the highest recall with a false-positive rate of at most `rate`."""
    return mean_over_classes(lambda one: one.recall_at_rate(rate), labels, scores)


def mean_over_classes(
    measure: Callable[[RankedClass], float], labels: Labels, scores: Scores
) -> float:
    """Return the mean of a measure over the classes that are judged; NaN where one has none."""
    ranked = rank_classes(labels, scores).values()
    return float(np.mean([measure_class(one, measure) for one in ranked]))


def rank_classes(labels: Labels, scores: Scores) -> dict[int, RankedClass | None]:
    """Return the ranking of each class that is judged; None where rows of a kind are absent."""
    first = 0 if scores.ndim == 2 and scores.shape[1] > 2 else 1
    judged = one_versus_rest(labels, scores)
    return {label: RankedClass.of(*one) for label, one in enumerate(judged, start=first)}


def decide(probabilities: Scores, threshold: float | None = None) -> Labels:
    """Return the predicted class: positive from `threshold` on, else the most probable one."""
    if threshold is None:
        return np.asarray(probabilities.argmax(axis=1))
    return np.asarray(probabilities[:, 1] >= threshold, dtype=np.int64)


def shift_threshold(threshold: float, prior: float, shifted: float) -> float:
    """Return the threshold for rows whose share of positives is `shifted` instead of `prior`.

    Under such a shift the odds of a calibrated probability change by the ratio of the prior odds
    (Saerens et al. 2002, eq. 4), so cutting changed odds at the old threshold is this cut.
    """
    # As odds over odds plus the rest: no division by 1 - threshold, which may be 0.
    odds = threshold * (1 - shifted) * prior
    return odds / (odds + (1 - threshold) * (1 - prior) * shifted)


def confusion_matrix(labels: Labels, predicted: Labels, num_classes: int) -> Labels:
    """Return counts (K, K): true classes down, predicted classes across."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def class_decisions(confusion: npt.NDArray[np.number]) -> dict[str, Scores]:
    """Return precision, recall and F1 (…, K) of each class; 0 where nothing is there to divide by.

    Takes confusion matrices (…, K, K).
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, found = confusion.sum(axis=-1), confusion.sum(axis=-2)
    return {
        "precision": right / np.maximum(found, 1),
        "recall": right / np.maximum(true, 1),
        "f1": 2 * right / np.maximum(true + found, 1),
    }


def decision_metrics(confusion: npt.NDArray[np.number]) -> dict[str, Scores]:
    """Return the figures (…,) of confusion matrices (…, K, K).

    Precision, recall and F1 are those of the last of two classes, else means over the classes;
    the balanced accuracy is the mean recall of the classes that occur.
    """
    num_rows, occurs = confusion.sum(axis=(-2, -1)), confusion.sum(axis=-1) > 0
    each = class_decisions(confusion)
    with np.errstate(invalid="ignore"):  # 0 rows: NaN
        any_rows = num_rows / num_rows
        balanced = each["recall"].sum(axis=-1) / occurs.sum(axis=-1)
        hits = np.trace(confusion, axis1=-2, axis2=-1) / num_rows
    judged = slice(1, None) if confusion.shape[-1] == 2 else slice(None)
    means = {name: values[..., judged].mean(axis=-1) * any_rows for name, values in each.items()}
    return {"accuracy": hits, "balanced_accuracy": balanced, **means}


def row_losses(labels: Labels, probabilities: Scores) -> dict[str, Scores]:
    """Return each row's log-loss and squared error (N,), whose means are log-loss and Brier score.

    The Brier score of two classes is that of the positive one, 0 to 1; of more classes the sum
    over all of them, 0 to 2 (Brier 1950).
    """
    hot = labels[:, None] == np.arange(probabilities.shape[1])
    # Not a generous 1e-7: that would forgive a model that is sure and wrong.
    true = np.clip(probabilities[hot], np.finfo(np.float64).tiny, None)
    squared = ((probabilities - hot) ** 2).sum(axis=1)
    return {
        "log_loss": -np.log(true),
        "brier": squared / 2 if probabilities.shape[1] == 2 else squared,
    }


def calibration_bins(
    labels: Labels, probabilities: Scores, num_bins: int = NUM_BINS
) -> tuple[Labels, Scores, Scores]:
    """Return number of rows, mean probability and share that came true of bins of equal mass.

    Of two classes the positive one's probability is looked at, of more that of the most probable
    one. Equal probabilities share a bin, so there may be fewer bins than asked for.
    """
    if probabilities.shape[1] == 2:
        score, true = probabilities[:, 1], labels == 1
    else:
        score, true = probabilities.max(axis=1), labels == probabilities.argmax(axis=1)
    # Edges are scores: equal scores share a bin, or the order of rows would decide on the error.
    edges = np.unique(np.sort(score)[np.arange(1, num_bins) * len(score) // num_bins])
    bins = np.searchsorted(edges, score, side="right")
    counts = np.bincount(bins)
    kept = counts > 0
    predicted = np.bincount(bins, score)[kept] / counts[kept]
    observed = np.bincount(bins, true)[kept] / counts[kept]
    return counts[kept], predicted, observed


def expected_calibration_error(labels: Labels, probabilities: Scores) -> float:
    """Return the mean distance of probability and share over the rows' bins of equal mass."""
    if not len(labels):
        return float("nan")
    counts, predicted, observed = calibration_bins(labels, probabilities)
    return float(np.average(np.abs(predicted - observed), weights=counts))
