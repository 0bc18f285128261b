"""Merge the members' predictions: each row as often as the Plan says, or an error."""

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.errors import DataError
from lenshpc.run.completion import describe, resume_command
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, scored_rows
from lenshpc.run.recipe import is_variant
from lenshpc.statistics.ensembles import COMBINATIONS, Combination, combine

Probabilities = npt.NDArray[np.floating]

ENSEMBLE = "ensemble"
UPRIGHT, TURNED = "logp", "rot90_logp"  # how the columns of log-probabilities begin
SUM_TOLERANCE = 1e-3  # log-probabilities are float32 and may come from bfloat16 logits


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The rows that were predicted, and each model's probabilities (N, K) of them.

    `rows` holds row, id, label, split (`oof` or `test`), fold and, where the store has any, group.
    A row that no member covers is NaN, which only happens when members are `missing`. Of several
    models `probabilities` has the recipe's ensemble, and `combinations` the ensembles that it could
    have named; `weights` is what each of these gives to the models. `turned` has, of lines whose
    members predicted them, the probabilities of the images turned by 90°.
    """

    classes: tuple[str, ...]
    rows: pd.DataFrame
    probabilities: Mapping[str, Probabilities]
    combinations: Mapping[str, Probabilities] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    turned: Mapping[str, Probabilities] = field(default_factory=dict)
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


def predicted_by(member: Member, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which evaluated rows a member predicts: its validation fold and all test rows."""
    return ((rows["split"] == "test") | (rows["fold"] == member.fold)).to_numpy()


def merge(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, missing: Collection[Member] = ()
) -> Merged:
    """Return the mean probabilities: over seeds out-of-fold, over all members on test rows."""
    rows = evaluated_rows(splits)
    present = {
        model: [one for one in members if one not in missing]
        for model, members in plan.ensembles().items()
    }
    models = {name: _merge_model(run, plan, rows, present[name]) for name in present}
    turned = {
        name: _merge_model(run, plan, rows, members, prefix=TURNED)
        for name, members in present.items()
        if members and all(has_column(run, member, f"{TURNED}_0") for member in members)
    }
    parts = {name: values for name, values in models.items() if not is_variant(name)}
    combined = _combine(plan.recipe.ensemble, rows, parts)
    ensembles = {line: one.apply(np.array([*parts.values()])) for line, one in combined.items()}
    if combined and parts.keys() <= turned.keys():
        turned[ENSEMBLE] = combined[ENSEMBLE].apply(np.array([turned[name] for name in parts]))
    headline = {ENSEMBLE: ensembles.pop(ENSEMBLE)} if ensembles else {}
    return Merged(
        classes=plan.classes,
        rows=rows,
        probabilities=models | headline,
        combinations=ensembles,
        weights={
            line: dict(zip(parts, one.weights, strict=True)) for line, one in combined.items()
        },
        turned=turned,
        missing=tuple(member for member in plan.members if member in missing),
    )


def _combine(
    headline: str, rows: pd.DataFrame, models: Mapping[str, Probabilities]
) -> dict[str, Combination]:
    """Return each combination of two and more models by the name of its line."""
    if len(models) < 2:
        return {}
    names = {kind: f"{ENSEMBLE} ({kind.replace('_', ' ')})" for kind in COMBINATIONS}
    names[headline] = ENSEMBLE
    return {line: combine(kind, rows, list(models.values())) for kind, line in names.items()}


def _merge_model(
    run: RunPaths,
    plan: Plan,
    rows: pd.DataFrame,
    members: Sequence[Member],
    prefix: str = UPRIGHT,
) -> Probabilities:
    columns = [f"{prefix}_{label}" for label in range(len(plan.classes))]
    return mean_over_members(
        members, rows, len(columns), lambda one, mine: read_probabilities(run, one, mine, columns)
    )


def mean_over_members(
    members: Sequence[Member],
    rows: pd.DataFrame,
    width: int,
    read: Callable[[Member, pd.DataFrame], npt.NDArray[np.floating]],
) -> npt.NDArray[np.float64]:
    """Return the mean (N, width) of what members say of the rows; NaN where none says anything."""
    total, count = np.zeros((len(rows), width)), np.zeros((len(rows), 1))
    for member in members:
        mine = predicted_by(member, rows)
        total[mine] += read(member, rows[mine])
        count[mine] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def has_column(run: RunPaths, member: Member, name: str) -> bool:
    """Say whether a member's predictions have a column; False where they cannot be read."""
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import read_schema

    try:
        return name in read_schema(run.member(member.name).predictions).names
    except (OSError, ArrowInvalid):
        return False  # reading other columns will say what is wrong


def read_columns(
    run: RunPaths, member: Member, expected: pd.DataFrame, columns: Sequence[str]
) -> pd.DataFrame:
    """Return a member's columns in the order of the rows that it must have predicted."""
    try:
        frame = pd.read_parquet(
            run.member(member.name).predictions, columns=["row", "id", "split", *columns]
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise rejected(run, member, f"has predictions that cannot be read ({reason})") from error
    fault = _find_row_fault(frame, expected)
    if fault:
        raise rejected(run, member, fault)
    ordered: pd.DataFrame = frame.set_index("row").loc[expected["row"], [*columns]]
    return ordered


def read_probabilities(
    run: RunPaths, member: Member, expected: pd.DataFrame, columns: list[str]
) -> Probabilities:
    """Return a member's probabilities in the order of the rows that it must have predicted."""
    logp = read_columns(run, member, expected, columns).to_numpy(np.float64)
    fault = _find_value_fault(logp, expected["id"].to_numpy())
    if fault:
        raise rejected(run, member, fault)
    probabilities = np.exp(logp)
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def read_array(
    run: RunPaths, member: Member, name: str, rows: npt.NDArray[np.integer]
) -> npt.NDArray[np.generic]:
    """Return a member's array `name`, such as `embedding`, of rows of the store, in their order."""
    import zarr

    files = run.member(member.name)
    try:
        order = pd.read_parquet(files.predictions, columns=["row"])["row"]
        array = zarr.open_group(files.arrays, mode="r")[name]
    except (OSError, KeyError, ValueError) as error:
        raise rejected(run, member, f"has no array {name!r} that can be read") from error
    if not isinstance(array, zarr.Array) or len(order) != array.shape[0]:
        raise rejected(run, member, f"has an array {name!r} of another length than its rows")
    places = pd.Index(order).get_indexer(rows)
    if (places < 0).any():
        raise rejected(run, member, f"does not predict row {rows[places < 0][0]}")
    ascending, where = np.unique(places, return_inverse=True)
    return np.asarray(array.oindex[ascending])[where]


def read_scores(run: RunPaths, plan: Plan, splits: pd.DataFrame, member: Member) -> pd.DataFrame:
    """Return a member's predictions, or refuse them where they are not of its rows."""
    expected = scored_rows(plan, splits, member)[["row", "id", "split"]]
    try:
        frame = pd.read_parquet(run.member(member.name).predictions)
        found = frame[["row", "id", "split"]].sort_values(["row", "split"], ignore_index=True)
    except (OSError, ValueError, KeyError) as error:
        raise rejected(run, member, f"has predictions that cannot be read ({error})") from error
    if not found.equals(
        expected.astype(found.dtypes).sort_values(["row", "split"], ignore_index=True)
    ):
        raise rejected(run, member, "predicts other rows than the manifest gives it")
    numbers = frame.select_dtypes(np.floating)
    faulty = ~np.isfinite(numbers.to_numpy()).all(axis=1)
    if faulty.any():
        raise rejected(
            run, member, f"has a score that is not finite for {frame['id'][faulty].iloc[0]!r}"
        )
    return frame


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


def rejected(run: RunPaths, member: Member, fault: str) -> DataError:
    """Return the refusal of a member's files, with the command that makes them again."""
    # The member marked itself as done, so resuming alone would leave it as it is.
    forget = shlex.join(["rm", str(run.member(member.name).done)])
    command = f"{forget} && {resume_command(run)}"
    return DataError(f"{describe(run, member)} {fault}; rerun it with: {command}")
