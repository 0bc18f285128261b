"""Objects of several files, one a band: which files are one, and the pixels that they make."""

import bz2
import gzip
import hashlib
import io
import os
import shutil

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from lenshpc.errors import DataError
from lenshpc.inference.sources import open_source
from lenshpc.prep.bands import list_objects, warn_of_suffixes
from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.read import SourceReader
from lenshpc.prep.scan import scan
from lenshpc.prep.verify import verify

RANDOM = np.random.default_rng(8)
BANDS = ["g", "r", "i"]
CUBES = RANDOM.integers(0, 255, (4, 3, 6, 5)).astype(np.uint8)


def declare(bands, form="fits", dtype="float32", **keys):
    image = {"format": form, "shape": [3, 6, 5], "dtype": dtype, "channels": BANDS}
    return image | {"bands": bands} | keys


def dataset(image, **keys):
    classes = [{"name": name, "train": name} for name in ("no", "yes")]
    return Dataset.model_validate({"name": "one", "image": image, "classes": classes} | keys)


def save(path, plane):
    """Write one band in the format that a name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    if path.suffix == ".npy":
        np.save(stream, plane)
    elif path.suffix == ".png":
        Image.fromarray(plane).save(stream, "PNG")
    else:
        fits.PrimaryHDU(plane).writeto(stream)
    pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(stream.getvalue()))


def fill(root, pattern, dtype=np.float32):
    """Write two objects a class; return id → image."""
    images = {}
    for number, cube in enumerate(CUBES):
        folder = ("no", "yes")[number % 2]
        for band, plane in zip(BANDS, cube.astype(dtype), strict=True):
            save(root / folder / pattern.format(object=f"J{number}_1", band=band), plane)
        images[f"{folder}/J{number}_1"] = cube.astype(dtype)
    return images


PATTERNS = [
    ("{object}_{band}.fits", "fits", np.float32),
    ("{band}/{object}.fits", "fits", ">i2"),
    ("{object}/{band}.fits", "fits", np.float64),
    ("{object}-{band}.fits.gz", "fits", np.float32),
    ("cut_{object}.{band}.npy", "npy", np.float32),
    ("{object}_{band}.png", "image", np.uint8),
]


@pytest.mark.parametrize(("pattern", "form", "dtype"), PATTERNS)
def test_files_of_bands_are_the_channels_of_one_image(pattern, form, dtype, tmp_path):
    root = tmp_path / "source"
    images = fill(root, pattern, dtype)
    declared = np.dtype(dtype).newbyteorder("=").name
    given = dataset(declare(pattern, form, declared))
    sources = scan(root, given)
    assert sources.told == ()
    block = SourceReader(given, root).read(sources.table)
    assert block.defects == ()
    found = dict(zip(sources.table["id"].to_pylist(), block.pixels, strict=True))
    assert found.keys() == images.keys()
    for name, pixels in images.items():
        np.testing.assert_array_equal(found[name], pixels.astype(declared), strict=True)
    for row, digest, size in zip(sources.table.to_pylist(), block.sha256, block.size, strict=True):
        files = [(root / row["file"].replace("{band}", band)).read_bytes() for band in BANDS]
        assert digest.tobytes() == hashlib.sha256(b"".join(files)).digest()
        assert size == sum(map(len, files))


def test_bands_are_prepared_and_verified(tmp_path):
    pattern = "{object}_{band}.fits"
    images = fill(tmp_path / "source", pattern)
    given = dataset(declare(pattern))
    store = convert(given, tmp_path / "source", tmp_path / "store", workers=2)
    assert verify(store.path, against=tmp_path / "source").num_rows == 4
    for row, name in enumerate(store.rows["id"]):
        np.testing.assert_array_equal(store.read_raw(slice(row, row + 1))[0], images[name])
    # Another order of the bands makes other bytes.
    path = tmp_path / "source/no/J0_1_g.fits"
    path.write_bytes((tmp_path / "source/no/J0_1_r.fits").read_bytes())
    with pytest.raises(DataError, match="no/J0_1"):
        verify(store.path, against=tmp_path / "source")


def test_objects_that_lack_bands_are_told_all_at_once(tmp_path):
    fill(tmp_path, "{object}_{band}.fits")
    for name in ("no/J0_1_i", "yes/J1_1_g", "yes/J1_1_r", "yes/J3_1_g"):
        (tmp_path / f"{name}.fits").unlink()
    with pytest.raises(DataError) as error:
        scan(tmp_path, dataset(declare("{object}_{band}.fits")))
    told = {defect.path: defect.error for defect in error.value.defects}
    advice = "; put the file there, or keep the object's other files elsewhere"
    missing = {"no/J0_1_": "i", "yes/J1_1_": "g, r", "yes/J3_1_": "g"}
    assert told == {
        f"{name}{{band}}.fits": f"{name}{{band}}.fits lacks the band {bands}{advice}"
        for name, bands in missing.items()
    }
    assert {defect.cause for defect in error.value.defects} == {"missing band"}
    assert str(error.value).startswith("3 sources cannot be used: 3 missing band")


def test_files_of_further_bands_are_left_out_and_counted(tmp_path):
    fill(tmp_path, "{object}_{band}.fits")
    for name in ("no/J0_1_z", "no/J2_1_z", "no/J2_1_g.wht"):
        shutil.copy(tmp_path / "no/J0_1_g.fits", tmp_path / f"{name}.fits")
    sources = scan(tmp_path, dataset(declare("{object}_{band}.fits")))
    assert sources.told == (
        "left out of no/: 1 files of the band g.wht, which image.channels does not name",
        "left out of no/: 2 files of the band z, which image.channels does not name",
    )
    assert sources.table.num_rows == 4


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["1_u.fits", "1_z.fits"], r"no/ holds no files named .* it holds 1_u.fits, 1_z.fits; set"),
        (["1_g.fits", "1_r.fits", "1_i.fits", "2.fits"], "unexpected no/2.fits; no/ may hold only"),
        (["1_g.fits", "1_r.fits", "1_i.fits", "2_z.fits"], "unexpected no/2_z.fits; no/ may hold"),
    ],
)
def test_other_names_are_refused(names, complaint):
    with pytest.raises(DataError, match=complaint):
        list_objects("no", names, ImageFormat.model_validate(declare("{object}_{band}.fits")))


@pytest.mark.parametrize(
    ("channels", "pattern", "names", "objects"),
    [
        (["g", "rg"], "{object}{band}.npy", ["1rg.npy", "1g.npy", "rg.npy", "rrg.npy"], ["1", "r"]),
        (["2", "W2"], "{object}{band}.npy", ["1W2.npy", "12.npy"], ["1"]),
        (["g", "r"], "{object}_{band}.npy", ["a_g_g.npy", "a_g_r.npy"], ["a_g"]),
        (["g", "r"], "{band}/{object}.npy", ["g/1.2.npy", "r/1.2.npy"], ["1.2"]),
    ],
)
def test_longest_band_is_taken(channels, pattern, names, objects):
    image = ImageFormat.model_validate(
        declare(pattern, "npy") | {"shape": [2, 6, 5], "channels": channels}
    )
    found = list_objects(".", names, image)
    assert (found.names, found.defects, found.told) == (objects, (), ())


def test_two_bands_that_are_one_file_are_refused(tmp_path):
    fill(tmp_path, "{band}/{object}.fits")
    (tmp_path / "no/r/J0_1.fits").unlink()
    (tmp_path / "no/r/J0_1.fits").symlink_to(tmp_path / "no/g/J0_1.fits")
    with pytest.raises(
        DataError, match=r"no/r/J0_1.fits and no/g/J0_1.fits are one file, by a link"
    ):
        scan(tmp_path, dataset(declare("{band}/{object}.fits")))


def test_broken_band_is_named(tmp_path):
    fill(tmp_path, "{object}_{band}.fits")
    path = tmp_path / "yes/J1_1_r.fits"
    path.write_bytes(path.read_bytes()[:2990])
    given = dataset(declare("{object}_{band}.fits"))
    (defect,) = SourceReader(given, tmp_path).read(scan(tmp_path, given).table).defects
    assert (defect.path, defect.cause) == ("yes/J1_1_{band}.fits", "truncated")
    assert defect.error.startswith(f"{path} is truncated in HDU 0")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bands": "{object}_{band}"}, "bands names files, which end in .fits or"),
        ({"bands": "{object}.fits"}, "expected a file name with {object} and {band}, each once"),
        ({"bands": "../{object}_{band}.fits"}, "expected a path inside SOURCE"),
        ({"channels": ["g", "..", "i"]}, "with bands, channel '..' is part of a file name"),
        ({"channels": ["g", "a/b", "i"]}, "with bands, channel 'a/b' is part of a file name"),
        ({"hdu": [1, 2, 3]}, "a list of hdu names one for each of 3 channels"),
        ({"axes": "hwc"}, "have axes hw or chw"),
    ],
)
def test_bands_that_cannot_be_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        ImageFormat.model_validate(declare("{object}_{band}.fits") | change)


SINGLE = {"format": "fits", "shape": [1, 6, 5], "dtype": "float32", "channels": ["x"], "axes": "hw"}


@pytest.mark.parametrize(
    ("stems", "pattern", "bands"),
    [
        (["100_g", "100_r", "100_i", "101_g", "101_r", "101_i"], "{object}_{band}.fits", "g, i, r"),
        (["J0_1-F160W", "J0_1-F814W", "J2_1-F160W", "J2_1-F814W"], "{object}-{band}.fits", "F160W"),
        (["7_VIS", "7_NIR", "8_VIS", "8_NIR", "readme"], "{object}_{band}.fits", "NIR, VIS"),
        (["7.g", "7.z", "8.g", "8.z", "9.g"], "{object}.{band}.fits", "g, z"),
    ],
)
def test_names_that_differ_by_bands_are_a_warning_with_the_key_to_set(stems, pattern, bands):
    names = [f"{stem}.fits" for stem in stems]
    (line,) = warn_of_suffixes("no", names, ImageFormat.model_validate(SINGLE))
    assert line.startswith("warning: ")
    assert f'set image.bands: "{pattern}" and image.channels: [{bands}' in line


@pytest.mark.parametrize(
    "stems",
    [
        ["0", "1", "2"],
        ["12_a", "13_a"],
        ["12_a", "12_b", "12_c"],
        ["J0_1", "J0_2", "J1_1", "J1_2"],
        ["lens_g", "lens_12", "lens_13", "lens_14"],
        ["sim_g", "sim2_g", "sim3_g"],
        ["img_train_1", "img_train_2"],
    ],
)
def test_ordinary_names_are_no_warning(stems):
    names = [f"{stem}.fits" for stem in stems]
    assert warn_of_suffixes("no", names, ImageFormat.model_validate(SINGLE)) == ()


def test_scan_warns_of_bands_taken_for_images(tmp_path):
    fill(tmp_path, "{object}_{band}.fits")
    sources = scan(tmp_path, dataset(SINGLE))
    assert len(sources.told) == 2
    assert sources.told[0].startswith("warning: J0_1_g.fits, J0_1_i.fits, J0_1_r.fits in no/ seem")


@pytest.mark.parametrize("pattern", ["{object}_{band}.fits", "{band}/{object}.fits"])
def test_bands_in_any_folders_are_images_to_predict(pattern, tmp_path):
    images = fill(tmp_path, pattern)
    given = dataset(declare(pattern))
    source = open_source(tmp_path, given)
    block = source.read(range(source.num_rows))
    assert (block.ids.tolist(), dict(block.faults)) == (sorted(images), {})
    for name, pixels in zip(block.ids, block.pixels, strict=True):
        np.testing.assert_array_equal(pixels, images[name], strict=True)
    digest = source.digest
    os.utime(tmp_path / "no" / pattern.format(object="J0_1", band="i"), (0, 0))
    assert open_source(tmp_path, given).digest != digest
    (tmp_path / "no" / pattern.format(object="J0_1", band="i")).unlink()
    with pytest.raises(DataError, match="lacks the band i; put the file there"):
        _ = open_source(tmp_path, given).num_rows
