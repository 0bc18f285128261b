"""What a pre-training's verdict rests on: errors over those of the better filling, and by fold."""

import numpy as np

from lenshpc.report.evidence import measure_folds
from lenshpc.report.verdict import Estimate, Evidence
from lenshpc.run.results import RunResults
from lenshpc.statistics.measures import MeanMeasure
from lenshpc.statistics.scores import find_groups
from lenshpc.tasks.foundation.judge import ERRORS, LEARNT, ResultRow, RunEvaluation

SMALL, LARGE, WIDE = 0.01, 0.05, 0.1  # of an error over the better filling's
RATIO = MeanMeasure(name="error over the better filling's", best=-1)


def weigh_errors(results: RunResults, found: RunEvaluation) -> Evidence:
    """Return what is to be said of the first model of a run that learnt to draw hidden patches."""
    head = found.lines[0]
    oof = next(
        one
        for one in found.lines
        if (one.model, one.split, one.rows) == (head.model, "oof", LEARNT)
    )
    merged = found.merged
    out = merged[(merged["model"] == head.model) & (merged["split"] == "oof")].dropna(
        subset=list(ERRORS)
    )
    # Over one filling's mean, not each row's own: the ratio of a fold is that of its means.
    ratios = (out["loss"] / min(oof.mean_error, oof.smooth_error)).to_numpy(np.float64)
    return Evidence(
        subject=head.model,
        measure=RATIO.name,
        test=_estimate(head),
        small=SMALL,
        large=LARGE,
        wide=WIDE,
        best=-1,
        num_rows=head.num_rows,
        baselines=(
            Estimate(
                value=1 - head.ratio,
                low=1 - head.ratio_high,
                high=1 - head.ratio_low,
                name="the better of two fillings",
            ),
        ),
        oof=_estimate(oof),
        folds=measure_folds(
            out["fold"].to_numpy(), np.zeros(len(out), np.int64), ratios, find_groups(out), RATIO
        ),
        num_missing=len(results.missing),
    )


def _estimate(line: ResultRow) -> Estimate:
    return Estimate(value=line.ratio, low=line.ratio_low, high=line.ratio_high)
