"""What a classification's verdict rests on: AUC beside baselines, chance, turns and folds."""

import numpy as np

from lenshpc.report.evidence import (
    estimate_auc,
    estimate_turn,
    find_gaps,
    measure_folds,
    name_subject,
)
from lenshpc.report.methods import BOOTSTRAP
from lenshpc.report.references import cite
from lenshpc.report.verdict import Evidence
from lenshpc.run.plan import Plan
from lenshpc.run.results import RunResults
from lenshpc.statistics.measures import AUC
from lenshpc.statistics.scores import find_groups
from lenshpc.tasks.supervised.curves import headline_of
from lenshpc.tasks.supervised.judge import RunEvaluation
from lenshpc.tasks.supervised.settings import Supervised

SMALL, LARGE, WIDE = 0.01, 0.05, 0.1  # of an AUC


def weigh_classes(results: RunResults, found: RunEvaluation) -> Evidence:
    """Return what is to be said of the headline of a run that tells classes apart."""
    merged, head = found.merged, headline_of(found.scores)
    values = merged.probabilities[head.name]
    testing = (merged.rows["split"] == "test").to_numpy()
    test, out = merged.rows[testing], merged.rows[~testing]
    counts = np.bincount(test["label"], minlength=len(merged.classes))
    rarest = int(counts.argmin())
    return Evidence(
        subject=name_subject(head.name),
        measure="AUC",
        test=estimate_auc(head.test),
        small=SMALL,
        large=LARGE,
        wide=WIDE,
        num_rows=int(counts[rarest]),
        rows=f"test images of {merged.classes[rarest]}",
        chance=0.5,
        baselines=find_gaps(
            test["label"].to_numpy(),
            values[testing],
            {_short(name): one[testing] for name, one in found.baselines.items()},
            find_groups(test),
            AUC,
        ),
        unjudged=found.absent or "",
        turn=estimate_turn(head.rotation),
        oof=estimate_auc(head.oof),
        folds=measure_folds(
            out["fold"].to_numpy(), out["label"].to_numpy(), values[~testing], find_groups(out), AUC
        ),
        num_missing=len(results.missing),
    )


def _short(name: str) -> str:
    """Return a baseline's name without the word: `baseline (ring radius)` → `ring radius`."""
    return name.removeprefix("baseline (").removesuffix(")")


def describe_classes(plan: Plan) -> str:
    """Return what was done to tell classes apart, for the paragraph on methods."""
    method, recipe = Supervised.of(plan.recipe.method), plan.recipe
    mixed = {"mixup": method.mixup_alpha, "cutmix": method.cutmix_alpha}
    mixing = " and ".join(f"{name}{cite(f'mixing/{name}')}" for name, on in mixed.items() if on)
    loss = f"The loss was {method.loss.replace('_', ' ')}{cite(f'loss/{method.loss}')}"
    loss += ", classes weighted by their rarity" if method.class_weights == "balanced" else ""
    several = len(recipe.models) > 1
    way = recipe.ensemble.replace("_", " ")
    combined = f", and models combined by {way}{cite(f'ensemble/{recipe.ensemble}')}"
    tested = f"AUCs of models were compared by DeLong's test{cite('statistic/delong')} with "
    tested += f"Holm's correction{cite('statistic/holm')}. "
    binary = len(plan.classes) == 2
    return (
        f"{loss}{f', images mixed by {mixing}' if mixing else ''}. Probabilities of a test image "
        f"were averaged over the trainings of a model{combined if several else ''}. "
        + ("The threshold has the largest F1 on out-of-fold images. " if binary else "")
        + f"We give the area under the ROC curve (AUC){cite('statistic/auc')}"
        + (f", and the recall before the first false positive{cite('statistic/tpr0')}" * binary)
        + f". {BOOTSTRAP} {tested if several else ''}Baselines are of scikit-learn"
        f"{cite('software/sklearn')}, on a few numbers of each image over the same folds."
    )
