"""Merge the errors on hidden patches and judge them beside simple ways to fill these in.

Shapes: N rows, B resamples.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.run.merging import Merger
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.predictions import evaluated_rows
from lenshpc.run.results import RunResults
from lenshpc.statistics.bootstrap import draw, interval
from lenshpc.statistics.measures import MeanMeasure, RowValues
from lenshpc.statistics.results import NUM_RESAMPLES

ERRORS = ("loss", "mean_error", "smooth_error")
LEARNT = "learnt classes"


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A model's mean errors on some rows: its own, and those of two fillings under its masks.

    `ratio` is its error over that of the better filling; NaN where no row is covered.
    """

    model: str
    split: str
    rows: str
    num_rows: int
    error: float
    error_low: float
    error_high: float
    mean_error: float
    smooth_error: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """The errors of all evaluated rows by model, and the lines of the table."""

    merged: pd.DataFrame
    lines: tuple[ResultRow, ...]


def evaluate(results: RunResults) -> RunEvaluation:
    """Return the evaluation of a run that learnt to draw hidden patches."""
    results.say("merging the errors")
    merged = merge_errors(results.run, results.plan, results.splits, results.missing)
    return RunEvaluation(merged=merged, lines=score_errors(merged, results.plan))


def measure_rows(results: RunResults) -> RowValues:
    """Return the error of each row of a learnt class, by which runs are compared."""
    plan = results.plan
    merged = merge_errors(results.run, plan, results.splits)
    learnt = plan.recipe.method.learnt_labels(plan.classes)
    merged = merged[merged["label"].isin(learnt)]
    models = {name: merged[merged["model"] == name] for name in plan.recipe.models}
    first = next(iter(models))
    return RowValues(
        rows=models[first],
        measures=(MeanMeasure(name="error of hidden patches", best=-1),),
        headline=first,
        values={name: (some["loss"].to_numpy(np.float64),) for name, some in models.items()},
        parts={name: (name,) for name in models},
    )


def merge_errors(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, missing: Collection[Member] = ()
) -> pd.DataFrame:
    """Return a line a model and evaluated row: its mean errors over members, NaN without any."""
    rows = evaluated_rows(splits)
    parts = []
    for model, members in plan.ensembles(missing).items():
        merger = Merger(run=run, plan=plan, splits=splits, members=members, columns=ERRORS)
        means = merger.merge()
        parts.append(rows.assign(model=model, **dict(zip(ERRORS, means.T, strict=True))))
    return pd.concat(parts, ignore_index=True)


def score_errors(merged: pd.DataFrame, plan: Plan, *, seed: int = 0) -> tuple[ResultRow, ...]:
    """Return the lines of each model: the learnt classes on test and out-of-fold, each class."""
    return tuple(
        line
        for model in plan.recipe.models
        for line in _lines(merged[merged["model"] == model], model, plan, seed)
    )


def _lines(rows: pd.DataFrame, model: str, plan: Plan, seed: int) -> Iterator[ResultRow]:
    learnt = rows["label"].isin(plan.recipe.method.learnt_labels(plan.classes))
    test = rows["split"] == "test"
    yield _line(rows[test & learnt], model, "test", LEARNT, seed)
    yield _line(rows[~test], model, "oof", LEARNT, seed)
    if len(plan.classes) > 1:
        for label, name in enumerate(plan.classes):
            yield _line(rows[test & (rows["label"] == label)], model, "test", name, seed)


def _line(rows: pd.DataFrame, model: str, split: str, name: str, seed: int) -> ResultRow:
    rows = rows.dropna(subset=list(ERRORS))
    values = rows[list(ERRORS)].to_numpy(np.float64)
    error, *fillings = values.mean(axis=0).tolist() if len(values) else [np.nan] * len(ERRORS)
    resampled = _resample(rows, values, seed)
    low, high = interval(resampled[:, 0])
    # The better filling of each resample: fixed beforehand, the interval would leave out that it
    # was chosen.
    ratio_low, ratio_high = interval(resampled[:, 0] / resampled[:, 1:].min(axis=1))
    return ResultRow(
        model=model,
        split=split,
        rows=name,
        num_rows=len(rows),
        error=error,
        error_low=low,
        error_high=high,
        mean_error=fillings[0],
        smooth_error=fillings[1],
        ratio=error / min(fillings),
        ratio_low=ratio_low,
        ratio_high=ratio_high,
    )


def _resample(
    rows: pd.DataFrame, values: npt.NDArray[np.float64], seed: int
) -> npt.NDArray[np.float64]:
    """Return the means (B, 3) of the errors over resamples of the rows."""
    if not len(rows):
        return np.full((1, len(ERRORS)), np.nan)
    labels, groups = rows["label"].to_numpy(np.int64), rows["group"].to_numpy(object)
    resamples = draw(labels, groups, num_resamples=NUM_RESAMPLES, seed=seed)
    sums = resamples.sum_values(np.column_stack([values, np.ones(len(values))]))
    return np.asarray(sums[:, :-1] / sums[:, -1:], np.float64)
