"""What a table file offers: names of columns, their units, and their values some rows at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lenshpc.errors import DataError

Block = Mapping[str, Any]  # column → values of some rows, as its library has them
BLOCK_ROWS = 2**16


@dataclass(frozen=True, kw_only=True)
class OpenTable:
    """A table of which no row is read yet; `units` of the columns that say theirs.

    `read` yields the columns asked for: those wanted as texts, then those wanted as numbers.
    """

    names: Sequence[str]
    read: Callable[[Sequence[str], Sequence[str]], Iterator[Block]]
    units: Mapping[str, str] = field(default_factory=dict)


def find_column(path: Path, name: str, held: Sequence[str]) -> str:
    """Return the column of that name, or the one that differs in case alone; else raise."""
    for same in (
        [one for one in held if one == name],
        [one for one in held if one.casefold() == name.casefold()],
    ):
        if len(same) == 1:
            return same[0]
        if same:
            raise DataError(f"{path} needs one column {name}, it holds it twice; correct it")
    more = ", …" if len(held) > 8 else ""
    shown = ", ".join(held[:8]) or "nothing"
    raise DataError(f"{path} needs one column {name}, it holds {shown}{more}; correct it")
