"""Files that begin like the one before are read into their places; all others as by themselves."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lenshpc.prep.alike import AlikeFiles
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.decode import SourceFile
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.read import SourceBlock, SourceReader
from lenshpc.prep.rows import TEXT, file_rows

SHAPE = (2, 6, 5)
IMAGES = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)


def write(array: np.ndarray, *, version: tuple[int, int] | None = None) -> bytes:
    """Return the bytes of a .npy file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


def bad() -> np.ndarray:
    """Return an image with one pixel that is not finite."""
    image = IMAGES[0].copy()
    image[1, 2, 3] = np.nan
    return image


PLAIN = write(IMAGES[0])
FILES = {
    "a0": PLAIN,
    "b_of_columns": write(np.asfortranarray(IMAGES[1])),
    "c_of_version_2": write(IMAGES[1], version=(2, 0)),
    "d_half": write(IMAGES[1].astype(np.float16)),
    "e_big_endian": write(IMAGES[1].astype(">f4")),
    "f0": write(IMAGES[2]),
    "h_bad": write(bad()),
    "i_short": PLAIN[:-1],
    "j_long": PLAIN + b"\0",
    "k_headless": b"\x93NUMPX" + PLAIN[6:],
    "l_empty": b"",
    "m0": write(IMAGES[3]),
}


def read(names: list[str], reader: SourceReader) -> SourceBlock:
    return reader.read(file_rows(pa.array([f"{name}.npy" for name in names], TEXT), None, label=0))


def make_reader(folder: Path, bad_pixels: object) -> SourceReader:
    image = ImageFormat(
        format="npy", shape=SHAPE, dtype="float32", channels=("a", "b"), bad_pixels=bad_pixels
    )
    return SourceReader(
        Dataset(name="one", image=image, classes=({"name": "a", "train": "."},)), folder
    )


@pytest.mark.parametrize("bad_pixels", ["refuse", {"fill": 0.0}])
def test_block_of_all_kinds_is_that_of_each_file_by_itself(
    tmp_path: Path, bad_pixels: object
) -> None:
    for name, content in FILES.items():
        (tmp_path / f"{name}.npy").write_bytes(content)
    os.mkfifo(tmp_path / "n_pipe.npy")
    names = [*FILES, "n_pipe", "o_absent", "a0"]
    block = read(names, make_reader(tmp_path, bad_pixels))
    alone = [read([name], make_reader(tmp_path, bad_pixels)) for name in names]
    for part in ("pixels", "sha256", "size", "values"):
        expected = np.concatenate([getattr(one, part) for one in alone])
        np.testing.assert_array_equal(getattr(block, part), expected)
    told = [defect.error for one in alone for defect in one.defects]
    assert [defect.error for defect in block.defects] == told
    assert len(told) == (7 if bad_pixels == "refuse" else 6)
    whole = ["a0", "b_of_columns", "c_of_version_2", "d_half", "e_big_endian", "f0", "m0"]
    for name in whole:
        at = names.index(name)
        np.testing.assert_array_equal(block.pixels[at], np.load(tmp_path / f"{name}.npy"))
        assert block.sha256[at].tobytes() == hashlib.sha256(FILES[name]).digest()
        assert block.size[at] == len(FILES[name])


@pytest.mark.parametrize(
    ("image", "array", "is_known"),
    [
        ({"shape": SHAPE, "channels": ("a", "b")}, IMAGES[0], True),
        ({"shape": (1, 6, 5), "channels": ("a",), "axes": "hw"}, IMAGES[0, 0], True),
        (
            {"shape": SHAPE, "channels": ("a", "b"), "axes": "hwc"},
            IMAGES[0].transpose(1, 2, 0),
            False,
        ),
        ({"shape": SHAPE, "channels": ("a", "b")}, np.asfortranarray(IMAGES[0]), False),
        ({"shape": SHAPE, "channels": ("a", "b")}, IMAGES[0].astype(np.float16), False),
        ({"shape": SHAPE, "channels": ("a", "b")}, IMAGES[0].astype(">f4"), False),
    ],
)
def test_header_is_known_where_the_pixels_are_stored_as_they_are(
    tmp_path: Path, image: dict[str, object], array: np.ndarray, is_known: bool
) -> None:
    path, content = tmp_path / "x.npy", write(array)
    path.write_bytes(content)
    alike = AlikeFiles(ImageFormat(format="npy", dtype="float32", **image))
    room = np.zeros(array.nbytes, np.uint8)
    assert alike.read(str(path), room.data) is None
    alike.learn([SourceFile(str(path), content)])
    header = alike.read(str(path), room.data)
    if is_known:
        assert header is not None
        assert header + room.tobytes() == content
    else:
        assert header is None
