"""Merge the members' predictions: each row as often as the Plan says, or an error."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.run.merging import Floats, Merger, RowFault
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.predictions import ENSEMBLE, evaluated_rows, has_column
from lenshpc.run.recipe import is_variant
from lenshpc.run.stages import Stages
from lenshpc.statistics.ensembles import (
    COMBINATIONS,
    Combination,
    Mixture,
    combine,
    combine_all,
)

Probabilities = npt.NDArray[np.floating]

UPRIGHT, TURNED = "logp", "rot90_logp"  # how the columns of log-probabilities begin
ALONE = Mixture(weights=(1.0,))  # of a single model
SUM_TOLERANCE = 1e-3  # log-probabilities are float32 and may come from bfloat16 logits


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The rows that were predicted, and each model's probabilities (N, K) of them.

    `rows` holds row, id, label, split (`oof` or `test`), fold and, where the store has any, group.
    A row that no member covers is NaN, which only happens when members are `missing`. Of several
    models `probabilities` has the recipe's ensemble, and `combinations` the ensembles that it could
    have named; `weights` is what each of these gives to the models. `turned` has, of lines whose
    members predicted them, the probabilities of the images turned by 90°. `mixture` is what turns
    the models' probabilities of new rows into the headline's.
    """

    classes: tuple[str, ...]
    rows: pd.DataFrame
    probabilities: Mapping[str, Probabilities]
    combinations: Mapping[str, Probabilities] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    turned: Mapping[str, Probabilities] = field(default_factory=dict)
    mixture: Mixture = ALONE
    missing: tuple[Member, ...] = ()

    @property
    def headline(self) -> str:
        """Return the name that stands for the run: the ensemble, or the one model."""
        return ENSEMBLE if ENSEMBLE in self.probabilities else next(iter(self.probabilities))


def merge(
    run: RunPaths,
    plan: Plan,
    splits: pd.DataFrame,
    missing: Collection[Member] = (),
    stages: Stages | None = None,
) -> Merged:
    """Return the mean probabilities: over seeds out-of-fold, over all members on test rows."""
    rows = evaluated_rows(splits)
    models: dict[str, Probabilities] = {}
    turned: dict[str, Probabilities] = {}
    for name, members in plan.ensembles(missing).items():
        also = members and all(has_column(run, member, f"{TURNED}_0") for member in members)
        prefixes = (UPRIGHT, TURNED) if also else (UPRIGHT,)
        models[name], *rest = _merge_model(run, plan, splits, members, prefixes, stages)
        turned |= dict(zip([name], rest, strict=False))
    return assemble(plan, rows, models, turned, missing)


def assemble(
    plan: Plan,
    rows: pd.DataFrame,
    models: Mapping[str, Probabilities],
    turned: Mapping[str, Probabilities],
    missing: Collection[Member] = (),
) -> Merged:
    """Return each model's probabilities with those of their combinations, fitted out-of-fold."""
    parts = {name: values for name, values in models.items() if not is_variant(name)}
    stack = np.array([*parts.values()])
    # Fitted on upright images and applied to turned ones: a combination of its own for these would
    # hide what a turn changes.
    combined = _combine(plan.recipe.ensemble, rows, stack)
    ensembles = {line: one.apply(stack) for line, one in combined.items()}
    whole = dict(turned)
    if combined and parts.keys() <= turned.keys():
        whole[ENSEMBLE] = combined[ENSEMBLE].apply(np.array([turned[name] for name in parts]))
    headline = {ENSEMBLE: ensembles.pop(ENSEMBLE)} if ensembles else {}
    return Merged(
        classes=plan.classes,
        rows=rows,
        probabilities={**models, **headline},
        combinations=ensembles,
        weights={
            line: dict(zip(parts, one.weights, strict=True)) for line, one in combined.items()
        },
        turned=whole,
        mixture=combined[ENSEMBLE].final if combined else ALONE,
        missing=tuple(member for member in plan.members if member in missing),
    )


def merge_headline(
    run: RunPaths, plan: Plan, splits: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Probabilities]]:
    """Return the evaluated rows of a run that is whole, and each model's and the headline's values.

    They are those of `merge`; the combinations that the recipe does not name are not fitted.
    """
    rows = evaluated_rows(splits)
    models = {
        name: _merge_model(run, plan, splits, members)[0]
        for name, members in plan.ensembles().items()
    }
    parts = [values for name, values in models.items() if not is_variant(name)]
    if len(parts) < 2:
        return rows, models
    together = combine(plan.recipe.ensemble, rows, parts).apply(np.array(parts))
    return rows, models | {ENSEMBLE: together}


def _combine(headline: str, rows: pd.DataFrame, stack: Probabilities) -> dict[str, Combination]:
    """Return each combination of two and more models (M, N, K) by the name of its line."""
    if len(stack) < 2:
        return {}
    names = {kind: f"{ENSEMBLE} ({kind.replace('_', ' ')})" for kind in COMBINATIONS}
    names[headline] = ENSEMBLE
    found = combine_all(names, rows, stack)
    return {line: found[kind] for kind, line in names.items()}


def _merge_model(
    run: RunPaths,
    plan: Plan,
    splits: pd.DataFrame,
    members: Sequence[Member],
    prefixes: Sequence[str] = (UPRIGHT,),
    stages: Stages | None = None,
) -> tuple[Probabilities, ...]:
    """Return the mean probabilities (N, K) by each of the prefixes, read in one pass."""
    width = len(plan.classes)
    merger = Merger(
        run=run,
        plan=plan,
        splits=splits,
        members=members,
        columns=[f"{prefix}_{label}" for prefix in prefixes for label in range(width)],
        convert=partial(to_probabilities, width=width),
        stages=stages or Stages(),
    )
    means = merger.merge()
    return tuple(means[:, at : at + width] for at in range(0, means.shape[1], width))


def to_probabilities(_: Member, logp: Floats, width: int) -> Floats:
    """Return probabilities of log-probabilities (n, width) that may stand side by side.

    RowFault where some of a row do not add up to 1.
    """
    # float64 before the exponential: what the sums are off by is then what the members rounded, and
    # no more.
    likelihoods = np.exp(logp)
    for at in range(0, logp.shape[1], width):
        some = likelihoods[:, at : at + width]
        sums = some.sum(axis=1, keepdims=True)
        off = np.abs(sums[:, 0] - 1) > SUM_TOLERANCE
        if off.any():
            raise RowFault(off, "predicts probabilities that do not add up to 1")
        some /= sums
    return likelihoods


def read_probabilities(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, member: Member
) -> Probabilities:
    """Return a member's probabilities of the evaluated rows; NaN of those of other folds."""
    return _merge_model(run, plan, splits, [member])[0]
