"""What an anomaly detection's verdict rests on: AUC beside baselines, chance, turns and folds."""

import numpy as np

from lenshpc.report.evidence import (
    estimate_auc,
    estimate_turn,
    find_gaps,
    measure_folds,
    name_subject,
)
from lenshpc.report.verdict import Estimate, Evidence
from lenshpc.run.results import RunResults
from lenshpc.statistics.measures import AUC
from lenshpc.tasks.anomaly.baselines import BOOSTING
from lenshpc.tasks.anomaly.judge import RunEvaluation, as_classes
from lenshpc.tasks.anomaly.merge import MergedScores

SMALL, LARGE, WIDE = 0.01, 0.05, 0.1  # of an AUC


def weigh_scores(results: RunResults, found: RunEvaluation) -> Evidence:
    """Return what is to be said of the headline of a run that learnt one class."""
    merged, head = found.merged, found.lines[0]
    test = head.parts["test"]
    testing = merged.part("test")
    labels = merged.anomalous.astype(np.int64)
    # Boosting is told the classes: no detector has to beat it.
    rivals = {name: one for name, one in found.baselines.items() if name != BOOSTING}
    fewer = test.num_anomalous <= test.num_normal
    return Evidence(
        subject=name_subject(head.name),
        measure="AUC",
        test=estimate_auc(test),
        small=SMALL,
        large=LARGE,
        wide=WIDE,
        num_rows=min(test.num_anomalous, test.num_normal),
        rows=f"{'anomalous' if fewer else 'normal'} test images",
        chance=0.5,
        baselines=find_gaps(
            labels[testing],
            as_classes(merged.values[head.name][testing]),
            {name: as_classes(one[testing]) for name, one in rivals.items()},
            merged.rows["group"].to_numpy(object)[testing],
            AUC,
        ),
        unjudged="its store cannot be read",
        turn=estimate_turn(head.rotation),
        oof=estimate_auc(head.parts["validation"]),
        folds=_measure_folds(results, merged, head.name),
        num_missing=len(results.missing),
    )


def _measure_folds(results: RunResults, merged: MergedScores, line: str) -> tuple[Estimate, ...]:
    """Return the AUC of each fold's normal rows beside all excluded rows."""
    asked = merged.part("validation")
    rows = merged.rows[asked]
    fold_of = results.splits.set_index("row")["fold"]
    folds, excluded = fold_of.loc[rows["row"]].to_numpy(), (rows["split"] == "excluded").to_numpy()
    labels = merged.anomalous[asked].astype(np.int64)
    values, groups = as_classes(merged.values[line][asked]), rows["group"].to_numpy(object)
    found: list[Estimate] = []
    for fold in np.unique(folds[~excluded]):
        mine = excluded | (folds == fold)
        one = np.zeros(int(mine.sum()), np.int64)
        found += measure_folds(one, labels[mine], values[mine], groups[mine], AUC)
    return tuple(found)
