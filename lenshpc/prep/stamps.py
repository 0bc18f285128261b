"""Stacks, and the files that label their rows, must stay as they were scanned until all is read."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from lenshpc.errors import DataError
from lenshpc.files import read_sealed, write_sealed
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.labels import list_beside
from lenshpc.prep.stacks import find_stacks

Stamps = Mapping[str, list[int]]  # path under SOURCE → size and time of the last change, in ns

CHANGED = "changed"  # the cause
_FILE = "stamps.json"


def stamp_labels(root: Path, dataset: Dataset) -> Stamps:
    """Return the stamps of all files that may say the labels of stacks' rows, before it is read."""
    if not dataset.image.is_stack:
        return {}
    names = set(dataset.tables)
    for entry in dataset.stacks:
        for file in find_stacks(root, entry.file):
            names |= {file, *list_beside(entry, file)}
    return _stamp(root, names)


def write_stamps(folder: Path, root: Path, table: pa.Table, labels: Stamps) -> None:
    """Keep in a draft the stamps of all stacks in the table of a scan, and of their labels.

    They are of this command, and so no part of what tells one draft from others.
    """
    files = {name for column in ("file", "partner") for name in table[column].unique().to_pylist()}
    # Older ones win: labels were read after them.
    write_sealed(folder / _FILE, {"files": {**_stamp(root, files - {""}), **labels}})


def read_stamps(folder: Path) -> Stamps:
    """Return the stamps that are kept in a folder; none where there are none."""
    try:
        stamps: Stamps = read_sealed(folder / _FILE)["files"]
    except FileNotFoundError:
        return {}
    return stamps


def check_stamps(root: Path | str, stamps: Stamps, files: Iterable[str]) -> None:
    """Raise where one of some files is not as its stamp has it; those without one may be so."""
    for file in files:
        if file in stamps and _read_stamp(f"{root}/{file}") != stamps[file]:
            raise DataError(
                f"{root}/{file} changed while the command ran; repeat it when the file no longer "
                "changes",
                cause=CHANGED,
            )


def _stamp(root: Path, files: Iterable[str]) -> dict[str, list[int]]:
    return {file: _read_stamp(f"{root}/{file}") for file in sorted(files)}


def _read_stamp(path: str) -> list[int]:
    """Return nothing of a file that is absent, which tells it from each that is there."""
    try:
        status = Path(path).stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
