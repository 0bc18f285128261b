"""FITS files whose own sums, as astropy writes them, do not fit their bytes are refused."""

import io

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from lenshpc.errors import DataError
from lenshpc.prep.decode import Pickles, SourceFile, decode
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.tables import read_table

PIXELS = np.random.default_rng(1).integers(0, 99, (1, 40, 40)).astype(np.int16)
IMAGE = ImageFormat(
    format="fits", shape=(1, 40, 40), dtype="int16", channels=("i",), hdu="SCI", axes="hw"
)
PLAIN = fits.ImageHDU(PIXELS[0], name="SCI")
PACKED = fits.CompImageHDU(PIXELS[0], name="SCI", compression_type="RICE_1")
TABLE = fits.BinTableHDU(Table({"name": ["a", "b"], "label": [0, 1]}))


def written(unit, checksum=True):
    """Return the bytes of a file in which an HDU that is not read follows another."""
    stream = io.BytesIO()
    units = [fits.PrimaryHDU(), unit, fits.ImageHDU(PIXELS[0], name="WHT")]
    fits.HDUList(units).writeto(stream, checksum=checksum)
    return bytearray(stream.getvalue())


def place(content, number=1):
    """Return where header and data of an HDU begin, and where it ends."""
    with fits.open(io.BytesIO(content), disable_image_compression=True) as units:
        found = units[number].fileinfo()
    return found["hdrLoc"], found["datLoc"], found["datLoc"] + found["datSpan"]


def decoded(content):
    return decode([SourceFile("1.fits", bytes(content))], IMAGE, Pickles())[0]


@pytest.mark.parametrize("checksum", [True, "datasum", False])
@pytest.mark.parametrize("unit", [PLAIN, PACKED], ids=["plain", "packed"])
def test_sums_that_fit_are_taken(unit, checksum):
    content = written(unit, checksum)
    np.testing.assert_array_equal(decoded(content), PIXELS, strict=True)
    if checksum:  # of what is not read no sum is asked for
        content[place(content, 2)[1]] ^= 1
        np.testing.assert_array_equal(decoded(content), PIXELS, strict=True)


@pytest.mark.parametrize("checksum", [True, "datasum"])
@pytest.mark.parametrize("unit", [PLAIN, PACKED], ids=["plain", "packed"])
def test_changed_byte_of_data_is_found(unit, checksum):
    content = written(unit, checksum)
    content[place(content)[1] + 9] ^= 1
    with pytest.raises(DataError) as error:
        decoded(content)
    assert str(error.value) == "1.fits is damaged: its DATASUM does not fit; copy it again"
    assert error.value.cause == "damaged"


def test_changed_byte_of_a_header_is_found():
    content = written(fits.ImageHDU(PIXELS[0], fits.Header({"GAIN": 3}), name="SCI"))
    begin, data, _ = place(content)
    at = content.index(b"3 ", content.index(b"GAIN", begin, data))
    content[at] = ord("2")
    with pytest.raises(DataError, match=r"is damaged: its CHECKSUM does not fit \(an edit"):
        decoded(content)


def test_sums_without_a_value_say_nothing():
    unit = fits.ImageHDU(PIXELS[0], fits.Header({"DATASUM": "", "CHECKSUM": ""}), name="SCI")
    content = written(unit, checksum=False)
    assert b"CHECKSUM=" in content
    np.testing.assert_array_equal(decoded(content), PIXELS, strict=True)


def test_changed_row_of_a_table_is_found(tmp_path):
    path = tmp_path / "t.fits"
    content = written(TABLE)
    path.write_bytes(content)
    assert read_table(path, ["name"], ["label"]).words["label"].to_pylist() == ["0", "1"]
    content[place(content)[1] + 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t.fits is damaged: its DATASUM does not fit; copy it"):
        read_table(path, ["name"])
