"""Tables of every kind give the columns that astropy, numpy and pandas put into them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from byte_changes import assert_refused, limiting, try_changes

from lenshpc.errors import DataError
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


REFUSED = {
    "LFS pointer": ("t.csv", b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
    "HDF5": ("t.fits", b"\x89HDF\r\n\x1a\n", "is HDF5, expected a table as FITS; save it so"),
    "FITS": ("t.parquet", b"SIMPLE  =", "is FITS, expected a table as Parquet; save it so"),
    "Parquet": ("t.csv", b"PAR1", "is a table as Parquet, expected a table as CSV; save it so"),
    "packed": ("t.xml", b"\x1f\x8b\x08", "is packed by gzip, expected a VOTable; unpack it"),
    "text": ("t.txt", b"a,b", "does not have the file extension of a table (.csv .parquet .fits"),
    "no Parquet": ("t.parquet", b"hello, world", "is not a table with values for name"),
    "no XML": ("t.vot", b"hello, world", "is damaged: "),
    "no table": (
        "t.vot",
        b"<?xml version='1.0'?><VOTABLE/>",
        "is not a VOTable with a table and fields",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_file_that_is_no_such_table_is_one_line(name, tmp_path):
    file, content, told = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_table(tmp_path / file, ["name"])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_columns_that_are_not_there_or_there_twice_are_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("name,Ra,RA\na,1,2\n", encoding="utf-8")
    assert read_table(path, ["NAME"], numbers=["RA"]).numbers["RA"].tolist() == [2]
    with pytest.raises(DataError, match="needs one column ra, it holds it twice"):
        read_table(path, ["name"], numbers=["ra"])
    with pytest.raises(DataError, match="needs one column dec, it holds name, Ra, RA; correct it"):
        read_table(path, ["dec"])


def test_fits_without_a_table_or_cut_in_its_rows_is_one_line(tmp_path):
    path = tmp_path / "t.fits"
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(path)
    with pytest.raises(DataError, match="holds Primary, but no binary table; save"):
        read_table(path, ["name"])
    fits.BinTableHDU(Table({"name": np.arange(9000)})).writeto(path, overwrite=True)
    path.write_bytes(path.read_bytes()[:-20000])
    with pytest.raises(DataError, match="is truncated: its header declares 72000 bytes of rows"):
        read_table(path, ["name"])


def test_truth_value_that_fits_has_not_is_absent(tmp_path):
    path = tmp_path / "t.fits"
    Table({"lens": [True, True, False, False]}).write(path)
    content = path.read_bytes()
    assert content[-2880:-2876] == b"TTFF"
    path.write_bytes(content[:-2880] + b"T\0F\0" + content[-2876:])
    column = read_table(path, words=["lens"]).words["lens"]
    assert column.to_pylist() == ["1", None, "0", None]


@pytest.mark.parametrize(
    "data",
    [
        '<BINARY><STREAM href="file:///etc/passwd"/></BINARY>',
        '<PARQUET type="VOTable-remote-file"><STREAM href="http://127.0.0.1/t"/></PARQUET>',
        "<FITS><STREAM/></FITS>",
    ],
)
def test_votable_leads_to_no_other_file(data, tmp_path):
    table().write(tmp_path / "t.xml", format="votable")
    text = (tmp_path / "t.xml").read_text(encoding="utf-8")
    begin, end = text.index("<TABLEDATA>"), text.index("</TABLEDATA>") + 12
    (tmp_path / "t.xml").write_text(text[:begin] + data + text[end:], encoding="utf-8")
    with pytest.raises(DataError, match="has its rows in another file or as "):
        read_table(tmp_path / "t.xml", ["name"])


def repeat_text(path):
    """Write a million rows of one long text, which are a few bytes in a dictionary."""
    text = pa.array(["x" * 10**6])
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**5, np.int32)), text)
    pq.write_table(pa.table({"name": column}), path, compression="gzip")


def promise_rows(path):
    table().write(path, format="votable")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("<TABLE>", '<TABLE nrows="9999999999">'), encoding="utf-8")


def promise_width(path):
    fits.BinTableHDU(Table({"name": np.arange(4)})).writeto(path)
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"NAXIS2  =                    4", b"NAXIS2  =        9999999999")
    )


BOMBS = {"t.parquet": repeat_text, "t.xml": promise_rows, "t.fits": promise_width}


@pytest.mark.parametrize("file", BOMBS)
def test_small_table_that_promises_much_is_refused_within_little_memory(file, tmp_path):
    BOMBS[file](tmp_path / file)
    assert (tmp_path / file).stat().st_size < 2**20
    read_table(write(tmp_path / f"sound{(tmp_path / file).suffix}", table()), ["name"])
    with limiting(96 * 2**20), pytest.raises(DataError) as error:
        read_table(tmp_path / file, ["name"])
    assert_refused(tmp_path / file, error.value)


@pytest.mark.parametrize("num_tries", [25, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ending", ENDINGS)
def test_changed_table_is_refused_or_gives_whole_columns(ending, num_tries, tmp_path):
    path = write(tmp_path / f"t{ending}", table())

    def attempt(content):
        path.write_bytes(content)
        try:
            found = read_table(path, ["name"], ["number"], ["redshift"])
        except DataError as error:
            assert_refused(path, error)
        else:
            columns = (*found.texts.values(), *found.words.values(), *found.numbers.values())
            assert len({len(column) for column in columns}) == 1

    try_changes(path.read_bytes(), num_tries, attempt)
