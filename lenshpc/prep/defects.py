"""Whatever is wrong with sources, all of it: a list beside the store to be, and one error."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lenshpc.errors import DataError, one_line
from lenshpc.files import replacing

NUM_SHOWN = 10
_FIELDS = ("file", "cause", "message")
_HEADER = b"file,cause,message"


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
    """Some sources cannot be used: `defects`, those shown where there may be too many to keep."""

    def __init__(self, message: str, *, defects: Sequence[Defect] = ()) -> None:
        super().__init__(message)
        self.defects = tuple(defects)


@contextmanager
def collecting(defects: list[Defect], path: str, rows: Sequence[int] = (-1,)) -> Iterator[None]:
    """Add what the block raises of a source to a list, once for each of its rows."""
    try:
        yield
    except RefusedError as error:
        defects += error.defects
    except DataError as error:
        told = one_line(error)
        defects += [Defect(path=path, cause=error.cause, error=told, at=at) for at in rows]


def list_path(store: Path) -> Path:
    """Return where the list of all that was refused of a store's sources lies."""
    return store.with_name(f"{store.name}.refused.csv")


def has_header(path: Path, header: bytes) -> bool:
    """Tell whether a file is a list that lenshpc wrote, by its first line, or absent."""
    try:
        with path.open("rb") as stream:
            return stream.readline(len(header) + 2).rstrip() == header
    except FileNotFoundError:
        return True


def foreign_list_error(path: Path) -> DataError:
    """Return the error of a user's own file where a list would be written."""
    return DataError(
        f"{path} was not written by lenshpc, and the list of refused files would replace it; move "
        "it away, or give STORE another name"
    )


def refuse_foreign_list(store: Path) -> None:
    """Raise where the list of a store's refused sources would replace a user's own file."""
    if not has_header(list_path(store), _HEADER):
        raise foreign_list_error(list_path(store))


def remove_list(store: Path) -> None:
    """Remove the list of a store's refused sources, but no file of the user's own."""
    if has_header(list_path(store), _HEADER):
        list_path(store).unlink(missing_ok=True)


@dataclass(frozen=True)
class ShardLists:
    """What was refused of each shard's sources, as processes find it: a file a shard."""

    folder: Path

    def write(self, shard: int, defects: Sequence[Defect]) -> None:
        """Keep what was found of a shard now, and nothing that was found before."""
        place = self._place(shard)
        if not defects:
            place.unlink(missing_ok=True)
            return
        self.folder.mkdir(exist_ok=True)
        for _ in _writing(place, _distinct(defects)):
            pass

    def read(self, shards: Iterable[int]) -> Iterator[Defect]:
        """Yield what was found of some shards."""
        held = {path.name for path in self.folder.glob("*.csv")}
        for place in map(self._place, shards):
            if place.name in held:
                yield from _read(place)

    def _place(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.csv"


def refusal(
    defects: Iterable[Defect],
    listed: Path | None = None,
    *,
    told: str = "cannot be used",
    remedy: str = "correct them, and repeat the command",
) -> RefusedError:
    """Return one error of all defects, which are written to the list at `listed`.

    A file of the user's own that stands there stays as it is, and there is no list.
    Where there are several, its notes are the first of them. `told` says what they have in common.
    The error has all of them where `defects` does.
    """
    if listed and not has_header(listed, _HEADER):
        listed = None
    shown: list[Defect] = []
    causes: Counter[str] = Counter()
    for defect in _writing(listed, _distinct(defects)):
        causes[defect.cause] += 1
        if len(shown) < NUM_SHOWN:
            shown.append(defect)
    kept = defects if isinstance(defects, Sequence) else shown
    if causes.total() == 1:
        return RefusedError(shown[0].error, defects=kept)
    kinds = ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
    where = f", all of them in {listed}" if listed else ""
    error = RefusedError(
        f"{causes.total()} sources {told}: {kinds}{where}; {remedy}",
        defects=kept,
    )
    for defect in shown:
        error.add_note(defect.error)
    return error


def _read(path: Path) -> Iterator[Defect]:
    with path.open(encoding="utf-8", errors="backslashreplace", newline="") as stream:
        for row in csv.DictReader(stream):
            yield Defect(path=row["file"], cause=row["cause"], error=row["message"])


def _distinct(defects: Iterable[Defect]) -> Iterator[Defect]:
    """Yield each defect once: what is wrong with a stack is found with each of its rows."""
    seen: set[tuple[str, str]] = set()
    for defect in defects:
        key = (defect.path, defect.error)
        if key not in seen:
            seen.add(key)
            yield defect


def _writing(path: Path | None, defects: Iterable[Defect]) -> Iterator[Defect]:
    """Yield what is written to the list, where there is one."""
    with ExitStack() as stack:
        if path is None:
            yield from defects
            return
        temporary = stack.enter_context(replacing(path))
        stream = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        writer = csv.writer(stream)
        writer.writerow(_FIELDS)
        for defect in defects:
            writer.writerow((defect.path, defect.cause, defect.error))
            yield defect
