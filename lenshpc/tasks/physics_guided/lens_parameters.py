"""Lens parameters that members predict beside classes: merged, and compared with the truth.

Shapes: N evaluated rows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.run.merging import Merger
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.predictions import evaluated_rows, has_column

EINSTEIN_RADIUS = "theta_e_arcsec"
# Those whose mean over members has a meaning; half a turn makes an angle another one.
PARAMETERS = (EINSTEIN_RADIUS, "centre_x_arcsec", "centre_y_arcsec", "gamma1", "gamma2")
LOSS = "physics_loss"
COMPARED = (EINSTEIN_RADIUS, "gamma1", "gamma2")
MIN_COMPARED = 2

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LensEstimates:
    """The rows, and of each model with lenses the mean over its members of each number (N,).

    `members` has one finished member of each such model.
    """

    rows: pd.DataFrame
    models: Mapping[str, pd.DataFrame]
    members: Mapping[str, Member]


@dataclass(frozen=True, kw_only=True)
class EstimateErrors:
    """A model's estimates of one parameter against the truth; `part` is a split, or a class of it.

    `bias` is the mean of estimate minus truth; `r2` is NaN where the truth does not vary.
    """

    model: str
    parameter: str
    part: str
    num: int
    mae: float
    bias: float
    r2: float


def merge_lenses(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, missing: Collection[Member] = ()
) -> LensEstimates:
    """Return the mean parameters: over seeds out-of-fold, over all members on test rows."""
    rows = evaluated_rows(splits)
    guided = {
        model: members
        for model, members in plan.ensembles(missing).items()
        if any(has_column(run, one, LOSS) for one in members)
    }
    return LensEstimates(
        rows=rows,
        models={model: _merge(run, plan, splits, members) for model, members in guided.items()},
        members={model: members[0] for model, members in guided.items()},
    )


def _merge(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, members: Sequence[Member]
) -> pd.DataFrame:
    columns = [*PARAMETERS, LOSS]
    merger = Merger(run=run, plan=plan, splits=splits, members=members, columns=columns)
    return pd.DataFrame(merger.merge(), columns=columns)


def compare_with_truth(
    estimates: LensEstimates, truth: Mapping[str, Floats], classes: tuple[str, ...]
) -> Iterator[EstimateErrors]:
    """Yield how each model agrees with what is known of the rows: `truth` has columns (N,)."""
    for model, found in estimates.models.items():
        for parameter in (name for name in COMPARED if name in truth):
            estimate = found[parameter].to_numpy()
            known = np.isfinite(truth[parameter]) & np.isfinite(estimate)
            for part, flags in _parts(estimates.rows, parameter, classes):
                mine = known & flags
                if mine.sum() >= MIN_COMPARED:
                    yield _agreement(model, parameter, part, truth[parameter][mine], estimate[mine])


def _parts(
    rows: pd.DataFrame, parameter: str, classes: tuple[str, ...]
) -> Iterator[tuple[str, Flags]]:
    """Yield the test rows, of the Einstein radius also by class, and those out-of-fold."""
    testing = (rows["split"] == "test").to_numpy()
    yield "test", testing
    if parameter == EINSTEIN_RADIUS and len(classes) > 1:
        for label, name in enumerate(classes):
            yield f"test, {name}", testing & (rows["label"] == label).to_numpy()
    yield "out-of-fold", ~testing


def _agreement(
    model: str, parameter: str, part: str, truth: Floats, estimate: Floats
) -> EstimateErrors:
    from sklearn.metrics import mean_absolute_error, r2_score

    return EstimateErrors(
        model=model,
        parameter=parameter,
        part=part,
        num=len(truth),
        mae=float(mean_absolute_error(truth, estimate)),
        bias=float((estimate - truth).mean()),
        r2=float(r2_score(truth, estimate)) if np.ptp(truth) > 0 else np.nan,
    )
