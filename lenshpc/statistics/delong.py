"""Compare lines on the same rows: DeLong's test of AUCs, Holm's correction over all pairs.

DeLong, DeLong & Clarke-Pearson 1988; by midranks after Sun & Xu 2014. Each row has an influence on
the AUC, its placement value over the number of rows of its kind. Their scatter within strata is the
variance: for two classes without groups exactly DeLong's, and in the same way that of a mean AUC
over classes, of groups of rows that are not independent (Obuchowski 1997), or of any other measure.
Shapes: M models, N rows, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from lenshpc.statistics import metrics
from lenshpc.statistics.bootstrap import interval, is_grouped, stratify
from lenshpc.statistics.influence import normal_interval, sum_scatter
from lenshpc.statistics.measures import AUC, RowMeasure
from lenshpc.statistics.resamples import Resamples
from lenshpc.statistics.results import Floats, Labels, LineDifference
from lenshpc.statistics.scores import cover


def covariance(
    labels: Labels,
    models: Sequence[metrics.Scores],
    groups: npt.NDArray[np.object_] | None = None,
    measure: RowMeasure = AUC,
) -> Floats:
    """Return the covariance (M, M) of the models' values of a measure on the same rows."""
    group, strata = stratify(labels, groups if is_grouped(groups) else None)
    influences = (measure.influence(labels, one) for one in models)
    return sum_scatter([np.bincount(group, one) for one in influences], strata)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979)."""
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    # Never falling: a larger p-value must not come out smaller after the correction.
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.array(p_values)[order] * factors))
    return [float(value) for value in corrected]


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredLines:
    """Lines that were measured on the same rows: `found` and, by name, the draws (B,) of each.

    `covariance` is (M, M), in the order of `found`. Without draws, intervals are NaN, or normal
    ones of that covariance where they are `normal`.
    """

    found: Mapping[str, float]
    drawn: Mapping[str, Floats]
    covariance: Floats
    normal: bool = False

    def interval(self, name: str) -> tuple[float, float]:
        """Return the interval of a line."""
        if self.normal:
            at = [*self.found].index(name)
            return normal_interval(self.found[name], self.covariance[at, at])
        return interval(self.drawn.get(name, np.empty(0)))

    def compare(self, pairs: Sequence[tuple[str, str]]) -> tuple[LineDifference, ...]:
        """Return the comparison of some pairs, corrected for their number."""
        tests = [_test(self.found[a] - self.found[b], self._variance(a, b)) for a, b in pairs]
        corrected = holm([p_value for *_, p_value in tests])
        return tuple(
            LineDifference(
                first=first,
                second=second,
                difference=difference,
                low=low,
                high=high,
                std=std,
                p_value=p_value,
                p_holm=p_holm,
            )
            for (first, second), (difference, std, p_value), p_holm, (low, high) in zip(
                pairs, tests, corrected, [self._interval(*pair) for pair in pairs], strict=True
            )
        )

    def _interval(self, first: str, second: str) -> tuple[float, float]:
        if self.normal:
            difference = self.found[first] - self.found[second]
            return normal_interval(difference, self._variance(first, second))
        return interval(self.drawn[first] - self.drawn[second] if self.drawn else np.empty(0))

    def _variance(self, first: str, second: str) -> float:
        names = list(self.found)
        a, b, shared = names.index(first), names.index(second), self.covariance
        return float(shared[a, a] + shared[b, b] - 2 * shared[a, b])


def measure_lines(
    labels: Labels,
    models: Mapping[str, metrics.Scores],
    resamples: Resamples | None,
    groups: npt.NDArray[np.object_] | None = None,
    measure: RowMeasure = AUC,
) -> MeasuredLines | None:
    """Return what lines have on the rows that all cover; None where the rows do not define it."""
    covered = np.asarray(np.all([cover(values) for values in models.values()], axis=0))
    labels, values = labels[covered], {name: found[covered] for name, found in models.items()}
    found = {name: measure.find(labels, one) for name, one in values.items()}
    if not np.isfinite(list(found.values())).all():
        return None
    some = groups if groups is None else groups[covered]
    drawn: Sequence[Floats] | Floats = ()
    if resamples is not None and resamples.counted:
        drawn = measure.draw(labels, [*values.values()], resamples.of(covered))
    return MeasuredLines(
        found=found,
        drawn=dict(zip(values, drawn, strict=False)),
        covariance=covariance(labels, list(values.values()), some, measure),
        normal=resamples is not None and not resamples.counted,
    )


def compare(
    labels: Labels,
    models: Mapping[str, metrics.Scores],
    resamples: Resamples,
    groups: npt.NDArray[np.object_] | None = None,
) -> tuple[LineDifference, ...]:
    """Return the comparison of the AUC of each pair of models, on the rows that all cover."""
    measured = measure_lines(labels, models, resamples, groups) if len(models) > 1 else None
    return measured.compare(list(combinations(models, 2))) if measured else ()


def _test(difference: float, variance: float) -> tuple[float, float, float]:
    """Return difference, standard error and two-sided p-value of a normal difference."""
    from scipy.stats import norm

    # A variance of nearly equal models may be below 0 by rounding.
    std = float(np.sqrt(max(variance, 0.0)))
    if std < 1e-12:  # equal orders of rows, or both without a pair in the wrong order
        return difference, 0.0, 1.0 if abs(difference) < 1e-12 else 0.0
    return difference, std, float(2 * norm.sf(abs(difference) / std))
