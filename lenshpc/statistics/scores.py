"""Judge merged predictions: thresholds from out-of-fold rows, the test rows touched once.

Shapes: N rows, K classes, B resamples.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.statistics import metrics
from lenshpc.statistics.bootstrap import LARGE_ROWS, draw, find_notes, interval
from lenshpc.statistics.influence import influence_mean_auc, normal_interval, sum_scatter
from lenshpc.statistics.ranking import RankedClass, measure_class
from lenshpc.statistics.resamples import FEW_FALSE, Resamples
from lenshpc.statistics.results import (
    NUM_RESAMPLES,
    ClassScores,
    Curve,
    Evaluation,
    Floats,
    Intervals,
    Kind,
    Labels,
    Reliability,
    Rotation,
    Scores,
    ThresholdScores,
)

MAX_POINTS = 500  # of a curve that is drawn
FPR_GRID = np.concatenate([[0.0], np.geomspace(1e-4, 0.1, 61), np.linspace(0.12, 1, 45)])
RECALL_GRID = np.linspace(0.01, 1, 100)


def draw_splits(rows: pd.DataFrame, *, seed: int = 0) -> dict[str, Resamples]:
    """Return the resamples of the out-of-fold and of the test rows, whole groups where they have.

    One drawing serves all lines of the table, so that their differences are paired.
    """
    found = {}
    for split in ("oof", "test"):
        some = rows[rows["split"] == split]
        labels = some["label"].to_numpy()
        found[split] = draw(labels, find_groups(some), num_resamples=NUM_RESAMPLES, seed=seed)
    return found


def note_resamples(rows: pd.DataFrame) -> list[str]:
    """Return how the rows of large splits are resampled."""
    splits = [some for _, some in rows.groupby("split")]
    return find_notes(map(find_groups, splits), map(len, splits))


def find_groups(rows: pd.DataFrame) -> npt.NDArray[np.object_] | None:
    """Return the rows' groups (N,); None where there are none, or a large set has one a row."""
    if "group" not in rows or (len(rows) > LARGE_ROWS and rows["group"].is_unique):
        return None
    return rows["group"].to_numpy(object)


def score_model(
    name: str,
    rows: pd.DataFrame,
    probabilities: Floats,
    resamples: Mapping[str, Resamples],
    *,
    kind: Kind = "model",
    test_prior: float | None = None,
    turned: Floats | None = None,
) -> Evaluation:
    """Return the evaluation of merged probabilities (N, K) of `rows`.

    `test_prior` is the share of positives that is declared for test rows; `turned` has the
    probabilities of the same images turned by 90°.
    """
    labels = rows["label"].to_numpy()
    out = (rows["split"] == "oof").to_numpy()
    testing = labels[~out], probabilities[~out], resamples["test"]
    # First, and from out-of-fold rows alone. What is below may only read it: a threshold that has
    # seen test rows makes every test figure too good.
    threshold = choose_threshold(labels[out], probabilities[out])
    corrected = None
    if threshold is not None and test_prior is not None:
        prior = oof_prior(labels[out], probabilities[out])
        # By the share that was declared, never by one counted in the test labels.
        corrected = metrics.shift_threshold(threshold, prior, test_prior)
    return Evaluation(
        name=name,
        kind=kind,
        threshold=threshold,
        oof=score(labels[out], probabilities[out], resamples["oof"], threshold),
        test=score(*testing, threshold),
        corrected=None if corrected is None else decide(*_select_covered(*testing), corrected),
        curves=curves(*testing),
        reliability=reliability(labels[~out], probabilities[~out]),
        rotation=None if turned is None else rotation(*testing, turned[~out]),
    )


def choose_threshold(labels: Labels, probabilities: Floats) -> float | None:
    """Return the threshold of largest F1 on out-of-fold rows; None for three and more classes."""
    covered = cover(probabilities)
    if probabilities.shape[1] != 2 or len(np.unique(labels[covered])) < 2:
        return None
    return RankedClass(labels[covered] == 1, probabilities[covered, 1]).best_f1_threshold()


def oof_prior(labels: Labels, probabilities: Floats) -> float:
    """Return the share of positives among the rows that the threshold was chosen on."""
    return float(np.mean(labels[cover(probabilities)] == 1))


def cover(probabilities: Floats) -> npt.NDArray[np.bool_]:
    """Return which rows (N,) of values (N,) or (N, K) have one."""
    return np.asarray(np.isfinite(probabilities.reshape(len(probabilities), -1)).all(axis=1))


def _select_covered(
    labels: Labels, probabilities: Floats, resamples: Resamples
) -> tuple[Labels, Floats, Resamples]:
    covered = cover(probabilities)
    if covered.all():  # as nearly always: no copies
        return labels, probabilities, resamples
    return labels[covered], probabilities[covered], resamples.of(covered)


def score(
    labels: Labels, probabilities: Floats, resamples: Resamples, threshold: float | None
) -> Scores:
    """Return the figures of the rows that are covered."""
    num_rows = len(labels)
    labels, probabilities, resamples = _select_covered(labels, probabilities, resamples)
    decision = decide(labels, probabilities, resamples, threshold)
    losses = metrics.row_losses(labels, probabilities)
    ranked = _rank_columns(labels, probabilities)
    classes = class_report(ranked, decision)
    first, num_classes = (1, 2) if len(ranked) == 2 else (0, len(ranked))
    judged = ranked[first:]
    del ranked  # of a large set the first of two classes holds memory that nothing else needs
    intervals = {
        **_ranking_intervals(judged, resamples),
        **decision.intervals,
        **_loss_intervals(losses, resamples),
    }
    low, high = intervals["auc"]
    class_auc = [measure_class(one, RankedClass.auc) for one in judged]

    def mean(measure: Callable[[RankedClass], float]) -> float:
        return float(np.mean([measure_class(one, measure) for one in judged]))

    return Scores(
        num_rows=num_rows,
        num_covered=len(labels),
        num_negatives=tuple(int((labels != label).sum()) for label in range(first, num_classes)),
        auc=float(np.mean(class_auc)),
        auc_low=low,
        auc_high=high,
        auc_ovo=class_auc[0] if len(judged) == 1 else metrics.ovo_auc(labels, probabilities),
        class_auc=tuple(class_auc),
        pr_auc=mean(RankedClass.average_precision),
        ece=metrics.expected_calibration_error(labels, probabilities),
        tpr0=mean(lambda one: one.recall_within(0)),
        tpr10=mean(lambda one: one.recall_within(FEW_FALSE)),
        tpr_at_fpr_1e3=mean(lambda one: one.recall_at_rate(1e-3)),
        tpr_at_fpr_1e4=mean(lambda one: one.recall_at_rate(1e-4)),
        precision_at_recall_90=mean(lambda one: one.precision_at(0.9)),
        classes=classes,
        log_loss=_mean(losses["log_loss"]),
        brier=_mean(losses["brier"]),
        accuracy=decision.accuracy,
        balanced_accuracy=decision.balanced_accuracy,
        f1=decision.f1,
        precision=decision.precision,
        recall=decision.recall,
        confusion=decision.confusion,
        intervals=intervals,
    )


def decide(
    labels: Labels, probabilities: Floats, resamples: Resamples, threshold: float | None
) -> ThresholdScores:
    """Return what follows from a threshold, with percentile intervals."""
    num_classes = probabilities.shape[1]
    predicted = metrics.decide(probabilities, threshold)
    cells = labels * num_classes + predicted
    drawn = resamples.count_cells(cells, num_classes**2).reshape(-1, num_classes, num_classes)
    confusion = metrics.confusion_matrix(labels, predicted, num_classes)
    return ThresholdScores(
        threshold=threshold,
        **{name: float(value) for name, value in metrics.decision_metrics(confusion).items()},
        confusion=tuple(tuple(int(count) for count in line) for line in confusion),
        intervals={
            name: interval(values) for name, values in metrics.decision_metrics(drawn).items()
        },
    )


def _rank_columns(labels: Labels, probabilities: Floats) -> list[RankedClass | None]:
    """Return the ranking of each class by its probability; None where rows of a kind are absent."""
    return [RankedClass.of(labels == label, scores) for label, scores in enumerate(probabilities.T)]


def class_report(
    ranked: Sequence[RankedClass | None], decision: ThresholdScores
) -> tuple[ClassScores, ...]:
    """Return a line for each class against the rest; the negative one of two is among them."""
    confusion = np.array(decision.confusion)
    each = metrics.class_decisions(confusion)
    return tuple(
        ClassScores(
            label=label,
            support=int(confusion[label].sum()),
            auc=measure_class(ranked[label], RankedClass.auc),
            pr_auc=measure_class(ranked[label], RankedClass.average_precision),
            **{name: float(values[label]) for name, values in each.items()},
        )
        for label in range(len(confusion))
    )


def _mean(values: npt.NDArray[np.floating]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _loss_intervals(losses: Mapping[str, Floats], resamples: Resamples) -> Intervals:
    first = next(iter(losses.values()))
    sums = resamples.sum_values(np.stack([*losses.values(), np.ones(len(first))], axis=1))
    drawn = sums[sums[:, -1] > 0]
    return {name: interval(drawn[:, at] / drawn[:, -1]) for at, name in enumerate(losses)}


def _ranking_intervals(judged: Sequence[RankedClass | None], resamples: Resamples) -> Intervals:
    """Return intervals of what needs no threshold; TPR0 has none, as no resample beats the rows."""
    names = ("auc", "pr_auc", "tpr10", "tpr_at_fpr_1e3")
    there = [one for one in judged if one is not None]
    if len(there) < len(judged):
        return dict.fromkeys(names, (float("nan"), float("nan")))
    return dict(zip(names, map(interval, resamples.draw_rankings(there)), strict=True))


def draw_aucs(labels: Labels, probabilities: Floats, resamples: Resamples) -> Floats:
    """Return the AUC (B,) of each resample of covered rows."""
    judged = metrics.rank_classes(labels, probabilities).values()
    there = [one for one in judged if one is not None]
    return resamples.draw_aucs(there) if len(there) == len(judged) else np.full(1, np.nan)


def rotation(
    labels: Labels, probabilities: Floats, resamples: Resamples, turned: Floats
) -> Rotation:
    """Return the AUC of images turned by 90° and its change, on rows that both cover."""
    # On the same rows and resamples, or the change would hold the difference of the rows.
    both = cover(probabilities) & cover(turned)
    labels, resamples = labels[both], resamples.of(both)
    upright, now = probabilities[both], turned[both]
    auc = metrics.roc_auc(labels, now)
    change = auc - metrics.roc_auc(labels, upright)
    low, high = _change_interval(labels, upright, now, resamples, change)
    return Rotation(auc=auc, change=change, change_low=low, change_high=high)


def _change_interval(
    labels: Labels, upright: Floats, now: Floats, resamples: Resamples, change: float
) -> tuple[float, float]:
    """Return the interval of a change of AUC between probabilities of the same rows."""
    if not np.isfinite(change):
        return float("nan"), float("nan")
    if resamples.counted and len(labels) <= LARGE_ROWS:
        return interval(draw_aucs(labels, now, resamples) - draw_aucs(labels, upright, resamples))
    # To first order: beside so small a change, the bins that areas of large sets rest on are wide.
    moved = influence_mean_auc(labels, now) - influence_mean_auc(labels, upright)
    if resamples.counted:
        return interval(change + resamples.sum_values(moved[:, None])[:, 0])
    strata = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return normal_interval(change, float(sum_scatter([moved], strata)[0, 0]))


def curves(labels: Labels, probabilities: Floats, resamples: Resamples) -> tuple[Curve, ...]:
    """Return the curves of each judged class that has rows of both kinds, with bands."""
    labels, probabilities, resamples = _select_covered(labels, probabilities, resamples)
    judged = metrics.rank_classes(labels, probabilities)
    return tuple(_curve(label, one, resamples) for label, one in judged.items() if one is not None)


def _curve(label: int, ranked: RankedClass, resamples: Resamples) -> Curve:
    false, true = ranked.roc_curve()
    precision, recall = ranked.precision_recall_curve()
    drawn = resamples.draw_bands(ranked, FPR_GRID, RECALL_GRID)
    rates, precisions = map(_band, drawn)
    return Curve(
        label=label,
        false_positive_rate=_thin(false),
        true_positive_rate=_thin(true),
        recall=_thin(recall),
        precision=_thin(precision),
        fpr_grid=FPR_GRID,
        tpr_low=rates[0],
        tpr_high=rates[1],
        recall_grid=RECALL_GRID,
        precision_low=precisions[0],
        precision_high=precisions[1],
    )


def _band(drawn: Floats) -> Floats:
    """Return the pointwise percentile intervals (2, M) of draws (B, M)."""
    return np.array([interval(column) for column in drawn.T]).T


def _thin(values: Floats) -> Floats:
    if len(values) <= MAX_POINTS:
        return values
    return np.asarray(values[np.linspace(0, len(values) - 1, MAX_POINTS).round().astype(int)])


def reliability(labels: Labels, probabilities: Floats) -> Reliability | None:
    """Return the calibration of the rows that are covered; None if there are none."""
    from scipy.stats import binomtest

    covered = cover(probabilities)
    labels, probabilities = labels[covered], probabilities[covered]
    if not len(labels):
        return None
    counts, predicted, observed = metrics.calibration_bins(labels, probabilities)
    bounds = [
        binomtest(round(share * count), int(count)).proportion_ci(method="wilson")
        for count, share in zip(counts, observed, strict=True)
    ]
    return Reliability(
        label=1 if probabilities.shape[1] == 2 else None,
        counts=counts,
        predicted=predicted,
        observed=observed,
        low=np.array([low for low, _ in bounds]),
        high=np.array([high for _, high in bounds]),
    )


def find_mistakes(
    rows: pd.DataFrame, probabilities: Floats, threshold: float | None, num_shown: int = 20
) -> pd.DataFrame:
    """Return the test rows decided wrongly, the least probable true class first.

    Columns: row, id, label, predicted, p_true (of the true class), p_predicted.
    """
    covered = cover(probabilities)
    asked = covered & (rows["split"] == "test").to_numpy()
    found, values = rows[asked], probabilities[asked]
    labels, predicted = found["label"].to_numpy(), metrics.decide(values, threshold)
    at = np.arange(len(found))
    table = found[["row", "id", "label"]].assign(
        predicted=predicted, p_true=values[at, labels], p_predicted=values[at, predicted]
    )
    # By row where probabilities are equal, so that a report comes out the same again.
    wrong: pd.DataFrame = table[labels != predicted].sort_values(["p_true", "row"])
    return wrong.head(num_shown).reset_index(drop=True)
