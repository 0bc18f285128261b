"""Damaged image files: each is refused in one line, or gives pixels as they were declared."""

import bz2
import gzip
import io
import zipfile

import cv2
import h5py
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from byte_changes import assert_refused, limiting, try_changes
from PIL import Image
from source_sets import read_images

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.read import SourceReader
from lenshpc.prep.rows import TEXT, file_rows, join_rows, stack_rows
from lenshpc.prep.stacks import count_rows
from lenshpc.prep.tables import read_table

SHAPE = (2, 6, 5)
PIXELS = np.arange(60, dtype=np.float32).reshape(SHAPE) / 8
ROWS = np.stack([PIXELS + row for row in range(4)])


def saved(save, *arguments, **options):
    """Return what a function writes into a file."""
    stream = io.BytesIO()
    save(stream, *arguments, **options)
    return stream.getvalue()


def pickled():
    pair = np.empty(2, object)
    pair[:] = [PIXELS, np.float64(-22.5)]
    return saved(np.save, pair, allow_pickle=True)


def units(*planes, packed=False, name=None):
    """Return FITS of a plane an extension, by default named after its number."""
    make = fits.CompImageHDU if packed else fits.ImageHDU
    made = [make(plane, name=name or f"B{number}") for number, plane in enumerate(planes)]
    return saved(fits.HDUList([fits.PrimaryHDU(), *made]).writeto)


def compressed(kind):
    pixels = (PIXELS * 8).astype(np.int16)[0]
    unit = fits.CompImageHDU(pixels, compression_type=kind, tile_shape=(6, 5))
    return saved(fits.HDUList([fits.PrimaryHDU(), unit]).writeto)


def hdf5(**options):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("images", data=ROWS, **options)
    return stream.getvalue()


def picture(mode, kind, scale=1):
    levels = (np.arange(60).reshape(6, 10) % 251).astype(np.uint8)
    levels = np.kron(levels, np.ones((scale, scale), np.uint8))
    return saved(Image.fromarray(levels).convert(mode).save, kind)


def deep_picture():
    levels = np.arange(180, dtype=np.uint16).reshape(6, 10, 3) * 300
    return cv2.imencode(".png", levels)[1].tobytes()


def declare(form, shape=SHAPE, dtype="float32", **keys):
    channels = [f"c{number}" for number in range(shape[0])]
    image = {"format": form, "shape": shape, "dtype": dtype, "channels": channels} | keys
    pickled = {"pickled": "mass"} if form == "npy" else {}
    return Dataset.model_validate(
        {"name": "one", "image": image, "classes": [{"name": "a", "train": "."} | pickled]}
    )


PLANE = {"shape": (1, 6, 5), "dtype": "int16", "axes": "hw"}
KINDS = {
    "npy": (saved(np.save, PIXELS), declare("npy")),
    "pickled": (pickled(), declare("npy")),
    "npz": (saved(np.savez_compressed, images=ROWS), declare("npz", key="images")),
    "fits": (saved(fits.PrimaryHDU(PIXELS).writeto), declare("fits")),
    **{kind: (compressed(kind), declare("fits", **PLANE)) for kind in ("GZIP_1", "RICE_1")},
    "fits in gzip": (gzip.compress(saved(fits.PrimaryHDU(PIXELS).writeto)), declare("fits")),
    "fits in bzip2": (bz2.compress(saved(fits.PrimaryHDU(PIXELS).writeto)), declare("fits")),
    "several HDUs": (units(*PIXELS), declare("fits", hdu=["B0", "B1"])),
    "extensions of one name": (units(*PIXELS, name="SCI"), declare("fits", hdu="SCI")),
    "several tiles": (
        units(*(PIXELS * 8).astype(np.int16), packed=True),
        declare("fits", dtype="int16", hdu=[1, 2]),
    ),
    "hdf5": (hdf5(), declare("hdf5", key="images")),
    "hdf5 in chunks": (
        hdf5(chunks=(1, *SHAPE), compression="gzip", shuffle=True),
        declare("hdf5", key="images"),
    ),
    "palette": (picture("P", "PNG"), declare("image", (3, 6, 10), "uint8")),
    "opaque": (picture("RGBA", "PNG"), declare("image", (3, 6, 10), "uint8")),
    "sixteen bits": (deep_picture(), declare("image", (3, 6, 10), "uint16")),
    "png": (picture("RGB", "PNG"), declare("image", (3, 6, 10), "uint8")),
    "jpeg": (picture("L", "JPEG"), declare("image", (1, 6, 10), "uint8")),
}


def read(folder, dataset, content):
    """Return all images of a file with that content."""
    path = folder / "1.npy"
    # A file of its own: HDF5 goes by the inode, and would go on with an open one's headers.
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    image = dataset.image
    if image.is_stack:
        rows = join_rows([stack_rows("1.npy", count_rows(str(path), image), label=0)]).slice(0, 8)
    else:
        rows = file_rows(pa.array(["1.npy"], TEXT), None, label=0)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    reader = SourceReader(dataset, folder, allow_pickle=True, scratch=scratch)
    try:
        return list(read_images(reader, rows).values())
    finally:
        for left in scratch.iterdir():
            left.unlink()


def check(folder, dataset, content):
    """Fail unless a file gives pixels as declared, or is refused in one line."""
    try:
        images = read(folder, dataset, content)
    except DataError as error:
        assert_refused(folder / "1.npy", error)
        return
    assert images
    # What a library leaves unwritten holds what the memory held before: something else each time.
    again = read(folder, dataset, content) if dataset.image.is_stack else images
    assert [one.sha256 for one in again] == [one.sha256 for one in images]
    for image in images:
        assert image.pixels.shape == dataset.image.shape
        assert image.pixels.dtype == dataset.image.dtype
        assert np.isfinite(image.pixels).all()
        assert not np.isinf(list(image.values)).any()


TRIES = [50, pytest.param(2000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("num_tries", TRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_changed_file_is_refused_or_gives_pixels_as_declared(kind, num_tries, tmp_path):
    sound, dataset = KINDS[kind]
    assert read(tmp_path, dataset, sound)

    try_changes(sound, num_tries, lambda content: check(tmp_path, dataset, content))


TABLE = b"id,gamma1,kind\n" + b"".join(b"train/%d.npy,%d.5,lens\n" % (i, i) for i in range(20))


@pytest.mark.parametrize("num_tries", TRIES)
def test_changed_table_is_refused_or_gives_numbers(num_tries, tmp_path):
    path = tmp_path / "truth.csv"

    def attempt(content):
        path.write_bytes(content)
        try:
            found = read_table(path, ["id"], numbers=["gamma1"])
        except DataError as error:
            assert_refused(path, error)
        else:
            assert len(found.texts["id"]) == len(found.numbers["gamma1"])

    try_changes(TABLE, num_tries, attempt)


def declare_rows(num_rows, **options):
    """Return HDF5 that declares so many rows and holds none."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("images", (num_rows, *SHAPE), "f4", **options)
    return stream.getvalue()


def pack_zeros(num_rows, packing):
    """Return a .npz of so many rows of one zero."""
    stream, header = io.BytesIO(), io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (num_rows, 1, 1, 1)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(stream, "w", packing) as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(num_rows))
    return stream.getvalue()


def pack_tile(num_bytes):
    """Return FITS of one image, packed by gzip, that unpacks to so many bytes."""
    tile = np.array([list(gzip.compress(bytes(num_bytes)))], dtype=object)
    row = fits.Column("COMPRESSED_DATA", "1PB()", array=tile)
    table = fits.BinTableHDU.from_columns([row])
    cards = {"ZIMAGE": True, "ZCMPTYPE": "GZIP_1", "ZBITPIX": -32, "ZNAXIS": 3}
    for key in ("ZNAXIS", "ZTILE"):
        cards |= {f"{key}{axis}": side for axis, side in enumerate(SHAPE[::-1], start=1)}
    table.header.update(cards)
    return saved(fits.HDUList([fits.PrimaryHDU(), table]).writeto)


STACK, DOT = declare("hdf5", key="images"), declare("npz", (1, 1, 1), "uint8", key="images")
MIB = 2**20
BOMBS = {
    "rows in chunks": (lambda: declare_rows(10**9, chunks=(64, *SHAPE)), STACK),
    "rows at once": (lambda: declare_rows(10**9), STACK),
    "rows with a fill value": (lambda: declare_rows(10**9, chunks=True, fillvalue=1), STACK),
    "deflated rows": (lambda: pack_zeros(64 * MIB, zipfile.ZIP_DEFLATED), DOT),
    "rows in bzip2": (lambda: pack_zeros(64 * MIB, zipfile.ZIP_BZIP2), DOT),
    "a tile": (lambda: pack_tile(64 * MIB), declare("fits")),
    "a file in gzip": (lambda: gzip.compress(bytes(64 * MIB)), declare("fits")),
    "a file in bzip2": (lambda: bz2.compress(bytes(64 * MIB)), declare("fits")),
    "many files in gzip": (lambda: gzip.compress(b"") * (MIB // 20), declare("fits")),
    "a picture": (lambda: picture("L", "PNG", 1000), declare("image", (1, 6, 10), "uint8")),
    "an array": (lambda: KINDS["npy"][0].replace(b"(2, 6, 5)", b"(2, 6, 10**9)"), declare("npy")),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_file_that_promises_much_is_refused_unread(name, tmp_path):
    make, dataset = BOMBS[name]
    content = make()
    assert len(content) < MIB
    with limiting(48 * MIB):
        check(tmp_path, dataset, content)
        with pytest.raises(DataError):
            read(tmp_path, dataset, content)
