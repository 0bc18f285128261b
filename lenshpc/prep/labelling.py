"""Where labels, splits and groups come from where no folder tells them: stacks, tables, mosaics."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lenshpc.config import Frozen
from lenshpc.prep.formats import InnerPath, check_pattern
from lenshpc.store.schema import TAKEN_NAMES

SplitName = Literal["train", "val", "test", "unlabelled"]
_TAKEN = TAKEN_NAMES | {"file", "at", "partner"}  # by the store, and by the table of its rows


def _free_name(name: str) -> str:
    if name in _TAKEN:
        raise ValueError(f"the store itself has an array {name}; give the number another name")
    return name


Column = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$"), AfterValidator(_free_name)]
# As a table of somebody else has it; the store's own names are `Column`.
TableColumn = Annotated[str, Field(min_length=1, max_length=200)]
POSITION = ("ra_deg", "dec_deg")  # the store's columns of a position, ICRS
# What a store, or the table of a scan, has of its own.
RESERVED = {
    *("id", "label", "split", "group", "file", "at", "partner", "sha256", "size", "moments"),
    *("images", "targets", "masks"),
}


class TruthTable(Frozen):
    """Columns of numbers in a CSV file of SOURCE whose column `id` names the images.

    Real data have no such file: where it is absent, or lacks an image or its number, that is NaN.
    """

    file: InnerPath = "truth.csv"
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]


class StackArrays(Frozen):
    """What says more of a stack's rows, one value a row each.

    An array of the same file, `NAME:FIELD` for a field of a compound one; a .npy file beside it; or
    `TABLE:COLUMN` of a table that has the rows' order.
    """

    label: TableColumn | None = None
    id: TableColumn | None = None
    split: TableColumn | None = None
    group: TableColumn | None = None


class StackFiles(Frozen):
    """Stacks of one kind: a file under SOURCE, or a pattern with * and ?."""

    file: InnerPath
    split: SplitName = "train"
    arrays: StackArrays = StackArrays()


class Position(Frozen):
    """The columns of a catalogue with right ascension and declination, ICRS, in degrees."""

    ra: TableColumn
    dec: TableColumn


class SkyCells(Frozen):
    """Groups by position: the HEALPix cells of an order, of 58.6 degrees / 2^order a side."""

    healpix_order: Annotated[int, Field(ge=0, le=20)]


class Catalogue(Frozen):
    """A table with a row an object; each key but `unmatched` and `file` names columns."""

    file: InnerPath
    id: TableColumn
    label: TableColumn | None = None
    split: TableColumn | None = None
    group: TableColumn | SkyCells | None = None
    position: Position | None = None
    columns: tuple[Column, ...] = ()
    unmatched: Literal["refuse", "leave_out", "unlabelled"] = "refuse"

    @model_validator(mode="after")
    def _cells_have_positions(self) -> Self:
        if isinstance(self.group, SkyCells) and self.position is None:
            raise ValueError("group by healpix_order needs position: {ra: COLUMN, dec: COLUMN}")
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the columns that the store gets, the position's among them."""
        return (*self.columns, *(POSITION if self.position else ()))


class Mosaics(Frozen):
    """FITS images with a WCS, a tile and band each, of which cut-outs are made."""

    files: Annotated[str, check_pattern("tile", "band")]
    edge: Literal["refuse", "fill"] = "refuse"
