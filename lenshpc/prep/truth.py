"""Read what is known of images beside them: numbers in a CSV file, by the images' ids."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from lenshpc.errors import DataError
from lenshpc.prep.content import check_content, first_line, naming_defects
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.labelling import TruthTable

Numbers = Mapping[str, Mapping[str, float]]  # id → column → number


def join_truth(root: Path, dataset: Dataset, table: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the rows with their numbers, and how many have some; NaN where there is no file.

    Raise if none do: images and rows of the file are then named in two ways.
    """
    if dataset.truth is None:
        return table, ()
    found = read_truth(root, dataset.truth)
    ids = table["id"].to_pylist()
    unknown = dict.fromkeys(dataset.truth.columns, float("nan"))
    rows = [found.get(identifier, unknown) for identifier in ids]
    for name in dataset.truth.columns:
        table = table.append_column(name, pa.array([row[name] for row in rows], pa.float64()))
    return table, _compare(root / dataset.truth.file, found, ids)


def _compare(path: Path, rows: Numbers, ids: list[str]) -> tuple[str, ...]:
    if not os.path.lexists(path):
        return ()
    known = sum(identifier in rows for identifier in ids)
    if not known:
        row = f"its first row is of {next(iter(rows))!r}" if rows else "it has no rows"
        raise DataError(
            f"none of the {len(ids)} images has a row in {path}: an image is {min(ids)!r}, {row}; "
            "name the rows as the images, by their paths in SOURCE"
        )
    strangers = rows.keys() - set(ids)
    more = f"; {len(strangers)} rows name no image, such as {min(strangers)!r}" if strangers else ""
    return (f"{known} of {len(ids)} images have a row in the truth table {path}{more}",)


def read_truth(root: Path, truth: TruthTable | None) -> Numbers:
    """Return the declared numbers of each image that the file names; nothing if there is none.

    A number that is left out, or is NaN, is not known: NaN. Words and infinities are refused.
    """
    if truth is None or not os.path.lexists(root / truth.file):
        return {}
    path = root / truth.file
    check_content(str(path), "csv")
    with naming_defects(str(path)):
        ids, numbers = _read_columns(path, truth.columns)
    if "" in ids:
        raise DataError(f"{path} has a row without an id; each image has one row: correct it")
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise DataError(f"{path} names {twice!r} twice; each image has one row: correct it")
    endless = np.isinf(numbers).any(axis=1)
    if endless.any():
        found = ids[int(endless.argmax())]
        raise DataError(f"{path} has a number without end for {found!r}; correct it")
    return {
        identifier: dict(zip(truth.columns, values, strict=True))
        for identifier, values in zip(ids, numbers.tolist(), strict=True)
    }


def _read_columns(path: Path, columns: tuple[str, ...]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the ids, and the numbers (rows, columns)."""
    wanted = ["id", *columns]
    types = {"id": pa.string()} | dict.fromkeys(columns, pa.float64())
    try:
        with csv.open_csv(path) as reader:
            held = reader.schema.names
        for name in wanted:
            if held.count(name) != 1:
                found = "holds it twice" if name in held else f"holds {', '.join(held[:8])}"
                raise DataError(f"{path} needs one column {name}, it {found}; correct it")
        options = csv.ConvertOptions(include_columns=wanted, column_types=types)
        table = csv.read_csv(path, convert_options=options)
    except pa.ArrowException as error:
        raise DataError(
            f"{path} is no table of an id and numbers in {', '.join(columns)}: "
            f"{first_line(error)}; correct it, or `truth` in the dataset file"
        ) from error
    numbers = [table[name].to_numpy() for name in columns]  # NaN where there is none
    return table["id"].to_pylist(), np.stack(numbers, axis=1)
