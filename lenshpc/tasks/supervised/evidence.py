"""What a classification's verdict rests on: AUC beside baselines, chance, turns and folds."""

import numpy as np

from lenshpc.report.evidence import find_gaps, groups_of, measure_folds
from lenshpc.report.verdict import Estimate, Evidence
from lenshpc.run.predictions import ENSEMBLE
from lenshpc.run.results import RunResults
from lenshpc.statistics.measures import AUC
from lenshpc.statistics.results import Scores
from lenshpc.tasks.supervised.curves import headline_of
from lenshpc.tasks.supervised.judge import RunEvaluation

SMALL, LARGE, WIDE = 0.01, 0.05, 0.1  # of an AUC


def weigh_classes(results: RunResults, found: RunEvaluation) -> Evidence:
    """Return what is to be said of the headline of a run that tells classes apart."""
    merged, head = found.merged, headline_of(found.scores)
    values = merged.probabilities[head.name]
    testing = (merged.rows["split"] == "test").to_numpy()
    test, out = merged.rows[testing], merged.rows[~testing]
    counts = np.bincount(test["label"], minlength=len(merged.classes))
    rarest = int(counts.argmin())
    turn = head.rotation
    return Evidence(
        subject="the ensemble" if head.name == ENSEMBLE else head.name,
        measure="AUC",
        test=_estimate(head.test),
        small=SMALL,
        large=LARGE,
        wide=WIDE,
        num_rows=int(counts[rarest]),
        rows=f"test images of {merged.classes[rarest]}",
        chance=0.5,
        baselines=find_gaps(
            test["label"].to_numpy(),
            values[testing],
            {name: one[testing] for name, one in found.baselines.items()},
            groups_of(test),
            AUC,
        ),
        unjudged=found.absent or "",
        turn=Estimate(value=turn.change, low=turn.change_low, high=turn.change_high)
        if turn
        else None,
        oof=_estimate(head.oof),
        folds=measure_folds(
            out["fold"].to_numpy(), out["label"].to_numpy(), values[~testing], groups_of(out), AUC
        ),
        num_missing=len(results.missing),
    )


def _estimate(scores: Scores) -> Estimate:
    return Estimate(value=scores.auc, low=scores.auc_low, high=scores.auc_high)
