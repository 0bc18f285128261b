"""Every format gives the pixels that its own library gives."""

import hashlib
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from PIL import Image
from source_sets import read_images

from lenshpc.errors import DataError
from lenshpc.prep.convert import Options, convert
from lenshpc.prep.dataset import Dataset, load_dataset
from lenshpc.prep.read import SourceReader
from lenshpc.prep.scan import scan
from lenshpc.prep.verify import verify

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
RANDOM = np.random.default_rng(5)
ROWS = RANDOM.normal(size=(7, 2, 6, 5)).astype(np.float32)


def dataset(form, shape=(2, 6, 5), dtype="float32", pickled=None, **keys):
    channels = [f"c{i}" for i in range(shape[0])]
    image = {"format": form, "shape": shape, "dtype": dtype, "channels": channels} | keys
    entry = {"name": "a", "train": "a"} | ({"pickled": pickled} if pickled else {})
    return Dataset.model_validate({"name": "one", "image": image, "classes": [entry]})


def read(root, given, **options):
    """Return id → image of all sources."""
    reader = pickle.loads(pickle.dumps(SourceReader(given, root, **options)))
    return read_images(reader, scan(root, given).table.sort_by("id"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    return tmp_path / "a"


@pytest.mark.parametrize(("axes", "order"), [("hwc", (1, 2, 0)), ("chw", (0, 1, 2))])
def test_axes_of_a_file_become_channels_first(axes, order, folder):
    np.save(folder / "1.npy", ROWS[0].transpose(order))
    found = read(folder.parent, dataset("npy", axes=axes))["a/1.npy"]
    np.testing.assert_array_equal(found.pixels, ROWS[0], strict=True)


@pytest.mark.parametrize("form", ["npz", "hdf5"])
def test_rows_of_a_stack_are_images(form, folder, tmp_path):
    if form == "npz":
        np.savez_compressed(folder / "s.npz", images=ROWS)
    else:
        with h5py.File(folder / "s.hdf5", "w") as file:
            file.create_dataset("images", data=ROWS, chunks=(1, 2, 6, 5), compression="gzip")
    found = read(tmp_path, dataset(form, key="images"), scratch=tmp_path)
    assert list(found) == [f"a/s.{form}#{row}" for row in range(7)]
    for row, image in enumerate(found.values()):
        np.testing.assert_array_equal(image.pixels, ROWS[row], strict=True)
        assert image.sha256 == hashlib.sha256(ROWS[row].tobytes()).digest()
        assert image.size == ROWS[row].nbytes


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_fits_gives_native_values_in_the_declared_dtype(dtype, folder):
    pixels = RANDOM.integers(0, 200, (6, 5)).astype(dtype)
    extension = fits.ImageHDU(pixels, name="SCI")
    fits.HDUList([fits.PrimaryHDU(), extension]).writeto(folder / "1.fits")
    for hdu in (None, 1, "SCI"):
        given = dataset("fits", (1, 6, 5), dtype, axes="hw", hdu=hdu)
        found = read(folder.parent, given)["a/1.fits"]
        np.testing.assert_array_equal(found.pixels, pixels[None], strict=True)


@pytest.mark.parametrize("mass", [-22.5, np.float64(-22.5), np.array([-22.5], ">f4")])
def test_pickled_axion_gives_image_and_mass(mass, folder):
    wrapped = np.empty(2, object)
    wrapped[:] = [np.asfortranarray(ROWS[0]), mass]
    np.save(folder / "1.npy", wrapped)
    content = (folder / "1.npy").read_bytes()
    for old in (content, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")):
        pickled = old.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
        (folder / "1.npy").write_bytes(pickled)
        found = read(folder.parent, dataset("npy", pickled="m"), allow_pickle=True)["a/1.npy"]
        np.testing.assert_array_equal(found.pixels, ROWS[0], strict=True)
        assert found.values == [-22.5]


def test_pairs_are_matched_by_name_with_or_without_the_folder(tmp_path):
    given = load_dataset("super_resolution")
    for name, side, label in (("LR", 75, "LR_7"), ("HR", 150, "7")):
        (tmp_path / name).mkdir()
        np.save(tmp_path / f"{name}/{label}.npy", np.full((1, side, side), side / 7))
        np.save(tmp_path / f"{name}/sample1.npy", np.full((1, side, side), float(side)))
    given = given.model_copy(update={"holdout": None})
    found = read(tmp_path, given)
    assert {name: image.target.max() for name, image in found.items()} == {
        "LR/LR_7.npy": 150 / 7,
        "LR/sample1.npy": 150.0,
    }


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")
@pytest.mark.parametrize("name", ["lens_finding", "multiclass", "slc"])
def test_genuine_samples_read_bit_for_bit(name):
    given, root = load_dataset(name), SHARED / name
    reader = SourceReader(given, root)
    for identifier, image in read_images(reader, scan(root, given).table.slice(0, 200)).items():
        path = root / identifier
        expected = np.asarray(Image.open(path))[None] if name == "slc" else np.load(path)
        np.testing.assert_array_equal(image.pixels, expected, strict=True)


def _write_npz(folder):
    np.savez_compressed(folder / "s.npz", images=ROWS)
    return dataset("npz", key="images")


def _write_hdf5(folder):
    with h5py.File(folder / "s.h5", "w") as file:
        file["images"] = ROWS
    return dataset("hdf5", key="images")


def _write_fits(folder):
    for row, pixels in enumerate(ROWS):
        fits.PrimaryHDU(pixels).writeto(folder / f"{row}.fits")
    return dataset("fits")


def _write_pickled(folder):
    for row, pixels in enumerate(ROWS):
        wrapped = np.empty(2, object)
        wrapped[:] = [pixels, -20.0 - row]
        np.save(folder / f"{row}.npy", wrapped)
    return dataset("npy", pickled="axion_mass")


def _write_pairs(folder):
    for row, pixels in enumerate(ROWS):
        np.save(folder / f"{row}.npy", pixels)
        (folder.parent / "b").mkdir(exist_ok=True)
        np.save(folder.parent / f"b/{row}.npy", pixels.repeat(2, axis=2).astype(float))
    target = {"format": "npy", "shape": (2, 6, 10), "dtype": "float64", "train": "b"}
    given = dataset("npy").model_dump(by_alias=True) | {"target": target | {"channels": ["c", "d"]}}
    return Dataset.model_validate(given)


@pytest.fixture
def stores(tmp_path_factory):
    """Return a folder outside the source."""
    return tmp_path_factory.mktemp("stores")


WRITERS = [_write_npz, _write_hdf5, _write_fits, _write_pickled, _write_pairs]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_is_prepared_and_verified_bit_for_bit(write, folder, tmp_path, stores):
    given = write(folder)
    options = Options(shard_rows=4, chunk_rows=2, allow_pickle=True)
    store = convert(given, tmp_path, stores / "one", options, workers=2)
    assert verify(store.path, against=tmp_path, allow_pickle=True, workers=2).num_rows == 7
    rows = [int(Path(name.replace("#", "/")).stem.removeprefix("s.")) for name in store.rows["id"]]
    np.testing.assert_array_equal(store.read_raw(slice(None)), ROWS[rows], strict=True)
    if given.columns:
        assert store.rows["axion_mass"].tolist() == [-20.0 - row for row in rows]
    if given.target:
        expected = ROWS[rows].repeat(2, axis=3).astype(float)
        np.testing.assert_array_equal(store.read_raw_targets(slice(None)), expected, strict=True)


@pytest.mark.parametrize("write", WRITERS)
def test_digest_of_a_source_is_that_of_reading_it(write, folder, tmp_path):
    given = write(folder)
    reader = SourceReader(given, tmp_path, allow_pickle=True, scratch=tmp_path)
    rows = scan(tmp_path, given).table
    found = reader.digest(rows)
    assert len(np.unique(found, axis=0)) == 7
    np.testing.assert_array_equal(found, reader.read(rows).sha256)


def test_pickles_stay_refused_when_a_store_is_verified(folder, tmp_path, stores):
    options = Options(allow_pickle=True)
    store = convert(_write_pickled(folder), tmp_path, stores / "one", options)
    with pytest.raises(DataError, match="pickles can run code and are refused; to unwrap"):
        verify(store.path, against=tmp_path)
