"""Whatever is wrong with sources, all of it: a list beside the store to be, and one error."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lenshpc.errors import DataError, one_line
from lenshpc.files import replacing

NUM_SHOWN = 10
FIELDS = ("file", "cause", "message")


@dataclass(frozen=True, kw_only=True, slots=True)
class Defect:
    """Why one source cannot be used: `at` is its row in the block that was read.

    `path` is its place under SOURCE, `cause` the kind of the fault, `error` the line that says all.
    """

    path: str
    cause: str
    error: str
    at: int = -1


class RefusedError(DataError):
    """Some sources cannot be used, each of which is in `defects`."""

    def __init__(self, message: str, *, defects: Sequence[Defect] = ()) -> None:
        super().__init__(message)
        self.defects = tuple(defects)


def name_defect(path: str, error: DataError, at: int = -1) -> Defect:
    """Return what an error says of one source."""
    return Defect(path=path, cause=error.cause, error=one_line(error), at=at)


def list_path(store: Path) -> Path:
    """Return where the list of what was refused lies."""
    return store.with_name(f"{store.name}.refused.csv")


def write_list(path: Path, defects: Iterable[Defect]) -> None:
    """Replace the list at `path`."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(FIELDS)
        writer.writerows((one.path, one.cause, one.error) for one in defects)


def read_list(path: Path) -> list[Defect]:
    """Return what a list holds."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        return [Defect(path=row["file"], cause=row["cause"], error=row["message"]) for row in rows]


def refusal(defects: Iterable[Defect], listed: Path | None = None) -> RefusedError:
    """Return one error of all defects; its notes are the first of them where there are several."""
    found = list(dict.fromkeys(Defect(path=d.path, cause=d.cause, error=d.error) for d in defects))
    if len(found) == 1:
        return RefusedError(found[0].error, defects=found)
    counts = Counter(defect.cause for defect in found).most_common()
    kinds = ", ".join(f"{count} {cause}" for cause, count in counts)
    where = f"; the whole list is in {listed}" if listed else ""
    error = RefusedError(
        f"{len(found)} faults in the sources: {kinds}{where}; mend them and repeat the command",
        defects=found,
    )
    for defect in found[:NUM_SHOWN]:
        error.add_note(defect.error)
    return error
