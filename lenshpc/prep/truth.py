"""Read what is known of images beside them: numbers in a CSV file, by the images' ids."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lenshpc.errors import DataError, one_line
from lenshpc.files import sha256
from lenshpc.prep.dataset import TruthTable

Numbers = Mapping[str, Mapping[str, float]]  # id → column → number


def digest_truth(root: Path, truth: TruthTable | None) -> str | None:
    """Return the SHA-256 of the file, read once to find its mistakes; None if there is none."""
    if truth is None or not read_truth(root, truth):
        return None
    return sha256(root / truth.file)


def read_truth(root: Path, truth: TruthTable | None) -> Numbers:
    """Return the declared numbers of each image that the file names; nothing if there is none."""
    if truth is None or not (root / truth.file).exists():
        return {}
    path = root / truth.file
    try:
        table = pd.read_csv(path, usecols=["id", *truth.columns], dtype={"id": str})
        numbers = table[[*truth.columns]].astype(np.float64)
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise DataError(
            f"{path} lacks the column id, or numbers in {', '.join(truth.columns)} ({reason}); "
            "correct it, or `truth` in the dataset file"
        ) from error
    twice = table.loc[table["id"].duplicated(), "id"]
    if len(twice) or table["id"].isna().any():
        found = f"names {twice.iloc[0]!r} twice" if len(twice) else "has a row without an id"
        raise DataError(f"{path} {found}; each image has one row: correct it")
    infinite = table.loc[np.isinf(numbers.to_numpy()).any(axis=1), "id"]
    if len(infinite):
        raise DataError(f"{path} has a number without end for {infinite.iloc[0]!r}; correct it")
    values = numbers.to_numpy().tolist()
    return {
        name: dict(zip(truth.columns, row, strict=True))
        for name, row in zip(table["id"].tolist(), values, strict=True)
    }
