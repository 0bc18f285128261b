"""What members predicted: read, held against the rows that the Plan gives them, or refused.

A member that is refused has marked itself as done, so the refusal says how to have it made again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.errors import DataError, one_line
from lenshpc.files import read_checked
from lenshpc.run.completion import hashes_of, refusal_of
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, scored_rows
from lenshpc.run.tables import MemberTable, sort_rows

ENSEMBLE = "ensemble"  # the name of the line that combines several models
KEYS = ["row", "id", "split"]


def evaluated_rows(splits: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the manifest that members predict, with `dev` renamed to `oof`."""
    import pyarrow as pa

    kept = splits if (mask := mask_evaluated(splits)).all() else splits[mask]
    # By way of codes: as fixed-width letters the words would take ten times the memory.
    codes = (kept["split"] == "test").to_numpy().view(np.int8)
    words = pa.DictionaryArray.from_arrays(codes, pa.array(["oof", "test"], pa.large_string()))
    split = pd.array(words.cast(pa.large_string()), dtype="str")
    return kept.assign(split=split).reset_index(drop=True)


def mask_evaluated(splits: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which rows of the manifest (N,) members predict: those of a fold, and test rows."""
    return ((splits["split"] == "test") | (splits["fold"] >= 0)).to_numpy()


def mask_predicted(member: Member, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which evaluated rows a member predicts: its validation fold and all test rows."""
    return ((rows["split"] == "test") | (rows["fold"] == member.fold)).to_numpy()


def has_column(run: RunPaths, member: Member, name: str) -> bool:
    """Say whether a done member's predictions have a column."""
    return name in MemberTable(run, member).columns


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
        frame: pd.DataFrame = sort_rows(MemberTable(run, member).read(wanted)).to_pandas()
        frame = frame.astype({"split": "str"})[[*KEYS, *frame.columns.drop(KEYS)]]
    except DataError:
        raise
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = one_line(error)
        raise refusal_of(run, member, f"has predictions that cannot be read ({reason})") from error
    fault = _find_row_fault(frame, expected)
    if fault:
        raise refusal_of(run, member, fault)
    unfinite = ~np.isfinite(frame.select_dtypes(np.floating).to_numpy()).all(axis=1)
    if unfinite.any():
        raise refusal_of(
            run,
            member,
            f"predicts a value that is not finite for {name_ids(frame['id'][unfinite])}",
        )
    return frame


def open_array(run: RunPaths, member: Member, name: str) -> tuple[Any, pd.Index]:
    """Return a member's array `name`, such as `embedding`, and the store's row at each place."""
    import zarr

    arrays = _check_array(run, member, name)
    # The table says which row lies at which place of the array: they were written together.
    order = MemberTable(run, member).read(["row"])["row"].to_pandas()
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
    """Return what is wrong with the rows of a table that is in their order, if anything is."""
    rows = frame["row"].to_numpy()
    if not np.array_equal(rows, expected["row"]):
        return _find_other_rows(frame, expected)
    differs = (frame["id"] != expected["id"]) | (frame["split"] != expected["split"].astype("str"))
    if differs.any():
        return (
            f"gives {name_ids(expected.loc[differs, 'id'])} another id or split than the manifest"
        )
    return None


def _find_other_rows(frame: pd.DataFrame, expected: pd.DataFrame) -> str:
    twice = frame.loc[frame["row"].duplicated(), "id"]
    if len(twice):
        return f"predicts {name_ids(twice)} more than once"
    beyond = frame.loc[~frame["row"].isin(expected["row"]), "id"]
    if len(beyond):
        splits = " or ".join(sorted(set(expected["split"])))
        return f"predicts {name_ids(beyond)}, which is not among its rows ({splits})"
    absent = expected.loc[~expected["row"].isin(frame["row"]), "id"]
    return f"does not predict {name_ids(absent)}"


def name_ids(ids: pd.Series) -> str:
    """Name the first of some rows by its id, and say how many more there are."""
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return f"{next(iter(ids))!r}{more}"
