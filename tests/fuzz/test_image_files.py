"""Damaged image files: each is refused in one line, or gives pixels as they were declared."""

import faulthandler
import io
import re
import resource
import struct
from functools import reduce
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset, TruthTable
from lenshpc.prep.read import SourceReader
from lenshpc.prep.scan import ScannedImage
from lenshpc.prep.stacks import count_rows
from lenshpc.prep.truth import read_truth

SHAPE = (2, 6, 5)
PIXELS = np.arange(60, dtype=np.float32).reshape(SHAPE) / 8
ROWS = np.stack([PIXELS + row for row in range(4)])
MEMORY_BYTES, SECONDS = 2**30, 300


def saved(save, *arguments, **options):
    """Return what a function writes into a file."""
    stream = io.BytesIO()
    save(stream, *arguments, **options)
    return stream.getvalue()


def pickled():
    pair = np.empty(2, object)
    pair[:] = [PIXELS, np.float64(-22.5)]
    return saved(np.save, pair, allow_pickle=True)


def compressed(kind):
    pixels = (PIXELS * 8).astype(np.int16)[0]
    unit = fits.CompImageHDU(pixels, compression_type=kind, tile_shape=(6, 5))
    return saved(fits.HDUList([fits.PrimaryHDU(), unit]).writeto)


def hdf5(**options):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("images", data=ROWS, **options)
    return stream.getvalue()


def picture(mode, kind):
    levels = (np.arange(60).reshape(6, 10) % 251).astype(np.uint8)
    return saved(Image.fromarray(levels).convert(mode).save, kind)


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
    "hdf5": (hdf5(), declare("hdf5", key="images")),
    "hdf5 in chunks": (
        hdf5(chunks=(1, *SHAPE), compression="gzip", shuffle=True),
        declare("hdf5", key="images"),
    ),
    "png": (picture("RGB", "PNG"), declare("image", (3, 6, 10), "uint8")),
    "jpeg": (picture("L", "JPEG"), declare("image", (1, 6, 10), "uint8")),
}
# Most places are near the beginning, where headers are.
PLACES = st.one_of(st.integers(0, 127), st.integers(0, 2**13))
NUMBERS = st.sampled_from(
    ["0", "-1", "1", "7", "2147483648", "4294967295", "99999999999", "9" * 25, "9" * 99, "1e308"]
)
INTEGERS = st.sampled_from([0, 1, 0x7F, 0xFF, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
        st.tuples(st.just("write"), PLACES, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("delete"), PLACES, st.integers(1, 64)),
        st.tuples(st.just("repeat"), PLACES, st.integers(1, 64)),
        st.tuples(st.just("cut"), PLACES, st.none()),
        st.tuples(st.just("number"), st.integers(0, 40), NUMBERS),
        st.tuples(st.just("integer"), PLACES, st.tuples(st.sampled_from("<>"), INTEGERS)),
    ),
    min_size=1,
    max_size=4,
)


def change(content, what, place, value):
    """Return the content after one edit."""
    at = place % (len(content) + 1)
    before, after = content[:at], content[at:]
    if what == "number":
        found = list(re.finditer(rb"\d+", content))
        if not found:
            return content
        one = found[place % len(found)]
        return content[: one.start()] + value.encode() + content[one.end() :]
    if what == "integer":
        order, number = value
        value = struct.pack(f"{order}{'Q' if number >= 2**32 else 'I'}", number)
    if what in {"write", "integer"}:
        return before + value + after[len(value) :]
    if what == "flip":
        return before + bytes(byte ^ 1 << value for byte in after[:1]) + after[1:]
    if what == "delete":
        return before + after[value:]
    if what == "repeat":
        return before + after[:value] + after
    return before + (value or b"") if what == "cut" else before + value + after


@pytest.fixture
def limited():
    """Allow a gibibyte more than is taken now, and so many seconds."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, hard))
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read(folder, dataset, content):
    """Return all images of a file with that content."""
    path = folder / "1.npy"
    path.write_bytes(content)
    image = dataset.image
    rows = range(min(count_rows(str(path), image), 8)) if image.is_stack else [None]
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    reader = SourceReader(dataset, folder, allow_pickle=True, scratch=scratch)
    try:
        return [
            reader.read(
                ScannedImage(id="1", label=0, split="train", group="1", file="1.npy", index=row)
            )
            for row in rows
        ]
    finally:
        for left in scratch.iterdir():
            left.unlink()


def assert_refused(path, error):
    """Fail unless an error is one line that begins with the file, is true, and destroys nothing."""
    text = str(error)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert "memory" not in text.lower()
    assert "remove" not in text


def check(folder, dataset, content):
    """Fail unless a file gives pixels as declared, or is refused in one line."""
    try:
        images = read(folder, dataset, content)
    except DataError as error:
        assert_refused(folder / "1.npy", error)
        return
    assert images
    for image in images:
        assert image.pixels.shape == dataset.image.shape
        assert image.pixels.dtype == dataset.image.dtype
        assert np.isfinite(image.pixels).all()
        assert not np.isinf(list(image.values.values())).any()


def changing(sound, num_tries):
    """Run a function with as many changed versions of a sound content."""
    sample = settings(
        max_examples=num_tries,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    versions = EDITS.map(lambda edits: reduce(lambda left, edit: change(left, *edit), edits, sound))
    return lambda attempt: sample(given(versions)(attempt))()


TRIES = [50, pytest.param(2000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("num_tries", TRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_changed_file_is_refused_or_gives_pixels_as_declared(kind, num_tries, limited, tmp_path):
    sound, dataset = KINDS[kind]
    assert read(tmp_path, dataset, sound)

    changing(sound, num_tries)(lambda content: check(tmp_path, dataset, content))


TABLE = b"id,gamma1,kind\n" + b"".join(b"train/%d.npy,%d.5,lens\n" % (i, i) for i in range(20))


@pytest.mark.parametrize("num_tries", TRIES)
def test_changed_table_is_refused_or_gives_numbers(num_tries, limited, tmp_path):
    path, truth = tmp_path / "truth.csv", TruthTable(columns=("gamma1",))

    def attempt(content):
        path.write_bytes(content)
        try:
            found = read_truth(tmp_path, truth)
        except DataError as error:
            assert_refused(path, error)
        else:
            assert not np.isinf([numbers["gamma1"] for numbers in found.values()]).any()

    changing(TABLE, num_tries)(attempt)
