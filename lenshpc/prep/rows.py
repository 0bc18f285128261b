"""The rows of a store to be, as an Arrow table: no Python object a row, however many there are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lenshpc.store.layout import SPLITS, UNLABELLED

TEXT = pa.large_string()
FILES = pa.dictionary(pa.int32(), TEXT)
SCHEMA = pa.schema(
    {
        "id": TEXT,
        "label": pa.int16(),
        "split": pa.uint8(),
        "file": FILES,
        "at": pa.int64(),
        "partner": FILES,
    }
)


def file_rows(
    files: pa.Array,
    partners: pa.Array | None = None,
    *,
    ids: pa.Array | None = None,
    label: int = UNLABELLED,
    split: str = "test",
) -> pa.Table:
    """Return a row for each file that is one image; its id is the file unless `ids` are given."""
    places = pa.array(np.arange(len(files), dtype=np.int32))
    columns = {
        "file": pa.DictionaryArray.from_arrays(places, files),
        "at": _repeat(-1, len(files), pa.int64()),
        "partner": _no_partner(len(files))
        if partners is None
        else pa.DictionaryArray.from_arrays(places, partners),
    }
    return _table(files if ids is None else ids, label, split, columns)


def stack_rows(
    file: str, num_rows: int, partner: str = "", *, label: int = UNLABELLED, split: str = "test"
) -> pa.Table:
    """Return a row for each image of a stack, its id `file#row`."""
    at = pa.array(np.arange(num_rows))
    ids = pc.binary_join_element_wise(pa.scalar(file, TEXT), at.cast(TEXT), pa.scalar("#", TEXT))
    columns = {"file": _one_file(file, num_rows), "at": at, "partner": _one_file(partner, num_rows)}
    return _table(ids, label, split, columns)


def cutout_rows(
    ids: pa.Array, files: pa.Array, places: NDArray[np.int32], at: NDArray[np.int64], label: int
) -> pa.Table:
    """Return a row for each image of several stacks: the place of its file, and its row in it."""
    columns = {
        "file": pa.DictionaryArray.from_arrays(pa.array(places), files),
        "at": pa.array(at),
        "partner": _one_file("", len(ids)),
    }
    return _table(ids, label, "train", columns)


def join_rows(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of several tables in one piece."""
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def set_columns(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return a table with these columns, in the place of those of their names."""
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = (
            table.append_column(name, values)
            if place < 0
            else table.set_column(place, name, values)
        )
    return table


def number_columns(rows: pa.Table, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return columns of numbers as (n,K); what a table lacks is NaN."""
    values = np.full((rows.num_rows, len(names)), np.nan)
    for place, name in enumerate(names):
        if name in rows.column_names:
            values[:, place] = rows[name].to_numpy()
    return values


def _table(ids: pa.Array, label: int, split: str, columns: dict[str, pa.Array]) -> pa.Table:
    labels = _repeat(label, len(ids), pa.int16())
    splits = _repeat(SPLITS.index(split), len(ids), pa.uint8())
    columns = {"id": ids, "label": labels, "split": splits, **columns}
    return pa.table(columns, schema=SCHEMA)


def _repeat(value: Any, num: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), num)


def _no_partner(num: int) -> pa.Array:
    return _one_file("", num)


def _one_file(file: str, num: int) -> pa.Array:
    places = pa.array(np.zeros(num, np.int32))
    return pa.DictionaryArray.from_arrays(places, pa.array([file], TEXT))
