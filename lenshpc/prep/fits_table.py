"""Columns of the first table of a FITS file, with astropy."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lenshpc.errors import DataError
from lenshpc.prep.columns import BLOCK_ROWS, Block, OpenTable
from lenshpc.prep.fits_sums import check_sums
from lenshpc.run.extras import require

# One value a row: truth values, whole numbers, floats, or a text of any width.
_SCALAR = re.compile(r"1?[LBIJKED]|[0-9]*A[0-9]*")


@contextmanager
def open_fits_table(path: Path) -> Iterator[OpenTable]:
    """Yield the first binary table of a FITS file; columns of several values a row are no part."""
    require("fits", "FITS")
    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what bends the standard in a header changes no value
        # Of an open file: astropy leaves its own open where it raises.
        with path.open("rb") as stream, fits.open(stream, memmap=True) as units:
            unit = _find_table(path, units)
            _check_size(path, unit)
            with path.open("rb") as content:
                check_sums(str(path), unit, content)
            columns = [one for one in unit.columns if _SCALAR.fullmatch(str(one.format).strip())]

            def read(texts: Sequence[str], numbers: Sequence[str]) -> Iterator[Block]:
                data, names = unit.data, dict.fromkeys([*texts, *numbers])
                for first in range(0, len(data), BLOCK_ROWS):
                    some = data[first : first + BLOCK_ROWS]
                    yield {name: _read_column(some, name) for name in names}

            yield OpenTable(
                names=[one.name for one in columns],
                read=read,
                units={one.name: str(one.unit) for one in columns if one.unit},
            )


def _read_column(data: Any, name: str) -> Any:
    """Return some rows of a column, masked where they hold what stands for no value."""
    values, null = np.asarray(data.field(name)), data.columns[name].null
    stored = data.view(np.ndarray)[name]
    if values.dtype.kind == "b":  # of which astropy takes all but T for false
        return np.ma.masked_array(values, ~np.isin(stored, [ord("T"), ord("F")]))
    if null is None or values.dtype.kind not in "iuf":
        return values
    return np.ma.masked_array(values, stored == null)


def _find_table(path: Path, units: Any) -> Any:
    from astropy.io import fits

    for unit in units:
        if isinstance(unit, fits.BinTableHDU) and not isinstance(unit, fits.CompImageHDU):
            return unit
    held = ", ".join(type(unit).__name__.removesuffix("HDU") for unit in units)
    raise DataError(
        f"{path} holds {held}, but no binary table; save the catalogue as a binary table"
    )


def _check_size(path: Path, unit: Any) -> None:
    """Raise where the rows are not as long as the columns, or there are fewer than promised."""
    width, num_rows = unit.header["NAXIS1"], unit.header["NAXIS2"]
    if unit.columns.dtype.itemsize != width:
        raise DataError(
            f"{path} is damaged: rows of {width} bytes, columns of "
            f"{unit.columns.dtype.itemsize}; copy it again"
        )
    held = path.stat().st_size - unit.fileinfo()["datLoc"]
    if width * num_rows > held:
        raise DataError(
            f"{path} is truncated: its header declares {width * num_rows} bytes of rows, the file "
            f"holds {held}; copy it again"
        )
