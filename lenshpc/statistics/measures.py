"""Measures by which lines are compared: a value of some rows, each row's influence, resamples.

The influences of all rows add up to 0; their scatter within strata is the variance of the value.
Shapes: M lines, N rows, K classes, B resamples.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lenshpc.statistics import metrics
from lenshpc.statistics.influence import influence_mean_auc
from lenshpc.statistics.resamples import Resamples
from lenshpc.statistics.results import Floats, Labels
from lenshpc.statistics.scores import draw_aucs

# Of each kind of rows, positive and others: beyond, an AUC's second-order term is below 0.1 % of
# its variance, and one product of matrices draws what takes seconds to count.
MANY_ROWS = 2000


@dataclass(frozen=True, kw_only=True)
class RowMeasure(ABC):
    """What a line is judged by; `best` is 1 where the largest value is best, -1 the smallest."""

    name: str
    best: int = 1
    test: str = "z-test of paired rows"  # where its p-values come from

    @abstractmethod
    def find(self, labels: Labels, values: Floats) -> float:
        """Return the value; NaN where the rows do not define one."""

    @abstractmethod
    def influence(self, labels: Labels, values: Floats) -> Floats:
        """Return each row's influence (N,)."""

    @abstractmethod
    def draw(self, labels: Labels, lines: Sequence[Floats], resamples: Resamples) -> Floats:
        """Return the value of each line in each resample (M, B)."""


class MeanMeasure(RowMeasure):
    """The mean of a number a row, (N,)."""

    def find(self, labels: Labels, values: Floats) -> float:
        """Return the mean."""
        del labels
        return float(values.mean(dtype=np.float64)) if len(values) else float("nan")

    def influence(self, labels: Labels, values: Floats) -> Floats:
        """Return the distance of each row from the mean, over the number of rows."""
        del labels
        return np.asarray((values - values.mean(dtype=np.float64)) / len(values), np.float64)

    def draw(self, labels: Labels, lines: Sequence[Floats], resamples: Resamples) -> Floats:
        """Return the means over the rows of each resample."""
        sums = resamples.sum_values(np.stack([*lines, np.ones(len(labels))], axis=1)).T
        return np.asarray(sums[:-1] / sums[-1])


@dataclass(frozen=True, kw_only=True)
class AucMeasure(RowMeasure):
    """The area under the ROC curve of probabilities or scores (N, K).

    Of three and more classes it is the mean over the classes, each against the rest.
    """

    name: str = "AUC"
    test: str = "DeLong"

    def find(self, labels: Labels, values: Floats) -> float:
        """Return the area."""
        return metrics.roc_auc(labels, values)

    def influence(self, labels: Labels, values: Floats) -> Floats:
        """Return each row's placement value over the number of rows of its kind."""
        return influence_mean_auc(labels, values)

    def draw(self, labels: Labels, lines: Sequence[Floats], resamples: Resamples) -> Floats:
        """Return the area of each resample; of many rows to the first order in their weights."""
        kinds = [positive for positive, _ in metrics.one_versus_rest(labels, lines[0])]
        if min(min(one.sum(), (~one).sum()) for one in kinds) < MANY_ROWS:
            return np.stack([draw_aucs(labels, values, resamples) for values in lines])
        moved = np.stack([self.influence(labels, values) for values in lines], axis=1)
        found = np.array([self.find(labels, values) for values in lines])
        return found[:, None] + resamples.sum_values(moved).T


AUC = AucMeasure()


@dataclass(frozen=True, kw_only=True, eq=False)
class RowValues:
    """What a task says of each row for a comparison with other runs.

    `rows` has row, id, label, split (`oof` or `test`) and, where there are any, group; `label` is
    what an AUC asks for, and rows are drawn within. `values` has, by line, an array a measure, (N,)
    or (N, K), in the order of `measures`, of which the first is the headline's. `parts` has the
    models that each line is made of.
    """

    rows: pd.DataFrame
    measures: tuple[RowMeasure, ...]
    headline: str
    values: Mapping[str, tuple[Floats, ...]]
    parts: Mapping[str, tuple[str, ...]]
