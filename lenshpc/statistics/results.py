"""What the evaluation of a run's predictions consists of: frozen values that the report reads.

Figures of one class are those of the last of two classes, else means over the classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 2000
LEVEL = 0.95

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Kind = Literal["model", "ensemble", "combination", "baseline"]
Intervals = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One line of the classification report: a class against the rest, as it was decided."""

    label: int
    support: int
    precision: float
    recall: float
    f1: float
    auc: float
    pr_auc: float


@dataclass(frozen=True, kw_only=True)
class ThresholdScores:
    """What follows from a threshold, or from taking the most probable class where it is None."""

    threshold: float | None
    accuracy: float
    balanced_accuracy: float
    f1: float
    precision: float
    recall: float
    confusion: tuple[tuple[int, ...], ...]
    intervals: Intervals


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures of one model on one split; NaN where the covered rows do not define one.

    `class_auc` and `num_negatives` have an entry for each class that is judged: one of two, or all.
    `tpr0` and `tpr10` (Metcalf et al. 2019) are the recall before the first and before the tenth
    false positive among `num_negatives`. `intervals` has low and high by the name of a field;
    `auc_low` and `auc_high` are its `auc`.
    """

    num_rows: int
    num_covered: int
    num_negatives: tuple[int, ...]
    auc: float
    auc_low: float
    auc_high: float
    auc_ovo: float
    class_auc: tuple[float, ...]
    pr_auc: float
    accuracy: float
    balanced_accuracy: float
    f1: float
    precision: float
    recall: float
    log_loss: float
    brier: float
    ece: float
    tpr0: float
    tpr10: float
    tpr_at_fpr_1e3: float
    tpr_at_fpr_1e4: float
    precision_at_recall_90: float
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[ClassScores, ...]
    intervals: Intervals


@dataclass(frozen=True, kw_only=True)
class Curve:
    """ROC and precision-recall points of one class against the rest, on test rows.

    The bands are pointwise percentile intervals: of the true-positive rate at `fpr_grid`, of the
    precision at `recall_grid`.
    """

    label: int
    false_positive_rate: Floats
    true_positive_rate: Floats
    recall: Floats
    precision: Floats
    fpr_grid: Floats
    tpr_low: Floats
    tpr_high: Floats
    recall_grid: Floats
    precision_low: Floats
    precision_high: Floats


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Calibration in at most 15 bins of equal mass, on test rows.

    Two classes: the positive one's probability against its share of the rows (`label` 1). More
    (`label` None): the largest probability against the share of rows where that class is right.
    `low` and `high` are Wilson's 95% interval of the share.
    """

    label: int | None
    counts: Labels
    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """The test AUC on images turned by 90°, and its change against the upright ones (paired)."""

    auc: float
    change: float
    change_low: float
    change_high: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One line of the report's table; without a threshold the most probable class is taken.

    `corrected` is the decision on test rows at the threshold moved to the declared test prior.
    """

    name: str
    kind: Kind
    threshold: float | None
    oof: Scores
    test: Scores
    corrected: ThresholdScores | None
    curves: tuple[Curve, ...]
    reliability: Reliability | None
    rotation: Rotation | None


@dataclass(frozen=True, kw_only=True)
class LineDifference:
    """The difference of two lines on the same rows, of a test AUC or another measure.

    It is the first's minus the second's. `p_value` is two-sided, of an AUC DeLong's; `p_holm` is
    corrected for all pairs that are compared with it; `low` and `high` are the percentile interval
    over resamples that both lines share, of large sets the normal one of `std`.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    std: float
    p_value: float
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class ClassificationScores:
    """All that is said of a run's predictions: the headline's name, then a line each.

    `weights` has, by a combination's line, the weight of each model that was fitted out-of-fold;
    a stacked regression has coefficients in their place.
    """

    headline: str
    evaluations: tuple[Evaluation, ...]
    comparisons: tuple[LineDifference, ...]
    weights: Mapping[str, Mapping[str, float]]
    test_prior: float | None
    oof_prior: float | None
    notes: tuple[str, ...]
