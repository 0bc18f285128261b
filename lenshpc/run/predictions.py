"""What members predicted: read, held against the rows that the Plan gives them, or refused.

A member that is refused has marked itself as done, so the refusal says how to have it made again.
"""

import io
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.errors import DataError, one_line
from lenshpc.files import read_checked
from lenshpc.run.completion import describe, hashes_of, read_output, resume_command
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, scored_rows

ENSEMBLE = "ensemble"  # the name of the line that combines several models
KEYS = ["row", "id", "split"]


def evaluated_rows(splits: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the manifest that members predict, with `dev` renamed to `oof`."""
    testing = splits["split"] == "test"
    kept = splits.assign(split=np.where(testing, "test", "oof"))[testing | (splits["fold"] >= 0)]
    return kept.reset_index(drop=True)


def mask_predicted(member: Member, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which evaluated rows a member predicts: its validation fold and all test rows."""
    return ((rows["split"] == "test") | (rows["fold"] == member.fold)).to_numpy()


def mean_over_members(
    members: Sequence[Member],
    rows: pd.DataFrame,
    width: int,
    read: Callable[[Member, pd.DataFrame], npt.NDArray[np.floating]],
) -> npt.NDArray[np.float64]:
    """Return the mean (N, width) of what members say of the rows; NaN where none says anything."""
    # Sums in float64, member by member: a mean of float32 would depend on the order of members.
    total, count = np.zeros((len(rows), width)), np.zeros((len(rows), 1))
    for member in members:
        mine = mask_predicted(member, rows)
        total[mine] += read(member, rows[mine])
        count[mine] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def has_column(run: RunPaths, member: Member, name: str) -> bool:
    """Say whether a done member's predictions have a column."""
    from pyarrow.parquet import read_schema

    return name in read_schema(_open_predictions(run, member)).names


def _open_predictions(run: RunPaths, member: Member) -> io.BytesIO:
    return io.BytesIO(read_output(run, member, run.member(member.name).predictions))


def list_scored(plan: Plan, splits: pd.DataFrame, member: Member) -> pd.DataFrame:
    """Return row, id and split of the rows that a member scores, in the order of its files."""
    return scored_rows(plan, splits, member)[KEYS]


def read_predictions(
    run: RunPaths,
    plan: Plan,
    splits: pd.DataFrame,
    member: Member,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return row, id, split and columns (all if none are named) of the rows that a member scores.

    They are in the order of `scored_rows`. DataError where a row is absent, stands twice, is
    another member's or another image's, or a number is not finite.
    """
    # From the Plan and not from the file: a file cannot say which rows it lacks.
    expected = list_scored(plan, splits, member)
    wanted = None if columns is None else [*KEYS, *columns]
    try:
        frame = pd.read_parquet(_open_predictions(run, member), columns=wanted)
        frame[KEYS]
    except DataError:
        raise
    except (OSError, ValueError, KeyError) as error:
        reason = one_line(error)
        raise refusal_of(run, member, f"has predictions that cannot be read ({reason})") from error
    fault = _find_row_fault(frame, expected)
    if fault:
        raise refusal_of(run, member, fault)
    # By row number, never by place: files list rows in the order of the member.
    ordered = frame.set_index("row").loc[expected["row"]].reset_index()
    unfinite = ~np.isfinite(ordered.select_dtypes(np.floating).to_numpy()).all(axis=1)
    if unfinite.any():
        raise refusal_of(
            run,
            member,
            f"predicts a value that is not finite for {name_ids(ordered['id'][unfinite])}",
        )
    return ordered


def open_array(run: RunPaths, member: Member, name: str) -> tuple[Any, pd.Index]:
    """Return a member's array `name`, such as `embedding`, and the store's row at each place."""
    import zarr

    arrays = _check_array(run, member, name)
    # The table says which row lies at which place of the array: they were written together.
    order = pd.read_parquet(_open_predictions(run, member), columns=["row"])["row"]
    try:
        array = zarr.open_group(arrays, mode="r", zarr_format=3)[name]
    except (OSError, KeyError, ValueError) as error:
        raise refusal_of(run, member, f"has no array {name!r} that can be read") from error
    if not isinstance(array, zarr.Array) or len(order) != array.shape[0]:
        raise refusal_of(run, member, f"has an array {name!r} of another length than its rows")
    return array, pd.Index(order)


def _check_array(run: RunPaths, member: Member, name: str) -> Path:
    """Return where a member's arrays lie, once all files of one of them have their hashes."""
    arrays = run.member(member.name).arrays
    for path, digest in hashes_of(run, member).items():
        # The group's own zarr.json too. A file that is gone is an error, never zarr's fill value.
        if path.startswith((f"{arrays.name}/{name}/", f"{arrays.name}/zarr.json")):
            read_checked(arrays.parent / path, digest)
    return arrays


def read_array(
    run: RunPaths, member: Member, name: str, rows: npt.NDArray[np.integer]
) -> npt.NDArray[np.generic]:
    """Return a member's array `name` of rows of the store, in their order."""
    array, order = open_array(run, member, name)
    places = order.get_indexer(pd.Index(rows))
    if (places < 0).any():
        raise refusal_of(run, member, f"does not predict row {rows[places < 0][0]}")
    ascending, where = np.unique(places, return_inverse=True)
    return np.asarray(array.oindex[ascending])[where]


def _find_row_fault(frame: pd.DataFrame, expected: pd.DataFrame) -> str | None:
    twice = frame.loc[frame["row"].duplicated(), "id"]
    if len(twice):
        return f"predicts {name_ids(twice)} more than once"
    beyond = frame.loc[~frame["row"].isin(expected["row"]), "id"]
    if len(beyond):
        splits = " or ".join(sorted(set(expected["split"])))
        return f"predicts {name_ids(beyond)}, which is not among its rows ({splits})"
    absent = expected.loc[~expected["row"].isin(frame["row"]), "id"]
    if len(absent):
        return f"does not predict {name_ids(absent)}"
    found = frame.set_index("row").loc[expected["row"], ["id", "split"]].to_numpy()
    differs = (found != expected[["id", "split"]].to_numpy()).any(axis=1)
    if differs.any():
        return (
            f"gives {name_ids(expected.loc[differs, 'id'])} another id or split than the manifest"
        )
    return None


def name_ids(ids: pd.Series) -> str:
    """Name the first of some rows by its id, and say how many more there are."""
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return f"{next(iter(ids))!r}{more}"


def refusal_of(run: RunPaths, member: Member, fault: str) -> DataError:
    """Return the refusal of a member's files, with the command that makes them again."""
    # The member marked itself as done, so resuming alone would leave it as it is.
    forget = shlex.join(["rm", str(run.member(member.name).done)])
    command = f"{forget} && {resume_command(run)}"
    return DataError(f"{describe(run, member)} {fault}; rerun it with: {command}")
