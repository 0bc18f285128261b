"""FITS files as archives hand them out: packed, padded, and with channels in HDUs of their own."""

import bz2
import gzip
import io

import numpy as np
import pytest
from astropy.io import fits

from lenshpc.errors import DataError
from lenshpc.prep.decode import Pickles, SourceFile, decode
from lenshpc.prep.formats import ImageFormat

CUBE = np.random.default_rng(3).normal(size=(3, 6, 5)).astype(np.float32)


def declare(shape=(3, 6, 5), dtype="float32", **keys):
    channels = ["g", "r", "i"][: shape[0]]
    return ImageFormat.model_validate(
        {"format": "fits", "shape": shape, "dtype": dtype, "channels": channels} | keys
    )


def written(*units):
    """Return the bytes of a FITS file of an empty primary HDU and these."""
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(stream)
    return stream.getvalue()


def decoded(content, image):
    return decode([SourceFile("1.fits", content)], image, Pickles())[0]


def refused(content, image):
    """Return the error of a file."""
    with pytest.raises(DataError) as error:
        decoded(content, image)
    assert str(error.value).startswith("1.fits")
    assert "\n" not in str(error.value)
    return error.value


PLAIN = written(fits.ImageHDU(CUBE, name="SCI"))
PACKED = {
    "gzip": gzip.compress(PLAIN, mtime=0),
    "gzip of two members": gzip.compress(PLAIN[:3000], mtime=0) + gzip.compress(PLAIN[3000:]),
    "gzip and zeros": gzip.compress(PLAIN, mtime=0) + bytes(512),
    "bzip2": bz2.compress(PLAIN),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_file_gives_its_pixels(name):
    np.testing.assert_array_equal(decoded(PACKED[name], declare()), CUBE, strict=True)


TAILS = {
    "a block of zeros": PLAIN + bytes(2880),
    "some zeros": PLAIN + bytes(100),
    "blanks": PLAIN + b" " * 2880,
    "a newline": PLAIN + b"\n",
    "text": PLAIN + b"signed by the archive",
    "random bytes": PLAIN + np.random.default_rng(0).bytes(9999),
    "no padding": PLAIN[: 2 * 2880 + CUBE.nbytes],
    "some padding": PLAIN[:-1000],
}


@pytest.mark.parametrize("name", TAILS)
def test_what_follows_the_last_image_changes_nothing(name):
    np.testing.assert_array_equal(decoded(TAILS[name], declare()), CUBE, strict=True)


@pytest.mark.parametrize(
    ("content", "told", "cause"),
    [
        (
            PLAIN[: 2 * 2880 + CUBE.nbytes - 1],
            "declares 360 bytes, the file holds 359",
            "truncated",
        ),
        (PLAIN[:4000], "is truncated or damaged in the header of HDU 1", "truncated"),
        (PACKED["gzip"][:-20], "is truncated within its packed bytes", "truncated"),
        (PACKED["bzip2"][:-20], "is truncated within its packed bytes", "truncated"),
        (
            gzip.compress(b"no image", mtime=0),
            "is not a FITS file: it starts with b'no ima'",
            "another format",
        ),
        (
            gzip.compress(bytes(10**8), mtime=0),
            "unpacks to more than the 1050016 bytes",
            "too large",
        ),
        (bz2.compress(bytes(10**8)), "unpacks to more than the 1050016 bytes", "too large"),
        (PACKED["gzip"][:50] + b"\xff" + PACKED["gzip"][51:], "is damaged: ", "damaged"),
    ],
)
def test_file_that_is_cut_or_packs_something_else_says_so(content, told, cause):
    error = refused(content, declare())
    assert told in str(error)
    assert error.cause == cause


@pytest.mark.parametrize("packing", ["RICE_1", "GZIP_1", "GZIP_2"])
def test_channels_in_compressed_extensions_are_read_without_loss(packing):
    values = np.random.default_rng(4).integers(0, 60000, (3, 6, 5)).astype(np.uint16)
    units = [
        fits.CompImageHDU(plane, name=band, compression_type=packing)
        for band, plane in zip("GRI", values, strict=True)
    ]
    image = declare(dtype="uint16", hdu=["G", "R", "I"])
    np.testing.assert_array_equal(decoded(written(*units), image), values, strict=True)
    first = declare((1, 6, 5), "uint16")
    np.testing.assert_array_equal(decoded(written(*units), first), values[:1], strict=True)


@pytest.mark.parametrize("packing", ["HCOMPRESS_1", "PLIO_1"])
def test_packing_that_is_not_read_safely_is_named(packing):
    unit = fits.CompImageHDU(np.ones((8, 8), np.int16), compression_type=packing)
    error = refused(written(unit), declare((1, 8, 8), "int16"))
    assert f"is compressed with {packing}, which cannot be read safely here" in str(error)
    assert str(error).endswith("unpack it with: funpack")
    assert error.cause == "another packing"


BANDS = [fits.ImageHDU(plane, name=band) for band, plane in zip("GRI", CUBE, strict=True)]


@pytest.mark.parametrize(
    ("hdu", "order"),
    [(["G", "R", "I"], [0, 1, 2]), (["i", "g", "r"], [2, 0, 1]), ([3, 1, 2], [2, 0, 1])],
)
def test_list_of_hdus_gives_one_channel_each(hdu, order):
    weights = fits.ImageHDU(CUBE[0] * 0, name="WHT")
    content = written(*BANDS, weights)
    np.testing.assert_array_equal(decoded(content, declare(hdu=hdu)), CUBE[order], strict=True)


def test_extensions_of_one_name_are_channels_in_the_order_of_their_versions():
    units = [fits.ImageHDU(CUBE[version - 1], name="SCI", ver=version) for version in (3, 1, 2)]
    weights = [fits.ImageHDU(CUBE[0], name="WHT", ver=version) for version in (1, 2, 3)]
    found = decoded(written(*units, *weights), declare(hdu="SCI"))
    np.testing.assert_array_equal(found, CUBE, strict=True)


def test_extensions_of_one_name_without_versions_are_channels_in_the_order_of_the_file():
    units = [fits.ImageHDU(plane, name="SCI") for plane in CUBE]
    np.testing.assert_array_equal(decoded(written(*units), declare(hdu="SCI")), CUBE, strict=True)


def test_extensions_of_one_name_of_another_number_are_refused():
    error = refused(written(*[fits.ImageHDU(CUBE[0], name="SCI")] * 4), declare(hdu="SCI"))
    assert "holds 4 HDUs SCI, at [1, 2, 3, 4]; set `image.hdu` to the number of one" in str(error)


def test_bands_of_several_dtypes_become_the_declared_one():
    planes = [np.full((6, 5), value, dtype) for value, dtype in ((1, "u1"), (-2, "i2"), (3, "f4"))]
    units = [fits.ImageHDU(plane, name=band) for band, plane in zip("GRI", planes, strict=True)]
    hdu = ["G", "R", "I"]
    found = decoded(written(*units), declare(hdu=hdu))
    np.testing.assert_array_equal(found, np.stack(planes).astype(np.float32), strict=True)
    error = refused(written(*units), declare(hdu=hdu, dtype="int16"))
    assert "1.fits: channel i has dtype float32, which int16 cannot hold" in str(error)
    assert error.cause == "wrong dtype"


def test_band_of_another_shape_is_refused():
    units = [*BANDS[:2], fits.ImageHDU(CUBE[2, 1:], name="I")]
    error = refused(written(*units), declare(hdu=["G", "R", "I"]))
    assert "has shape (5, 5), expected (6, 5)" in str(error)


@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5), (1, 1, 6, 5)])
@pytest.mark.parametrize("axes", ["hw", "chw"])
def test_axes_of_length_one_before_a_plane_hold_nothing(shape, axes):
    content = written(fits.ImageHDU(CUBE[0].reshape(shape)))
    found = decoded(content, declare((1, 6, 5), axes=axes))
    np.testing.assert_array_equal(found, CUBE[:1], strict=True)


@pytest.mark.parametrize("cards", [{}, {"BZERO": 2**63}, {"BZERO": 1}, {"BLANK": -1}])
def test_integers_of_64_bits_are_not_rounded(cards):
    unit = fits.ImageHDU(np.full((6, 5), 2**53 + 1, np.int64))
    unit.header.update(cards)
    error = refused(written(unit), declare((1, 6, 5), "float64"))
    dtype = "uint64" if cards.get("BZERO") == 2**63 else "int64"
    assert f"has dtype {dtype}, which float64 cannot hold" in str(error)
    plain = written(fits.ImageHDU(np.full((6, 5), 2**53 + 1, np.int64)))
    assert (decoded(plain, declare((1, 6, 5), "int64")) == 2**53 + 1).all()


@pytest.mark.parametrize(
    ("cards", "dtype"),
    [({"BZERO": 32768}, "uint16"), ({"BSCALE": 0.5}, "float32"), ({"BLANK": -1}, "float32")],
)
def test_scaled_values_are_those_that_astropy_gives(cards, dtype):
    unit = fits.ImageHDU(np.arange(30, dtype=np.int16).reshape(6, 5))
    unit.header.update(cards)
    content = written(unit)
    with fits.open(io.BytesIO(content)) as units:
        expected = units[1].data
    found = decoded(content, declare((1, 6, 5), dtype))
    np.testing.assert_array_equal(found[0], expected.astype(dtype))
