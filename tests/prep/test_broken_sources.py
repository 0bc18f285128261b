"""Broken sources through the command: one line with file and remedy, exit 2, no store."""

import bz2
import gzip
import io
import os
import pickle
import shutil
import socket
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from PIL import Image
from source_sets import TINY, fill, tiny, write_yaml

from lenshpc.cli.main import main
from lenshpc.errors import DataError
from lenshpc.prep.convert import convert
from lenshpc.store import open_store

PIXELS = np.random.default_rng(2).normal(size=(2, 6, 5)).astype(np.float32)
ROWS = np.stack([PIXELS] * 4)
VICTIM = "train/no/3"


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def with_value(value):
    array = PIXELS.copy()
    array[1, 2, 3] = value
    return npy(array)


def objects(*items):
    array = np.empty(len(items), object)
    array[:] = items
    return npy(array)


def picture(array, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def fits_file(array, **cards):
    stream = io.BytesIO()
    fits.PrimaryHDU(array, fits.Header(cards)).writeto(stream)
    return stream.getvalue()


def fits_units(*arrays):
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *map(fits.ImageHDU, arrays)]).writeto(stream)
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def zipped(name, *contents, packing=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", packing) as archive:
        warnings.simplefilter("ignore")  # that a name stands twice
        for content in contents:
            archive.writestr(name, content)
    return stream.getvalue()


def frames(kind, mode="L"):
    images = [Image.fromarray(LEVELS + number).convert(mode) for number in range(2)]
    stream = io.BytesIO()
    images[0].save(stream, kind, save_all=True, append_images=images[1:])
    return stream.getvalue()


def empty_rows(file):
    """Declare 10⁹ rows and write none."""
    file.create_dataset("images", (10**9, 2, 6, 5), "f4", chunks=(64, 2, 6, 5))


def gap(file):
    """Write all rows but one, each a chunk."""
    rows = file.create_dataset(
        "images", (4, 2, 6, 5), "f4", chunks=(1, 2, 6, 5), compression="gzip"
    )
    rows[:3] = ROWS[:3]


def lose(content):
    """Return HDF5 whose data have a size, but no place."""
    with h5py.File(io.BytesIO(content), "r") as file:
        place = file["images"].id.get_offset()
    return content.replace(place.to_bytes(8, "little"), b"\xff" * 8)


def foreign_filter(file):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((1, 2, 6, 5))
    plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 4, 240, 5, 1, 0))  # blosc, not installed
    space = h5py.h5s.create_simple(ROWS.shape)
    h5py.h5d.create(file.id, b"images", h5py.h5t.IEEE_F32LE, space, plan)
    h5py.Dataset(file["images"].id)[...] = ROWS


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"


def hdf5(change):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        change(file)
    return stream.getvalue()


class Runs:
    """Pickles as a call; were it made, the marker would appear."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def promising(shape):
    return npy(PIXELS).replace(b"(2, 6, 5), }", f"{shape}, }}".encode())


HEADER = npy(PIXELS)[:128]
NPY = {
    "LFS pointer": (POINTER, "is a Git LFS pointer, expected .npy; fetch the file with: git lfs"),
    "web page": (PAGE, "is a web page (HTML), expected .npy; download the file again"),
    "another format": (b"SIMPLE  =                    T", "is FITS, expected .npy; set `image.f"),
    "no bytes a pixel": (npy(np.zeros((2, 6, 5), "S")).replace(b"S1", b"S0"), "broken .npy header"),
    "zero bytes": (b"", "empty (0 bytes); copy it again"),
    "one byte": (b"\x93", "not .npy"),
    "text": (b"hello, world", "is not .npy: starts b'hello,'; save it again"),
    "raw pickle": (pickle.dumps(PIXELS), "is a Python pickle; save it again"),
    "magic alone": (npy(PIXELS)[:6], "truncated within its header; copy it again"),
    "cut in the header": (npy(PIXELS)[:40], "truncated within its header; copy it again"),
    "header alone": (HEADER, "truncated: its header declares 240 bytes"),
    "cut in the pixels": (npy(PIXELS)[:-1], "the file holds 239; copy it again"),
    "too long": (npy(PIXELS) + b"x", "too long: its header declares 240"),
    "much too long": (npy(PIXELS) + bytes(2**21), "too large for one (2, 6, 5) image; check"),
    "no dictionary": (npy(PIXELS).replace(b"{'d", b"['d"), "broken .npy header"),
    "huge header": (b"\x93NUMPY\x02\x00" + b"\xff" * 200, "truncated within its header"),
    "long header": (
        b"\x93NUMPY\x02\x00" + (20000).to_bytes(4, "little") + b" " * 20000,
        "broken .npy header",
    ),
    "future version": (npy(PIXELS).replace(b"NUMPY\x01", b"NUMPY\x09"), "truncated within"),
    "terabytes": (promising("(2, 6, 99999999999)"), "shape (2, 6, 99999999999), expected"),
    "negative side": (promising("(2, -6, -5)"), "has shape (2, -6, -5), expected"),
    "one channel": (npy(PIXELS[:1]), "shape (1, 6, 5), expected (2, 6, 5); set image.shape"),
    "transposed": (npy(PIXELS.T), "shape (5, 6, 2), expected (2, 6, 5); set image.shape"),
    "flat": (npy(PIXELS.ravel()), "shape (60), expected (2, 6, 5); set image.shape"),
    "double": (npy(PIXELS.astype(float)), "dtype float64, which float32 cannot hold"),
    "long integers": (npy(PIXELS.astype(np.int64)), "dtype int64, which float32 cannot hold"),
    "booleans": (npy(PIXELS > 0), "dtype bool, which float32 cannot hold"),
    "complex": (npy(PIXELS.astype(np.complex64)), "dtype complex64, which"),
    "letters": (npy(np.full((2, 6, 5), "a")), "dtype <U1, which"),
    "dates": (npy(PIXELS.astype("M8[s]")), "dtype datetime64[s], which"),
    "fields": (npy(np.zeros((2, 6, 5), "f4,f4")), "which float32 cannot hold"),
    "signalling NaN": (
        npy(PIXELS)[:-4] + b"\x01\0\xa0\x7f",
        "holds 1 pixels that are NaN, infinite",
    ),
    "NaN": (with_value(np.nan), "holds 1 pixels that are NaN, infinite or beyond float32; correct"),
    "infinity": (with_value(np.inf), "holds 1 pixels that are NaN, infinite"),
    "minus infinity": (with_value(-np.inf), "holds 1 pixels that are NaN, infinite"),
    "objects": (objects(PIXELS, 1.0), "pickled object array; pickles can run code and are refused"),
}

GREY = {"format": "image", "shape": [1, 8, 6], "dtype": "uint8", "channels": ["i"]}
LEVELS = np.arange(48, dtype=np.uint8).reshape(8, 6)
PICTURE = {
    "LFS pointer": (POINTER, "is a Git LFS pointer, expected JPEG or PNG"),
    "web page": (PAGE, "is a web page (HTML), expected JPEG or PNG"),
    "frames of a PNG": (frames("PNG"), "holds 2 images, expected one"),
    "frames of a JPEG": (frames("MPO"), "holds 2 images, expected one"),
    "zero bytes": (b"", "empty (0 bytes); copy it again"),
    "text": (b"hello, world", "is not a JPEG or PNG image; copy it again"),
    "gif": (picture(LEVELS, "GIF"), "is a GIF image, expected JPEG or PNG; save it as PNG"),
    "cut jpeg": (picture(LEVELS, "JPEG")[:-12], "is damaged"),
    "cut png": (picture(LEVELS, "PNG")[:-30], "is damaged"),
    "colour": (picture(np.zeros((8, 6, 3), np.uint8), "PNG"), "mode RGB, 8 by 6 pixels"),
    "transposed": (picture(LEVELS.T, "PNG"), "6 by 8 pixels, expected 1 channel(s), 8 by 6"),
    "16 bits": (picture(LEVELS.astype(np.uint16), "PNG"), "dtype uint16, which uint8"),
    "one bit": (picture(LEVELS > 9, "PNG"), "has mode 1, 8 by 6 pixels"),
    "bomb": (picture(np.zeros((20000, 20000), bool), "PNG"), "is too large: Image size (400000000"),
}

SKY = {"format": "fits", "shape": [2, 6, 5], "dtype": "float32", "channels": ["a", "b"]}
FITS = {
    "LFS pointer": (POINTER, "is a Git LFS pointer, expected FITS"),
    "zero bytes": (b"", "empty (0 bytes); copy it again"),
    "text": (b"hello, world", "is not a FITS file: it starts with b'hello,'"),
    "gzip": (b"\x1f\x8b" + bytes(99), "is damaged: Error -3"),
    "unpacks to much": (gzip.compress(bytes(2**24)), "unpacks to more than the 1049536 bytes"),
    "cut in its gzip": (gzip.compress(fits_file(PIXELS))[:-99], "truncated within its packed"),
    "cut in its bzip2": (bz2.compress(fits_file(PIXELS))[:-99], "truncated within its packed"),
    "packed text": (gzip.compress(b"hello, world"), "is not a FITS file: it starts with b'hello,'"),
    "cut in the second header": (
        fits_units(PIXELS, PIXELS)[:-4000],
        "is truncated or damaged in the header of HDU 2; copy it again",
    ),
    "cut in the second image": (
        fits_units(PIXELS, PIXELS)[:-2880],
        "is truncated in HDU 2: its header declares 240 bytes, the file holds 0; copy it again",
    ),
    "cut in the header": (fits_file(PIXELS)[:500], "copy it again"),
    "cut in the pixels": (
        fits_file(PIXELS)[:3000],
        "declares 240 bytes, the file holds 120; copy it",
    ),
    "no image": (fits_file(None), "lacks an image; it holds the HDUs 0 PRIMARY"),
    "wrong shape": (fits_file(PIXELS[0]), "has shape (6, 5), expected (2, 6, 5)"),
    "double": (fits_file(PIXELS.astype(float)), "float64, which float32 cannot hold"),
    "NaN": (fits_file(np.full((2, 6, 5), np.nan, np.float32)), "holds 60 pixels that are NaN"),
    "terabytes": (
        fits_file(PIXELS).replace(b"=                    5", b"= 99999999999999999999"),
        "is damaged: ",
    ),
}

STACK = TINY["image"] | {"key": "images"}
NPZ = {
    "LFS pointer": (POINTER, "is a Git LFS pointer, expected .npz"),
    "twice": (zipped("images.npy", npy(ROWS), npy(ROWS + 1)), "holds images 2 times"),
    "packed by LZMA": (
        zipped("images.npy", npy(ROWS), packing=zipfile.ZIP_LZMA),
        "is compressed with zip method 14; save it with numpy's savez",
    ),
    "zero bytes": (b"", "copy it again"),
    "text": (b"hello, world", "is damaged: File is not a zip file"),
    "cut": (npz(images=ROWS)[:-40], "copy it again"),
    "no such array": (npz(other=ROWS), "lacks the array 'images'; it holds 'other'"),
    "wrong shape": (npz(images=PIXELS), "has shape (2, 6, 5), expected (rows, 2, 6, 5)"),
    "no rows": (npz(images=ROWS[:0]), "holds no rows; move the file away"),
    "double": (npz(images=ROWS.astype(float)), "float64, which float32 cannot hold"),
    "objects": (npz(images=np.array([None])), "holds pickled objects, which are refused"),
    "NaN": (npz(images=np.full_like(ROWS, np.nan)), "holds 60 pixels that are NaN"),
    "terabytes": (
        zipped("images.npy", npy(ROWS).replace(b"(4, 2, 6, 5), }", b"(99999999999, 2, 6, 5), }")),
        "the archive holds",
    ),
}
HDF5 = {
    "LFS pointer": (POINTER, "is a Git LFS pointer, expected HDF5"),
    "web page": (PAGE, "is a web page (HTML), expected HDF5"),
    "billion rows": (hdf5(empty_rows), "images should have 1000000000 rows, but only 0 bytes"),
    "billion rows at once": (
        hdf5(lambda file: file.create_dataset("images", (10**9, 2, 6, 5), "f4")),
        "images should have 1000000000 rows, but only 0 bytes",
    ),
    "no place": (
        lose(hdf5(lambda file: file.create_dataset("images", data=ROWS))),
        "images should have 4 rows, but only 0 bytes of them are there",
    ),
    "a chunk never written": (hdf5(gap), "some of the 4 rows of images were never written"),
    "missing filter": (hdf5(foreign_filter), "is compressed with the HDF5 filter 32001"),
    "zero bytes": (b"", "copy it again"),
    "cut": (hdf5(lambda file: file.create_dataset("images", data=ROWS))[:900], "copy it again"),
    "no such array": (hdf5(lambda file: file.create_group("a")), "lacks the array 'images'"),
    "a group": (hdf5(lambda file: file.create_group("images")), "lacks the array 'images'"),
    "wrong shape": (
        hdf5(lambda file: file.create_dataset("images", data=PIXELS)),
        "has shape (2, 6, 5), expected (rows, 2, 6, 5)",
    ),
    "link to another file": (
        hdf5(lambda file: file.__setitem__("images", h5py.ExternalLink("/etc/passwd", "/x"))),
        "is a link to other data, which is refused",
    ),
    "huge chunks": (
        hdf5(
            lambda file: file.create_dataset(
                "images", (10**7, 2, 6, 5), "f4", chunks=(4 * 10**6, 2, 6, 5)
            )
        ),
        "write it again with one chunk per row",
    ),
}


def contents(cases, suffix, image):
    return [
        pytest.param(content, complaint, suffix, image, id=f"{suffix}-{name}")
        for name, (content, complaint) in cases.items()
    ]


def good(root, suffix, image):
    """Write four sound files a class in a format."""
    sound = {
        "npy": npy(PIXELS),
        "png": picture(LEVELS, "PNG"),
        "fits": fits_file(PIXELS),
        "npz": npz(images=ROWS),
        "h5": hdf5(lambda file: file.create_dataset("images", data=ROWS)),
    }
    for name in ("no", "yes"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(4):
            (root / f"train/{name}/{number}.{suffix}").write_bytes(sound[suffix])


def assert_refused(tmp_path, dataset, named, complaint, *options):
    path = write_yaml(tmp_path / "mine.yaml", dataset)
    arguments = [str(path), str(tmp_path / "source"), str(tmp_path / "store"), "--workers", "1"]
    result = CliRunner().invoke(main, ["prepare", *arguments, *options])
    lines = [line for line in result.stderr.splitlines() if line.startswith("lenshpc: ")]
    assert (result.exit_code, result.stdout, len(lines)) == (2, "", 1), result.output
    assert result.stderr.splitlines()[-1] == lines[0]
    assert any(named in line and complaint in line for line in result.stderr.splitlines())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "store").exists()
    with pytest.raises(DataError, match="no store at"):
        open_store(tmp_path / "store")


@pytest.mark.parametrize(
    ("content", "complaint", "suffix", "image"),
    [
        *contents(NPY, "npy", TINY["image"]),
        *contents(PICTURE, "png", GREY),
        *contents(FITS, "fits", SKY),
        *contents(NPZ, "npz", STACK | {"format": "npz"}),
        *contents(HDF5, "h5", STACK | {"format": "hdf5"}),
    ],
)
def test_broken_file_is_refused(content, complaint, suffix, image, tmp_path):
    good(tmp_path / "source", suffix, image)
    (tmp_path / "source" / f"{VICTIM}.{suffix}").write_bytes(content)
    dataset = TINY | {
        "image": image,
        "classes": [{"name": name, "train": f"train/{name}"} for name in ("no", "yes")],
        "holdout": None,
    }
    assert_refused(tmp_path, dataset, f"{VICTIM}.{suffix}", complaint)


@pytest.mark.parametrize(
    ("link", "name", "named"),
    [
        (Path.symlink_to, "train/yes/9.npy", "train/yes/9.npy and train/no/0.npy are one file"),
        (Path.hardlink_to, "train/yes/9.npy", "train/yes/9.npy and train/no/0.npy are one file"),
        (Path.hardlink_to, "val/no/9.npy", "val/no/9.npy and train/no/0.npy are one file"),
        (Path.symlink_to, "train/no/9.npy", "train/no/9.npy and train/no/0.npy are one file"),
    ],
)
def test_file_that_stands_twice_by_a_link_is_refused(link, name, named, tmp_path):
    fill(tmp_path / "source")
    link(tmp_path / "source" / name, tmp_path / "source/train/no/0.npy")
    assert_refused(tmp_path, TINY, named, "each image may stand once: move one of them away")


def test_class_that_is_a_link_to_another_is_refused(tmp_path):
    fill(tmp_path / "source")
    shutil.rmtree(tmp_path / "source/train/yes")
    (tmp_path / "source/train/yes").symlink_to("no")
    named = "train/yes/0.npy and train/no/0.npy are one file"
    assert_refused(tmp_path, TINY, named, "each image may stand once")


def test_links_to_files_elsewhere_are_images(tmp_path):
    fill(tmp_path / "elsewhere")
    (tmp_path / "source").symlink_to("elsewhere")
    for path in (tmp_path / "elsewhere/train/no").iterdir():
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    assert convert(tiny(), tmp_path / "source", tmp_path / "store").num_rows == 32


def listen(path):
    with socket.socket(socket.AF_UNIX) as end:
        here = os.getcwd()  # noqa: PTH109  # a socket's path must be short
        os.chdir(path.parent)
        end.bind(path.name)
        os.chdir(here)


LAYOUT = {
    "pipe": (lambda path: os.mkfifo(path), "may hold only .npy files; move it away"),
    "socket": (listen, "may hold only .npy files; move it away"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "may hold only .npy files; move it"),
    "folder": (lambda path: path.mkdir(), "may hold only .npy files; move it away"),
    "link to itself": (lambda path: path.symlink_to(path.name), "is a broken link"),
    "link to nothing": (lambda path: path.symlink_to("gone"), "is a broken link"),
}


@pytest.mark.parametrize("name", LAYOUT)
def test_what_is_no_file_is_refused(name, tmp_path):
    fill(tmp_path / "source")
    make, complaint = LAYOUT[name]
    path = tmp_path / "source" / f"{VICTIM}.npy"
    path.unlink()
    make(path)
    assert_refused(tmp_path, TINY, f"{VICTIM}.npy", complaint)


@pytest.mark.parametrize(
    ("name", "named", "complaint"),
    [
        ("train/no/a\nb.npy", r"train/no/a\nb.npy", "rename it"),
        ("train/no/a\udcffb.npy", r"train/no/a\udcffb.npy", "rename it"),
        ("train/a\nb/1.npy", r"train/a\nb", "move it away"),
        ("train/no/with space.txt", "train/no/with space.txt", "move it away"),
        ("train/no/3.NPY", "train/no/3.NPY and train/no/3.npy", "rename one"),
        ("other/1.npy", "other", "move it away, or declare it"),
    ],
)
def test_odd_name_is_refused(name, named, complaint, tmp_path):
    fill(tmp_path / "source")
    path = tmp_path / "source" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.touch()
    assert_refused(tmp_path, TINY, named, complaint)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads files whatever their mode")
def test_unreadable_file_is_refused(tmp_path):
    fill(tmp_path / "source")
    (tmp_path / "source" / f"{VICTIM}.npy").chmod(0)
    assert_refused(tmp_path, TINY, f"{VICTIM}.npy", "cannot be read: Permission denied")


PAIRS = {
    "name": "pairs",
    "image": TINY["image"],
    "target": TINY["image"] | {"shape": [2, 12, 10], "train": "HR"},
    "classes": [{"name": "lens", "train": "LR"}],
}


@pytest.mark.parametrize(
    ("change", "named", "complaint"),
    [
        (lambda root: (root / "HR/1.npy").unlink(), "LR/1.npy", "has no partner in HR/"),
        (lambda root: (root / "LR/1.npy").unlink(), "HR/1.npy", "has no partner in LR/"),
        (lambda root: shutil.rmtree(root / "HR"), "HR/ is missing", "rename the folders"),
        (
            lambda root: shutil.copy(root / "LR/1.npy", root / "HR/1.npy"),
            "HR/1.npy",
            "has shape (2, 6, 5), expected (2, 12, 10); set image.shape",
        ),
        (lambda root: (root / "HR/1.npy").write_bytes(b""), "HR/1.npy", "is empty (0 bytes)"),
    ],
)
def test_broken_pair_is_refused(change, named, complaint, tmp_path):
    for folder, pixels in (("LR", PIXELS), ("HR", PIXELS.repeat(2, 1).repeat(2, 2))):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for number in range(3):
            np.save(tmp_path / f"source/{folder}/{number}.npy", pixels)
    change(tmp_path / "source")
    assert_refused(tmp_path, PAIRS, named, complaint)


MALICE = {
    "system": objects(Runs(os.system, "touch marker"), 1.0),
    "eval": objects(PIXELS[:1], Runs(eval, "open('marker', 'w')")),
    "numpy.load": objects(Runs(np.load, "x.npy"), 1.0),
    "nested objects": objects(np.array([None, None]), 1.0),
    "three items": objects(PIXELS, 1.0, 2.0),
    "text for a mass": objects(PIXELS, "heavy"),
    "NaN for a mass": objects(PIXELS, np.nan),
    "raw code": npy(np.array([None, None]))[:128] + b"cos\nsystem\n(S'touch marker'\ntR.",
    "memo of terabytes": npy(np.array([None, None]))[:128] + b"\x80\x04Kr\xff\xff\xff\x7f.",
    "bytes of terabytes": npy(np.array([None, None]))[:128]
    + b"\x80\x04\x8e"
    + b"\xff" * 7
    + b"\0.",
    "nothing": npy(np.array([None, None]))[:128],
}


@pytest.mark.parametrize("name", MALICE)
def test_malicious_pickle_is_refused_and_never_runs(name, tmp_path, monkeypatch):
    fill(tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source" / f"{VICTIM}.npy").write_bytes(MALICE[name])
    dataset = TINY | {"classes": [TINY["classes"][0] | {"pickled": "mass"}, TINY["classes"][1]]}
    assert_refused(tmp_path, dataset, f"{VICTIM}.npy", "plain arrays", "--allow-pickle")
    assert not (tmp_path / "marker").exists()
    assert_refused(tmp_path, dataset, f"{VICTIM}.npy", "add --allow-pickle")


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
from lenshpc.cli.main import main
main(sys.argv[1:])
"""


def test_full_disk_leaves_no_store(tmp_path):
    fill(tmp_path / "source", num_images=40)
    dataset = write_yaml(tmp_path / "tiny.yaml", TINY)
    arguments = [str(dataset), str(tmp_path / "source"), str(tmp_path / "store"), "--workers", "1"]
    # -B: what it imports would be compiled into files that the limit cuts short
    command = [sys.executable, "-B", "-c", LIMITED, "prepare", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()
