"""What a verdict rests on, from rows: paired differences from baselines, and a figure a fold.

Shapes: N rows, K classes.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lenshpc.report.verdict import Estimate
from lenshpc.run.predictions import ENSEMBLE
from lenshpc.statistics.delong import covariance, measure_lines
from lenshpc.statistics.measures import RowMeasure
from lenshpc.statistics.results import Floats, Labels, Rotation

Groups = npt.NDArray[np.object_] | None


class JudgedAuc(Protocol):
    """The AUC of some rows, with its interval."""

    @property
    def auc(self) -> float:
        """Return the AUC."""

    @property
    def auc_low(self) -> float:
        """Return the lower end."""

    @property
    def auc_high(self) -> float:
        """Return the upper end."""


def name_subject(line: str) -> str:
    """Return how a sentence calls a line of the table."""
    return "the ensemble" if line == ENSEMBLE else line


def estimate_auc(found: JudgedAuc) -> Estimate:
    """Return an AUC with its interval."""
    return Estimate(value=found.auc, low=found.auc_low, high=found.auc_high)


def estimate_turn(turn: Rotation | None) -> Estimate | None:
    """Return the change of an AUC on turned images, if these were judged."""
    if turn is None:
        return None
    return Estimate(value=turn.change, low=turn.change_low, high=turn.change_high)


def find_gaps(
    labels: Labels,
    head: Floats,
    baselines: Mapping[str, Floats],
    groups: Groups,
    measure: RowMeasure,
) -> tuple[Estimate, ...]:
    """Return how much better the headline is than each baseline, on the rows that both cover.

    Values are (N,) or (N, K). The interval is normal, of the paired difference's standard error:
    of an AUC that of DeLong et al. (1988).
    """
    return tuple(
        _find_gap(labels, {"": head, name: values}, groups, measure)
        for name, values in baselines.items()
    )


def _find_gap(
    labels: Labels, pair: Mapping[str, Floats], groups: Groups, measure: RowMeasure
) -> Estimate:
    head, name = pair
    found = measure_lines(labels, pair, None, groups, measure)
    if found is None:
        return Estimate.of(float("nan"), float("nan"), name)
    [one] = found.compare([(head, name)])
    return Estimate.of(measure.best * one.difference, one.std, name)


def measure_folds(
    folds: npt.NDArray[np.integer],
    labels: Labels,
    values: Floats,
    groups: Groups,
    measure: RowMeasure,
) -> tuple[Estimate, ...]:
    """Return the measure of each fold's rows, with its standard error; NaN where undefined."""
    covered = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    parts = [covered & (folds == fold) for fold in np.unique(folds[covered])]
    return tuple(_measure_part(part, labels, values, groups, measure) for part in parts)


def _measure_part(
    part: npt.NDArray[np.bool_],
    labels: Labels,
    values: Floats,
    groups: Groups,
    measure: RowMeasure,
) -> Estimate:
    found = measure.find(labels[part], values[part])
    if not np.isfinite(found):
        return Estimate.of(found, found)
    some = None if groups is None else groups[part]
    variance = covariance(labels[part], [values[part]], some, measure)[0, 0]
    return Estimate.of(found, float(np.sqrt(max(variance, 0.0))))
