"""Merge the members' anomaly scores and judge them; other classes are only ever looked at.

Scores of a member are brought to one scale by its own out-of-fold normal rows: (score - median) /
interquartile range. Validation is the normal rows out-of-fold with the excluded rows, training
those that were learnt with the same excluded rows; thresholds come from the normal rows out-of-fold
alone. Shapes: N rows, B resamples.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.errors import DataError
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.predictions import ENSEMBLE, read_predictions
from lenshpc.run.recipe import is_variant
from lenshpc.run.results import RunResults
from lenshpc.statistics import metrics
from lenshpc.statistics.bootstrap import draw, interval
from lenshpc.statistics.measures import AUC, RowValues
from lenshpc.statistics.resamples import Resamples
from lenshpc.statistics.results import NUM_RESAMPLES, Floats, Rotation
from lenshpc.statistics.scores import draw_aucs, rotation
from lenshpc.tasks.anomaly.baselines import score_baselines
from lenshpc.tasks.anomaly.settings import Anomaly

TURNED = "rot90_"
SCORES = ("rel_mse", "mse", "ssim_error")  # the first is the model's headline
PARTS: Mapping[str, tuple[str, ...]] = {
    "training": ("train", "excluded"),
    "validation": ("oof", "excluded"),
    "test": ("test",),
}
FALSE_POSITIVE_RATE = 0.1

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class MergedScores:
    """Scores of all rows: `rows` has row, id, label, group, split (train, oof, excluded, test).

    A row may stand twice, as train and as oof: to one member it is this, to another that. `values`
    and `turned` (of the images turned by 90°) have (N,) by line, a model with one of its scores;
    NaN where no member is there. `heads` has each model's line that stands for it.
    """

    rows: pd.DataFrame
    anomalous: Flags
    values: Mapping[str, Floats]
    turned: Mapping[str, Floats]
    heads: Mapping[str, str]

    @property
    def headline(self) -> str:
        """Return the line that stands for the run."""
        return ENSEMBLE if ENSEMBLE in self.values else next(iter(self.heads.values()))

    def part(self, name: str) -> Flags:
        """Return which rows are of `training`, `validation` or `test`."""
        return self.rows["split"].isin(PARTS[name]).to_numpy()


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


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """The scores of all rows, the lines of the table, and the baselines' scores of the rows."""

    merged: MergedScores
    lines: tuple[ResultRow, ...]
    baselines: Mapping[str, Floats]


def evaluate(results: RunResults) -> RunEvaluation:
    """Return the evaluation of a run that learnt one class."""
    plan, splits = results.plan, results.splits
    results.say("merging the scores")
    merged = merge_scores(results.run, plan, splits, results.missing)
    quantile = Anomaly.of(plan.recipe.method).quantile
    results.say("judging the scores")
    lines = score_models(merged, quantile=quantile)
    try:
        store = results.store
    except DataError:  # a run may outlive its store
        return RunEvaluation(merged=merged, lines=lines, baselines={})
    results.say("scoring the images by baselines")
    baselines = score_baselines(store, splits, merged.rows, plan.recipe.data.crop)
    judged = score_baseline_models(merged, baselines, quantile=quantile)
    return RunEvaluation(merged=merged, lines=(*lines, *judged), baselines=baselines)


def merge_scores(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, missing: Collection[Member] = ()
) -> MergedScores:
    """Return the mean score of each row over the members to which it is of the same split."""
    ensembles = plan.ensembles(missing)
    columns = [*SCORES, *(f"{TURNED}{name}" for name in SCORES)]
    frames = {
        member: read_predictions(run, plan, splits, member, columns)
        for members in ensembles.values()
        for member in members
    }
    keys = pd.concat([frame[["row", "split"]] for frame in frames.values()])
    rows = keys.drop_duplicates().merge(splits.drop(columns=["split", "fold"]), on="row")
    # The order in which the members came must not decide the order of rows, which resamples are
    # drawn by.
    rows = rows.sort_values(["split", "row"], ignore_index=True)
    values: dict[str, Floats] = {}
    turned: dict[str, Floats] = {}
    heads: dict[str, str] = {}
    for model, members in ensembles.items():
        mine = [frames[member] for member in members]
        for name in SCORES if mine else ():
            line = f"{model} {name}"
            heads.setdefault(model, line)
            values[line], turned[line] = _mean_scores(mine, name, rows)
    parts = [line for model, line in heads.items() if not is_variant(model)]
    if len(parts) > 1:
        for table in (values, turned):
            table[ENSEMBLE] = np.mean([table[line] for line in parts], axis=0)
    normal = Anomaly.of(plan.recipe.method).normal_label(plan.classes)
    return MergedScores(
        rows=rows,
        anomalous=(rows["label"] != normal).to_numpy(),
        values=values,
        turned=turned,
        heads=heads,
    )


def _mean_scores(
    frames: Iterable[pd.DataFrame], name: str, rows: pd.DataFrame
) -> tuple[Floats, Floats]:
    """Return a score's mean over members in the order of the rows, upright and turned."""
    columns = [name, f"{TURNED}{name}"]
    scaled = []
    for frame in frames:
        middle, span = find_scale(frame, name)
        values = (frame[columns].astype(np.float64) - middle) / span
        scaled.append(frame[["row", "split"]].join(values))
    means = pd.concat(scaled).groupby(["row", "split"])[columns].mean()
    found = means.reindex(pd.MultiIndex.from_frame(rows[["row", "split"]])).to_numpy(np.float64)
    return found[:, 0], found[:, 1]


def find_scale(frame: pd.DataFrame, name: str) -> tuple[float, float]:
    """Return median and interquartile range of a member's score of its out-of-fold normal rows."""
    # Normal rows out-of-fold alone decide on scale and threshold: neither test rows nor those set
    # aside may move them.
    own = frame.loc[frame["split"] == "oof", name]
    low, middle, high = own.quantile([0.25, 0.5, 0.75])
    return middle, high - low if high > low else 1.0


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
    return draw(labels, some["group"].to_numpy(object), num_resamples=NUM_RESAMPLES, seed=seed)


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
