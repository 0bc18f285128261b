"""Whole-set metrics of a classification, from labels and class probabilities.

Shapes: N rows, K classes, B bootstrap resamples. Scores are the probabilities (N, K), or one score
a row (N,) of which the larger speaks for class 1. Two classes are judged by the last, the positive
one; three and more by the mean over classes of one versus the rest. What the rows at hand do not
define, such as an AUC without a positive row, is NaN.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer]
Scores = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]

CHUNK_VALUES = 2_000_000  # weights held at a time: 16 MB


def one_versus_rest(labels: Labels, scores: Scores) -> list[tuple[Flags, Scores]]:
    """Return a pair (is positive, score) for each class that is judged."""
    if scores.ndim == 1:
        return [(labels == 1, scores)]
    num_classes = scores.shape[1]
    judged = (1,) if num_classes == 2 else range(num_classes)
    return [(labels == label, scores[:, label]) for label in judged]


def class_auc(labels: Labels, scores: Scores) -> list[float]:
    """Return the area under the ROC curve of each class that is judged."""
    from sklearn.metrics import roc_auc_score

    return _each_class(roc_auc_score, labels, scores)


def roc_auc(labels: Labels, scores: Scores) -> float:
    """Return the area under the ROC curve."""
    return float(np.mean(class_auc(labels, scores)))


def pr_auc(labels: Labels, scores: Scores) -> float:
    """Return the average precision."""
    from sklearn.metrics import average_precision_score

    return float(np.mean(_each_class(average_precision_score, labels, scores)))


def _each_class(
    measure: Callable[[Flags, Scores], float], labels: Labels, scores: Scores
) -> list[float]:
    return [
        float(measure(positive, score)) if 0 < positive.sum() < len(positive) else float("nan")
        for positive, score in one_versus_rest(labels, scores)
    ]


def decide(probabilities: Scores, threshold: float | None = None) -> Labels:
    """Return the predicted class: positive from `threshold` on, else the most probable one."""
    if threshold is None:
        return np.asarray(probabilities.argmax(axis=1))
    return np.asarray(probabilities[:, 1] >= threshold, dtype=np.int64)


def best_f1_threshold(labels: Labels, scores: Scores) -> float:
    """Return the threshold of largest F1, half-way to the next lower score; the lowest if tied."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, cuts = precision_recall_curve(labels == 1, scores)
    total = precision[:-1] + recall[:-1]
    f1 = 2 * precision[:-1] * recall[:-1] / np.where(total > 0, total, 1)
    best = int(f1.argmax())
    lower, cut = float(cuts[max(best - 1, 0)]), float(cuts[best])
    middle = (lower + cut) / 2
    return middle if middle > lower else cut


def precision_recall_f1(
    labels: Labels, predicted: Labels, num_classes: int
) -> tuple[float, float, float]:
    """Return precision, recall and F1: of the positive class, or the means over classes."""
    from sklearn.metrics import precision_recall_fscore_support

    if not len(labels):
        return float("nan"), float("nan"), float("nan")
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(num_classes), zero_division=0
    )[:3]
    values = [column[1] if num_classes == 2 else column.mean() for column in columns]
    return float(values[0]), float(values[1]), float(values[2])


def accuracy(labels: Labels, predicted: Labels) -> float:
    """Return the share of rows whose class is predicted."""
    return float(np.mean(labels == predicted)) if len(labels) else float("nan")


def log_loss(labels: Labels, probabilities: Scores) -> float:
    """Return the mean negative log-probability of the true class."""
    if not len(labels):
        return float("nan")
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(true, np.finfo(np.float64).tiny, None)).mean())


def confusion_matrix(labels: Labels, predicted: Labels, num_classes: int) -> Labels:
    """Return counts (K, K): true classes down, predicted classes across."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def classification_metrics(labels: Labels, probabilities: Scores) -> dict[str, float]:
    """Return the metrics that need no threshold; F1 is that of the most probable class."""
    predicted = decide(probabilities)
    return {
        "auc": roc_auc(labels, probabilities),
        "pr_auc": pr_auc(labels, probabilities),
        "accuracy": accuracy(labels, predicted),
        "f1": precision_recall_f1(labels, predicted, probabilities.shape[1])[2],
        "log_loss": log_loss(labels, probabilities),
    }


def weighted_auc(positive: Flags, scores: Scores, weights: Scores) -> Scores:
    """Return the AUC (B,) under each line of row weights (B, N).

    The weighted Mann-Whitney statistic: the weight of negatives below each positive, ties counted
    half, over the weight of all pairs.
    """
    order = np.argsort(scores[~positive], kind="stable")
    negatives = scores[~positive][order]
    below = np.zeros((len(weights), len(negatives) + 1))
    np.cumsum(weights[:, ~positive][:, order], axis=1, out=below[:, 1:])
    left = np.searchsorted(negatives, scores[positive], side="left")
    right = np.searchsorted(negatives, scores[positive], side="right")
    weight = weights[:, positive]
    won = (weight * (below[:, left] + below[:, right])).sum(axis=1) / 2
    return np.asarray(won / (weight.sum(axis=1) * below[:, -1]))


def bootstrap_auc(
    labels: Labels, scores: Scores, *, num_resamples: int = 2000, seed: int = 0
) -> Scores:
    """Return the AUC (B,) of resamples of the rows, drawn within each class."""
    targets = one_versus_rest(labels, scores)
    draws = [
        np.mean([weighted_auc(positive, score, weights) for positive, score in targets], axis=0)
        for weights in _stratified_weights(labels, num_resamples, seed)
    ]
    return np.concatenate(draws)


def bootstrap_auc_interval(
    labels: Labels,
    scores: Scores,
    *,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of the AUC over stratified resamples of the rows."""
    if np.isnan(roc_auc(labels, scores)):
        return float("nan"), float("nan")
    values = bootstrap_auc(labels, scores, num_resamples=num_resamples, seed=seed)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _stratified_weights(labels: Labels, num_resamples: int, seed: int) -> Iterator[Scores]:
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_VALUES // len(labels))
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        weights = np.empty((size, len(labels)))
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            weights[:, rows] = _resample_counts(len(rows), size, rng)
        yield weights


def _resample_counts(num_rows: int, num_resamples: int, rng: np.random.Generator) -> Labels:
    """Return how often each row is drawn, (B, N): `num_rows` draws with replacement a line."""
    draws = rng.integers(num_rows, size=(num_resamples, num_rows))
    draws += np.arange(num_resamples)[:, None] * num_rows
    counts = np.bincount(draws.ravel(), minlength=num_resamples * num_rows)
    return counts.reshape(num_resamples, num_rows)
