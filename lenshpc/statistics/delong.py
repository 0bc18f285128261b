"""Compare correlated AUCs: DeLong's test on paired rows, Holm's correction over all pairs.

DeLong, DeLong & Clarke-Pearson 1988; by midranks after Sun & Xu 2014. Each row has an influence on
the AUC, its placement value over the number of rows of its kind. Their scatter within strata is the
variance: for two classes without groups exactly DeLong's, and in the same way that of a mean AUC
over classes, or of groups of rows that are not independent (Obuchowski 1997).
Shapes: M models, N rows, K classes.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from lenshpc.statistics import metrics
from lenshpc.statistics.bootstrap import Resamples, interval, stratify
from lenshpc.statistics.results import AucComparison, Floats, Labels
from lenshpc.statistics.scores import cover, draw_aucs


def influence(labels: Labels, probabilities: metrics.Scores) -> Floats:
    """Return each row's influence (N,) on the AUC; they add up to 0."""
    judged = metrics.one_versus_rest(labels, probabilities)
    return np.asarray(np.mean([_class_influence(*one) for one in judged], axis=0))


def _class_influence(positive: metrics.Flags, scores: metrics.Scores) -> Floats:
    from scipy.stats import rankdata

    num_positives, num_negatives = positive.sum(), (~positive).sum()
    ranks = rankdata(scores)
    placement = np.empty(len(scores))
    placement[positive] = (ranks[positive] - rankdata(scores[positive])) / num_negatives
    placement[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / num_positives
    # One mean, the AUC, for both kinds of rows: it is that of the negatives too, so either part
    # adds up to 0.
    centred = placement - placement[positive].mean()
    return np.asarray(centred / np.where(positive, num_positives, num_negatives))


def covariance(
    labels: Labels,
    models: Sequence[metrics.Scores],
    groups: npt.NDArray[np.object_] | None = None,
) -> Floats:
    """Return the covariance (M, M) of the models' AUCs on the same rows."""
    group, strata = stratify(labels, groups)
    sums = np.array([np.bincount(group, influence(labels, values)) for values in models])
    total = np.zeros((len(models), len(models)))
    for members in strata:
        if len(members) > 1:
            total += len(members) * np.cov(sums[:, members])
    return total


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979)."""
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    # Never falling: a larger p-value must not come out smaller after the correction.
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.array(p_values)[order] * factors))
    return [float(value) for value in corrected]


def compare(
    labels: Labels,
    models: Mapping[str, metrics.Scores],
    resamples: Resamples,
    groups: npt.NDArray[np.object_] | None = None,
) -> tuple[AucComparison, ...]:
    """Return the comparison of each pair of models, on the rows that all of them cover."""
    covered = np.asarray(np.all([cover(values) for values in models.values()], axis=0))
    labels, resamples = labels[covered], resamples.of(covered)
    values = {name: found[covered] for name, found in models.items()}
    aucs = {name: metrics.roc_auc(labels, found) for name, found in values.items()}
    if len(models) < 2 or not np.isfinite(list(aucs.values())).all():
        return ()
    shared = covariance(
        labels, list(values.values()), groups if groups is None else groups[covered]
    )
    drawn = {name: draw_aucs(labels, found, resamples) for name, found in values.items()}
    pairs = list(combinations(range(len(values)), 2))
    names = list(values)
    tests = [
        _test(aucs[names[a]] - aucs[names[b]], shared[a, a] + shared[b, b] - 2 * shared[a, b])
        for a, b in pairs
    ]
    corrected = holm([p_value for *_, p_value in tests])
    found = []
    for (a, b), (difference, std, p_value), p_holm in zip(pairs, tests, corrected, strict=True):
        low, high = interval(drawn[names[a]] - drawn[names[b]])
        found.append(
            AucComparison(
                first=names[a],
                second=names[b],
                difference=difference,
                low=low,
                high=high,
                std=std,
                p_value=p_value,
                p_holm=p_holm,
            )
        )
    return tuple(found)


def _test(difference: float, variance: float) -> tuple[float, float, float]:
    """Return difference, standard error and two-sided p-value of a normal difference."""
    from scipy.stats import norm

    # A variance of nearly equal models may be below 0 by rounding.
    std = float(np.sqrt(max(variance, 0.0)))
    if std < 1e-12:  # equal orders of rows, or both without a pair in the wrong order
        return difference, 0.0, 1.0 if abs(difference) < 1e-12 else 0.0
    return difference, std, float(2 * norm.sf(abs(difference) / std))
