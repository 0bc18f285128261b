"""What a super-resolution's verdict rests on: PSNR beside interpolations, and by fold."""

import numpy as np

from lenshpc.report.evidence import find_gaps, measure_folds, name_subject
from lenshpc.report.verdict import Estimate, Evidence
from lenshpc.run.results import RunResults
from lenshpc.statistics.measures import MeanMeasure
from lenshpc.statistics.scores import find_groups
from lenshpc.tasks.super_resolution.judge import BICUBIC, Quality, RunEvaluation

SMALL, LARGE, WIDE = 0.1, 0.5, 1.0  # dB
PSNR = MeanMeasure(name="PSNR (dB)")


def weigh_images(results: RunResults, found: RunEvaluation) -> Evidence:
    """Return what is to be said of the headline of a run that enlarges images."""
    scores, rows = found.scores, found.images.rows
    head = scores.line(scores.headline)
    psnr = {
        line.name: scores.rows[f"{line.name}:psnr"].to_numpy(np.float64) for line in scores.lines
    }
    testing = (rows["split"] == "test").to_numpy()
    test, out = rows[testing], rows[~testing]
    gains = (psnr[head.name] - psnr[BICUBIC])[~testing]
    rivals = [line.name for line in scores.lines if line.kind == "baseline"]
    return Evidence(
        subject=name_subject(head.name),
        measure="gain of PSNR over bicubic (dB)",
        test=_estimate(head.test),
        small=SMALL,
        large=LARGE,
        wide=WIDE,
        digits=2,
        num_rows=head.test.num_covered,
        baselines=find_gaps(
            np.zeros(len(test), np.int64),
            psnr[head.name][testing],
            {name: psnr[name][testing] for name in rivals},
            find_groups(test),
            PSNR,
        ),
        oof=_estimate(head.oof),
        folds=measure_folds(
            out["fold"].to_numpy(), np.zeros(len(out), np.int64), gains, find_groups(out), PSNR
        ),
        num_missing=len(results.missing),
    )


def _estimate(quality: Quality) -> Estimate:
    low, high = quality.intervals["gain_db"]
    return Estimate(value=quality.gain_db, low=low, high=high)
