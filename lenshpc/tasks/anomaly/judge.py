"""Judge merged anomaly scores; other classes are only ever looked at.

Validation is the normal rows out-of-fold with the excluded rows, training those that were learnt
with the same excluded rows; thresholds come from the normal rows out-of-fold alone. Shapes: N rows,
B resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lenshpc.errors import DataError
from lenshpc.run.predictions import ENSEMBLE
from lenshpc.run.recipe import is_variant
from lenshpc.run.results import RunResults
from lenshpc.run.stages import hash_arrays
from lenshpc.statistics import metrics
from lenshpc.statistics.bootstrap import draw, interval
from lenshpc.statistics.measures import AUC, RowValues
from lenshpc.statistics.resamples import Resamples
from lenshpc.statistics.results import NUM_RESAMPLES, Floats, Rotation
from lenshpc.statistics.scores import draw_aucs, find_groups, rotation
from lenshpc.tasks.anomaly.baselines import score_baselines
from lenshpc.tasks.anomaly.merge import PARTS, Flags, MergedScores, merge_scores
from lenshpc.tasks.anomaly.settings import Anomaly

FALSE_POSITIVE_RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class PartScores:
    """The figures of one line on one part; NaN where a class is absent.

    `wasserstein` is between the scores of both classes, in the line's scale; `false_positives` and
    `recall` are what the threshold flags of normal and of anomalous rows.
    """

    num_normal: int
    num_anomalous: int
    auc: float
    auc_low: float
    auc_high: float
    average_precision: float
    tpr_at_fpr: float
    wasserstein: float
    false_positives: float
    recall: float


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One line of the table: a model's score, the ensemble, or a baseline."""

    name: str
    kind: str
    threshold: float
    parts: Mapping[str, PartScores] = field(default_factory=dict)
    rotation: Rotation | None = None


Lines = tuple[ResultRow, ...]


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """The scores of all rows, the lines of the table, and the baselines' scores of the rows."""

    merged: MergedScores
    lines: tuple[ResultRow, ...]
    baselines: Mapping[str, Floats]


def evaluate(results: RunResults) -> RunEvaluation:
    """Return the evaluation of a run that learnt one class."""
    plan, splits = results.plan, results.splits
    with results.stages.time("merge"):
        merged = merge_scores(results.run, plan, splits, results.missing, results.stages)
    quantile = Anomaly.of(plan.recipe.method).quantile
    parts = {name: merged.part(name) for name in PARTS}
    rows = {**parts, "row": merged.rows["row"].to_numpy(), "anomalous": merged.anomalous}
    inputs = {"splits": plan.splits_hash, "rows": hash_arrays(rows)}

    def keep(values: Mapping[str, Floats], score: Callable[[], Lines]) -> Lines:
        told = {"values": hash_arrays(values), "turned": hash_arrays(merged.turned)}
        return results.stages.keep_value(
            "scores", {**inputs, **told, "quantile": quantile}, Lines, score
        )

    results.say("judging the scores")
    lines = keep(merged.values, lambda: score_models(merged, quantile=quantile))
    try:
        store = results.store
    except DataError:  # a run may outlive its store
        return RunEvaluation(merged=merged, lines=lines, baselines={})
    with results.stages.time("baselines"):
        results.say("scoring the images by baselines")
        crop = plan.recipe.data.crop
        baselines = results.stages.keep(
            "baselines",
            {**inputs, "store": plan.store_hash, "crop": crop},
            lambda: dict(score_baselines(store, splits, merged.rows, crop)),
        )
    judged = keep(baselines, lambda: score_baseline_models(merged, baselines, quantile=quantile))
    return RunEvaluation(merged=merged, lines=(*lines, *judged), baselines=baselines)


def find_threshold(merged: MergedScores, values: Floats, quantile: float) -> float:
    """Return a quantile of a line's scores (N,) of out-of-fold normal rows; NaN without any."""
    normal = values[(merged.rows["split"] == "oof").to_numpy()]
    return float(np.nanquantile(normal, quantile)) if np.isfinite(normal).any() else np.nan


def measure_rows(results: RunResults) -> RowValues:
    """Return the scores of each row, by which runs are compared; of a model its headline's."""
    plan = results.plan
    merged = merge_scores(results.run, plan, results.splits)
    asked = (merged.rows["split"] != "train").to_numpy()
    lines = dict(merged.heads) | ({ENSEMBLE: ENSEMBLE} if ENSEMBLE in merged.values else {})
    whole = tuple(name for name in merged.heads if not is_variant(name))
    testing = merged.part("test")[asked]
    return RowValues(
        rows=merged.rows[asked].assign(
            label=merged.anomalous[asked].astype(np.int64), split=np.where(testing, "test", "oof")
        ),
        measures=(AUC,),
        headline=ENSEMBLE if ENSEMBLE in lines else next(iter(lines)),
        values={name: (as_classes(merged.values[line][asked]),) for name, line in lines.items()},
        parts={name: whole if name == ENSEMBLE else (name,) for name in lines},
    )


def score_models(merged: MergedScores, *, quantile: float, seed: int = 0) -> tuple[ResultRow, ...]:
    """Return a line for each score, the headlines first; all on the same resamples."""
    resamples = {name: _resamples(merged, name, seed) for name in PARTS}
    first = [name for name in (ENSEMBLE, *merged.heads.values()) if name in merged.values]
    names = [*first, *(name for name in merged.values if name not in first)]
    return tuple(
        _line(
            name,
            "ensemble" if name == ENSEMBLE else "model" if name in first else "score",
            merged,
            merged.values[name],
            resamples,
            quantile=quantile,
            turned=merged.turned[name],
        )
        for name in names
    )


def score_baseline_models(
    merged: MergedScores, scores: Mapping[str, Floats], *, quantile: float, seed: int = 0
) -> tuple[ResultRow, ...]:
    """Return a line for each baseline, whose scores (N,) are of the merged rows."""
    resamples = {name: _resamples(merged, name, seed) for name in ("validation", "test")}
    return tuple(
        _line(name, "baseline", merged, values, resamples, quantile=quantile)
        for name, values in scores.items()
    )


def _resamples(merged: MergedScores, part: str, seed: int) -> Resamples:
    some = merged.rows[merged.part(part)]
    labels = merged.anomalous[merged.part(part)].astype(np.int64)
    return draw(labels, find_groups(some), num_resamples=NUM_RESAMPLES, seed=seed)


def _line(
    name: str,
    kind: str,
    merged: MergedScores,
    values: Floats,
    resamples: Mapping[str, Resamples],
    *,
    quantile: float,
    turned: Floats | None = None,
) -> ResultRow:
    # Before any other row is looked at, and never moved afterwards.
    threshold = find_threshold(merged, values, quantile)
    parts = {
        part: part_scores(
            merged.anomalous[merged.part(part)], values[merged.part(part)], some, threshold
        )
        for part, some in resamples.items()
    }
    test = merged.part("test")
    rotated = None
    if turned is not None:
        flags, drawn = merged.anomalous[test], resamples["test"]
        rotated = score_rotation(flags, values[test], turned[test], drawn)
    return ResultRow(name=name, kind=kind, threshold=threshold, parts=parts, rotation=rotated)


def part_scores(
    anomalous: Flags, values: Floats, resamples: Resamples, threshold: float
) -> PartScores:
    """Return the figures of scores (N,), of the rows that have one."""
    from scipy.stats import wasserstein_distance

    there = np.isfinite(values)
    anomalous, values, resamples = anomalous[there], values[there], resamples.of(there)
    labels, normal, others = anomalous.astype(np.int64), values[~anomalous], values[anomalous]
    both = len(normal) > 0 and len(others) > 0
    low, high = interval(draw_aucs(labels, as_classes(values), resamples))
    return PartScores(
        num_normal=len(normal),
        num_anomalous=len(others),
        auc=metrics.auc_of(anomalous, values),
        auc_low=low,
        auc_high=high,
        average_precision=metrics.pr_auc(labels, values),
        tpr_at_fpr=metrics.recall_at_fpr(labels, values, FALSE_POSITIVE_RATE),
        wasserstein=float(wasserstein_distance(normal, others)) if both else np.nan,
        false_positives=_share(normal > threshold),
        recall=_share(others > threshold),
    )


def _share(flags: Flags) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def score_rotation(
    anomalous: Flags, upright: Floats, turned: Floats, resamples: Resamples
) -> Rotation | None:
    """Return what a turn by 90° changes; None where a class or a score is absent."""
    there = np.isfinite(upright) & np.isfinite(turned)
    if len(np.unique(anomalous[there])) < 2:
        return None
    labels = anomalous.astype(np.int64)
    return rotation(labels, as_classes(upright), resamples, as_classes(turned))


def as_classes(values: Floats) -> Floats:
    """Return scores (N,) as those of two classes (N, 2), the anomalous one last."""
    return np.stack([-values, values], axis=1)


def roc_points(anomalous: Flags, values: Floats) -> tuple[Floats, Floats]:
    """Return false and true positive rates of falling thresholds."""
    from sklearn.metrics import roc_curve

    there = np.isfinite(values)
    false_rate, true_rate, _ = roc_curve(anomalous[there], values[there])
    return np.asarray(false_rate), np.asarray(true_rate)


def most_and_least(merged: MergedScores, line: str, num: int) -> dict[str, Sequence[int]]:
    """Return places in the merged rows of the test rows with the largest and smallest scores."""
    values = merged.values[line]
    places = np.flatnonzero(merged.part("test") & np.isfinite(values))
    ordered = places[np.argsort(-values[places], kind="stable")]
    return {"most": ordered[:num].tolist(), "least": ordered[::-1][:num].tolist()}
