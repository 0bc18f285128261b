"""Reading one file: bit-exact pixels, or one error that names the file."""

import gzip
import hashlib
import io
import pickle

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from PIL import Image
from source_sets import read_images, tiny

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.read import SourceReader
from lenshpc.prep.rows import TEXT, file_rows

IMAGE = np.random.default_rng(1).normal(size=(2, 6, 5)).astype(np.float32)
NPY = tiny().image
GREY = ImageFormat(format="image", shape=(1, 8, 6), dtype="uint8", channels=("i",))

SKY = ImageFormat(format="fits", shape=(2, 6, 5), dtype="float32", channels=("a", "b"))


def read_source(path, image, **options):
    """Read the one file of a dataset of one class."""
    dataset = Dataset(name="one", image=image, classes=({"name": "a", "train": "."},))
    rows = file_rows(pa.array([path.name], TEXT), None, label=0)
    return read_images(SourceReader(dataset, path.parent, **options), rows)[path.name]


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def picture(array, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def with_value(value):
    image = IMAGE.copy()
    image[1, 2, 3] = value
    return image


def promising(num_rows):
    """Return a header that promises far more than the file holds."""
    return npy(IMAGE).replace(b"(2, 6, 5), }", f"({num_rows}, 6, 5), }}".encode(), 1)


@pytest.mark.parametrize(
    "array",
    [
        IMAGE,
        np.asfortranarray(IMAGE),
        IMAGE.astype(">f4"),
        IMAGE.astype(np.float16),
        np.arange(60, dtype=np.int16).reshape(2, 6, 5),
    ],
    ids=["plain", "fortran", "big-endian", "float16", "int16"],
)
def test_npy_gives_the_same_pixels_and_the_hash_of_its_bytes(array, tmp_path):
    path = tmp_path / "1.npy"
    path.write_bytes(npy(array))
    image = read_source(path, NPY)
    assert image.pixels.dtype == np.float32
    np.testing.assert_array_equal(image.pixels, array)
    assert image.sha256 == hashlib.sha256(npy(array)).digest()
    assert image.size == len(npy(array))


def test_picture_gives_its_grey_levels(tmp_path):
    levels = np.arange(48, dtype=np.uint8).reshape(8, 6)
    (tmp_path / "1.png").write_bytes(picture(levels, "PNG"))
    np.testing.assert_array_equal(read_source(tmp_path / "1.png", GREY).pixels, levels[None])


BROKEN_NPY = {
    "zero bytes": (b"", "is empty (0 bytes)"),
    "text": (b"hello, world", "is not .npy: starts b'hello,'"),
    "raw pickle": (pickle.dumps(IMAGE), "is a Python pickle"),
    "object array": (
        npy(np.array([IMAGE, 1.0], object), allow_pickle=True),
        "pickled object array",
    ),
    "cut in the pixels": (npy(IMAGE)[:-1], "is truncated: its header declares 240 bytes"),
    "cut in the header": (npy(IMAGE)[:40], "is truncated within its header"),
    "magic alone": (npy(IMAGE)[:6], "is truncated within its header"),
    "too long": (npy(IMAGE) + b"x", "is too long: its header declares 240"),
    "not a header": (npy(IMAGE).replace(b"{'descr'", b"['descr'"), "has a broken .npy header"),
    "version": (npy(IMAGE).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x07"), "truncated within"),
    "huge promise": (promising(9), "has shape (9, 6, 5), expected (2, 6, 5)"),
    "wrong shape": (npy(IMAGE[:1]), "has shape (1, 6, 5), expected (2, 6, 5)"),
    "transposed": (npy(IMAGE.T), "has shape (5, 6, 2), expected (2, 6, 5)"),
    "lossy dtype": (npy(IMAGE.astype(float)), "has dtype float64, which float32 cannot hold"),
    "complex": (npy(IMAGE.astype(complex)), "is too long"),
    "text array": (npy(np.full((2, 6, 5), "a")), "has dtype <U1"),
    "NaN": (npy(with_value(np.nan)), "holds 1 pixels that are NaN, infinite"),
    "infinity": (npy(with_value(-np.inf)), "holds 1 pixels that are NaN, infinite"),
    "far too large": (npy(np.zeros((2, 900, 500))), "is too large for one (2, 6, 5) image"),
}
BROKEN_NPY["complex"] = (npy(IMAGE.astype(np.complex64)), "has dtype complex64, which float32")

WHITE = np.full((8, 6), 255, np.uint8)
BROKEN_PICTURE = {
    "zero bytes": (b"", "is empty (0 bytes)"),
    "text": (b"hello, world", "is not a JPEG or PNG image"),
    "gif": (picture(WHITE, "GIF"), "is a GIF image, expected JPEG or PNG"),
    "truncated jpeg": (
        picture(np.arange(48, dtype=np.uint8).reshape(8, 6), "JPEG")[:-12],
        "damaged",
    ),
    "truncated png": (picture(WHITE, "PNG")[:-30], "damaged"),
    "colour": (picture(np.zeros((8, 6, 3), np.uint8), "PNG"), "has mode RGB, 8 by 6 pixels"),
    "wrong size": (picture(WHITE.T, "PNG"), "has mode L, 6 by 8 pixels, expected 1 channel(s), 8"),
    "16 bits": (picture(WHITE.astype(np.uint16), "PNG"), "has dtype uint16, which uint8"),
}


@pytest.mark.parametrize(
    ("content", "complaint", "image"),
    [pytest.param(*case, NPY, id=f"npy-{name}") for name, case in BROKEN_NPY.items()]
    + [pytest.param(*case, GREY, id=f"picture-{name}") for name, case in BROKEN_PICTURE.items()],
)
def test_broken_file_is_one_line_that_names_it(content, complaint, image, tmp_path):
    path = tmp_path / "broken file.npy"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_source(path, image)
    assert str(error.value).startswith(f"{path} ")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_value_beyond_float32_is_refused(tmp_path):
    np.save(tmp_path / "1.npy", with_value(0).astype(float) * 0 + 1e300)
    wide = NPY.model_copy(update={"dtype": "float64"})
    with pytest.raises(DataError, match="holds 60 pixels that are NaN, infinite or beyond float32"):
        read_source(tmp_path / "1.npy", wide)


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("absent", "cannot be read: No such file or directory"),
        ("folder", "is not a regular file"),
        ("broken link", "is a broken link"),
    ],
)
def test_unreadable_file_is_named(kind, complaint, tmp_path):
    path = tmp_path / "1.npy"
    if kind == "folder":
        path.mkdir()
    if kind == "broken link":
        path.symlink_to("nowhere.npy")
    with pytest.raises(DataError, match=f"{path} {complaint}"):
        read_source(path, NPY)


def write_units(path, *names):
    """Write a FITS file of one image a name."""
    units = [fits.ImageHDU(IMAGE + number, name=name) for number, name in enumerate(names)]
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(path)
    return path


@pytest.mark.parametrize(
    ("hdu", "complaint"),
    [
        ("sci", r"holds 2 HDUs sci, at \[1, 3\]; set `image.hdu` to the number of one"),
        ("dq", "lacks the image dq; it holds the HDUs 0 PRIMARY, 1 SCI, 2 WHT, 3 SCI; set"),
        (4, "lacks the image 4; it holds the HDUs 0 PRIMARY, 1 SCI, 2 WHT, 3 SCI; set"),
        (0, "lacks the image 0; it holds the HDUs 0 PRIMARY, 1 SCI, 2 WHT, 3 SCI; set"),
    ],
)
def test_image_of_a_fits_file_that_is_not_the_only_one_of_its_name_is_refused(
    hdu, complaint, tmp_path
):
    path = write_units(tmp_path / "1.fits", "SCI", "WHT", "SCI")
    with pytest.raises(DataError, match=complaint):
        read_source(path, SKY.model_copy(update={"hdu": hdu}))


@pytest.mark.parametrize(("hdu", "number"), [("wht", 1), (3, 2), (None, 0)])
def test_image_of_a_fits_file_is_the_one_asked_for(hdu, number, tmp_path):
    path = write_units(tmp_path / "1.fits", "SCI", "WHT", "SCI")
    found = read_source(path, SKY.model_copy(update={"hdu": hdu}))
    np.testing.assert_array_equal(found.pixels, IMAGE + number, strict=True)


def write_tile(path, packed):
    """Write a compressed FITS image whose one tile is `packed`."""
    row = fits.Column("COMPRESSED_DATA", "1PB()", array=np.array([list(packed)], dtype=object))
    table = fits.BinTableHDU.from_columns([row])
    cards = {"ZIMAGE": True, "ZCMPTYPE": "GZIP_1", "ZBITPIX": -32, "ZNAXIS": 3}
    sides = {
        f"Z{key}{i + 1}": side for key in ("NAXIS", "TILE") for i, side in enumerate((5, 6, 2))
    }
    table.header.update(cards | sides)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


def test_compressed_fits_gives_its_pixels(tmp_path):
    path = write_tile(tmp_path / "1.fits", gzip.compress(IMAGE.astype(">f4").tobytes()))
    np.testing.assert_array_equal(read_source(path, SKY).pixels, IMAGE, strict=True)


def test_compressed_fits_that_unpacks_to_more_than_its_image_is_refused(tmp_path):
    path = write_tile(tmp_path / "1.fits", gzip.compress(bytes(10**8)))
    with pytest.raises(DataError, match="is damaged: it unpacks to more than its image"):
        read_source(path, SKY)


def test_compressed_fits_whose_unpacking_is_not_safe_is_refused(tmp_path):
    unit = fits.CompImageHDU(np.ones((8, 8), np.int16), compression_type="HCOMPRESS_1")
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(tmp_path / "1.fits")
    flat = ImageFormat(format="fits", shape=(1, 8, 8), dtype="int16", channels=("a",), axes="hw")
    with pytest.raises(
        DataError, match="is compressed with HCOMPRESS_1, which cannot be read safely"
    ):
        read_source(tmp_path / "1.fits", flat)


def test_npy_of_python_2_is_read(tmp_path):
    content = npy(IMAGE).replace(b"(2, 6, 5), }   ", b"(2L, 6L, 5L), }")
    (tmp_path / "1.npy").write_bytes(content)
    np.testing.assert_array_equal(read_source(tmp_path / "1.npy", NPY).pixels, IMAGE)


def test_cause_of_an_error_reaches_another_process():
    error = pickle.loads(pickle.dumps(DataError("1.npy is cut", cause="truncated")))
    assert (str(error), error.cause) == ("1.npy is cut", "truncated")
