"""Merge the members' predictions: each row as often as the Plan says, or an error."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.completion import describe, resume_command
from lenshpc.errors import DataError
from lenshpc.paths import RunPaths
from lenshpc.plan import Member, Plan

Probabilities = npt.NDArray[np.float64]

ENSEMBLE = "ensemble"
SUM_TOLERANCE = 1e-3  # log-probabilities are float32 and may come from bfloat16 logits


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The rows that were predicted, and each model's probabilities (N, K) of them.

    `rows` holds row, id, label, split (`oof` or `test`) and fold. A row that no member covers is
    NaN, which only happens when members are `missing`.
    """

    classes: tuple[str, ...]
    rows: pd.DataFrame
    probabilities: Mapping[str, Probabilities]
    missing: tuple[Member, ...] = ()

    @property
    def headline(self) -> str:
        """Return the name that stands for the run: the ensemble, or the one model."""
        return ENSEMBLE if ENSEMBLE in self.probabilities else next(iter(self.probabilities))


def evaluated_rows(splits: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the manifest that members predict, with `dev` renamed to `oof`."""
    testing = splits["split"] == "test"
    kept = splits.assign(split=np.where(testing, "test", "oof"))[testing | (splits["fold"] >= 0)]
    return kept.reset_index(drop=True)


def merge(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, missing: Collection[Member] = ()
) -> Merged:
    """Return the mean probabilities: over seeds out-of-fold, over all members on test rows."""
    rows = evaluated_rows(splits)
    probabilities = {
        model: _merge_model(run, plan, rows, [one for one in members if one not in missing])
        for model, members in plan.ensembles().items()
    }
    if len(probabilities) > 1:
        probabilities[ENSEMBLE] = np.mean(list(probabilities.values()), axis=0)
    return Merged(
        classes=plan.classes,
        rows=rows,
        probabilities=probabilities,
        missing=tuple(member for member in plan.members if member in missing),
    )


def _merge_model(
    run: RunPaths, plan: Plan, rows: pd.DataFrame, members: Sequence[Member]
) -> Probabilities:
    total = np.zeros((len(rows), len(plan.classes)))
    count = np.zeros((len(rows), 1))
    for member in members:
        mine = ((rows["split"] == "test") | (rows["fold"] == member.fold)).to_numpy()
        total[mine] += read_probabilities(run, member, rows[mine], len(plan.classes))
        count[mine] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def read_probabilities(
    run: RunPaths, member: Member, expected: pd.DataFrame, num_classes: int
) -> Probabilities:
    """Return a member's probabilities in the order of the rows that it must have predicted."""
    columns = [f"logp_{label}" for label in range(num_classes)]
    try:
        frame = pd.read_parquet(
            run.member(member.name).predictions, columns=["row", "id", "split", *columns]
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise _rejected(run, member, f"has predictions that cannot be read ({reason})") from error
    fault = _find_row_fault(frame, expected)
    if fault:
        raise _rejected(run, member, fault)
    logp = frame.set_index("row").loc[expected["row"], columns].to_numpy(np.float64)
    fault = _find_value_fault(logp, expected["id"].to_numpy())
    if fault:
        raise _rejected(run, member, fault)
    probabilities = np.exp(logp)
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def _find_row_fault(frame: pd.DataFrame, expected: pd.DataFrame) -> str | None:
    twice = frame.loc[frame["row"].duplicated(), "id"]
    if len(twice):
        return f"predicts {_name(twice)} more than once"
    beyond = frame.loc[~frame["row"].isin(expected["row"]), "id"]
    if len(beyond):
        return f"predicts {_name(beyond)}, in neither its validation fold nor the test split"
    absent = expected.loc[~expected["row"].isin(frame["row"]), "id"]
    if len(absent):
        return f"does not predict {_name(absent)}"
    found = frame.set_index("row").loc[expected["row"], ["id", "split"]].to_numpy()
    differs = (found != expected[["id", "split"]].to_numpy()).any(axis=1)
    if differs.any():
        return f"gives {_name(expected.loc[differs, 'id'])} another id or split than the manifest"
    return None


def _find_value_fault(logp: Probabilities, ids: npt.NDArray[np.object_]) -> str | None:
    unfinite = ~np.isfinite(logp).all(axis=1)
    if unfinite.any():
        return f"predicts a value that is not finite for {_name(ids[unfinite])}"
    off = np.abs(np.exp(logp).sum(axis=1) - 1) > SUM_TOLERANCE
    if off.any():
        return f"predicts probabilities that do not add up to 1 for {_name(ids[off])}"
    return None


def _name(ids: pd.Series | npt.NDArray[np.object_]) -> str:
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return f"{next(iter(ids))!r}{more}"


def _rejected(run: RunPaths, member: Member, fault: str) -> DataError:
    # The member marked itself as done, so resuming alone would leave it as it is.
    forget = shlex.join(["rm", str(run.member(member.name).done)])
    command = f"{forget} && {resume_command(run)}"
    return DataError(f"{describe(run, member)} {fault}; rerun it with: {command}")
