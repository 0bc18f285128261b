"""Tables of every kind give the columns that astropy, numpy and pandas put into them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from lenshpc.prep.tables import read_table

NAMES = ["J0946+10", "naïve", "a b", "12"]
ENDINGS = [".csv", ".parquet", ".fits", ".xml"]


def table(**columns):
    """Return a table with names, whole numbers, numbers and truth values; some are masked."""
    last = [False, False, False, True]
    given = {
        "name": NAMES,
        "number": MaskedColumn([3, 20000000000, -1, 0], mask=last, dtype=np.int64),
        "Redshift": MaskedColumn([0.1, 1 / 3, 5e-324, 0], mask=last, unit="deg"),
        "is_lens": [True, False, True, False],
        "other": np.zeros((4, 3)),
    }
    return Table(given | columns)


def write(path, found):
    """Write an astropy table as what the ending says."""
    if path.suffix == ".csv":
        found.remove_column("other")
        found.to_pandas().to_csv(path, index=False)
    elif path.suffix == ".parquet":
        found.remove_column("other")
        pq.write_table(pa.Table.from_pandas(found.to_pandas()), path)
    elif path.suffix == ".fits":
        found["name"] = np.char.encode(np.char.ljust(found["name"], 12), "utf8")
        images = [fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2)))]
        fits.HDUList([*images, fits.BinTableHDU(found)]).writeto(path)
    else:
        found.write(path, format="votable")
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_table_gives_the_same_columns(ending, tmp_path):
    path = write(tmp_path / f"table{ending}", table())
    found = read_table(path, ["name", "number"], ["is_lens"], ["redshift", "number"])
    assert {name: column.to_pylist() for name, column in (found.texts | found.words).items()} == {
        "name": NAMES,
        "number": ["3", "20000000000", "-1", None],
        "is_lens": ["1", "0", "1", "0"],
    }
    np.testing.assert_array_equal(found.numbers["redshift"], [0.1, 1 / 3, 5e-324, np.nan])
    np.testing.assert_array_equal(found.numbers["number"], [3, 2e10, -1, np.nan])
    assert found.units == ({"redshift": "deg"} if ending in {".fits", ".xml"} else {})
