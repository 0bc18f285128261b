"""From files with bad pixels to a store with its masks, and back to the files."""

import json

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from source_sets import TINY, fill, tiny

from lenshpc.cli.main import main
from lenshpc.config import validate
from lenshpc.errors import ConfigError, DataError
from lenshpc.prep.convert import Options, convert
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.verify import verify
from lenshpc.store import open_store

MEDIAN = {"fill": "median"}


def gaps(images):
    """Give every third image a border of NaN and an infinity in its second channel."""
    broken = {}
    for at, (name, image) in enumerate(images.items()):
        broken[name] = image.copy()
        if at % 3 == 0:
            broken[name][:, :, : 1 + at % 2] = np.nan
            broken[name][1, 3, 3] = np.inf
    return broken


def expected_of(image):
    """Return an image filled and its mask, by numpy."""
    bad = ~np.isfinite(image)
    medians = np.nanmedian(np.where(bad, np.nan, image), axis=(1, 2), keepdims=True)
    return np.where(bad, medians, image), bad


def dataset(bad_pixels=MEDIAN, **changes):
    return tiny(image=TINY["image"] | {"bad_pixels": bad_pixels}, **changes)


@pytest.fixture
def source(tmp_path):
    """Return a folder of files and what they hold."""
    images = gaps(fill(tmp_path / "source", num_images=20))
    for name, image in images.items():
        np.save(tmp_path / "source" / name, image)
    return tmp_path / "source", images


@pytest.mark.parametrize("workers", [1, 2])
def test_store_holds_filled_pixels_and_their_masks(source, tmp_path, workers):
    root, images = source
    options = Options(chunk_rows=8, shard_rows=32)
    store = convert(dataset(), root, tmp_path / "store", options, workers=workers)
    pixels, masks = store.read_raw(slice(None)), store.read_masks(slice(None))
    expected = [expected_of(images[name]) for name in store.rows["id"]]
    np.testing.assert_array_equal(pixels, np.stack([image for image, _ in expected]))
    np.testing.assert_array_equal(masks, np.stack([mask for _, mask in expected]))
    assert (masks.dtype, store.masks.shape) == (np.uint8, (80, 2, 6, 5))
    assert verify(tmp_path / "store", against=root).num_rows == 80


def test_masks_take_next_to_no_room(tmp_path):
    images = np.random.default_rng(0).normal(size=(64, 3, 64, 64)).astype(np.float32)
    images[::4, :, :5] = np.nan
    (tmp_path / "source").mkdir()
    np.savez(tmp_path / "source" / "all.npz", images=images)
    image = {"format": "npz", "key": "images", "shape": [3, 64, 64], "dtype": "float32"}
    image |= {"channels": ["g", "r", "i"], "bad_pixels": {"fill": 0.0}}
    value = {"name": "stack", "image": image, "classes": [{"name": "all", "train": "."}]}
    convert(validate(Dataset, value, "stack"), tmp_path / "source", tmp_path / "store")
    sizes = {
        name: sum(file.stat().st_size for file in (tmp_path / "store" / name / "c").rglob("0"))
        for name in ("images", "masks")
    }
    assert sizes["masks"] < sizes["images"] / 50
    verify(tmp_path / "store", against=tmp_path / "source")
    masks = open_store(tmp_path / "store").read_masks(slice(None))
    assert masks.sum() == 16 * 3 * 5 * 64


def test_value_is_stored_and_another_value_is_another_store(source, tmp_path):
    root, images = source
    stores = [
        convert(dataset({"fill": value}), root, tmp_path / str(value)) for value in (0.0, -1.5)
    ]
    for store, value in zip(stores, (0.0, -1.5), strict=True):
        image = images[store.rows["id"].iloc[0]]
        np.testing.assert_array_equal(
            store.read_raw(slice(1))[0], np.where(np.isfinite(image), image, value)
        )
    assert stores[0].content_hash != stores[1].content_hash
    assert stores[0].attributes["source"]["image"]["bad_pixels"] == {"fill": 0.0}


def test_changed_mask_is_damage(source, tmp_path):
    root, _ = source
    store = convert(dataset(), root, tmp_path / "store", Options(codec="none"))
    shard = store.path / "masks/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="damaged: masks/c/0/0/0/0 does not match its hash"):
        verify(tmp_path / "store")


def test_other_bad_pixels_are_another_file(source, tmp_path):
    root, images = source
    convert(dataset(), root, tmp_path / "store")
    name = next(iter(images))
    np.save(root / name, expected_of(images[name])[0].astype(np.float32))
    with pytest.raises(DataError, match=f"{name} is not the file that was prepared"):
        verify(tmp_path / "store", against=root)


def test_store_of_whole_images_keeps_no_masks(tmp_path):
    fill(tmp_path / "source")
    store = convert(tiny(), tmp_path / "source", tmp_path / "store")
    assert store.masks is None
    with pytest.raises(DataError, match=r"has no masks; prepare it from a dataset file with"):
        store.read_masks(slice(3))


def test_blank_of_a_fits_file_is_a_bad_pixel(tmp_path):
    counts = np.arange(60, dtype=np.int16).reshape(2, 6, 5)
    counts[0, 2, 1] = -99
    unit = fits.PrimaryHDU(counts)
    unit.header["BLANK"] = -99
    unit.header["BSCALE"] = 0.5
    (tmp_path / "source").mkdir()
    unit.writeto(tmp_path / "source" / "a.fits")
    image = TINY["image"] | {"format": "fits", "bad_pixels": MEDIAN}
    value = {"name": "blank", "image": image, "classes": [{"name": "all", "train": "."}]}
    store = convert(validate(Dataset, value, "blank"), tmp_path / "source", tmp_path / "store")
    assert np.argwhere(store.read_masks(slice(1))).tolist() == [[0, 0, 2, 1]]
    good = np.delete(counts[0].ravel(), 11) * 0.5
    assert store.read_raw(slice(1))[0, 0, 2, 1] == np.median(good).astype(np.float32)


def test_targets_are_never_filled(tmp_path):
    target = TINY["image"] | {"train": "HR", "bad_pixels": MEDIAN}
    value = {**TINY, "classes": [{"name": "all", "train": "LR"}], "target": target}
    del value["holdout"]
    with pytest.raises(ConfigError, match="bad_pixels of a target are refused: networks would"):
        validate(Dataset, value, "pairs")


def test_info_counts_what_was_filled_by_split_and_class(source, tmp_path):
    root, images = source
    store = convert(dataset(), root, tmp_path / "store")
    lines = [
        (split, name, int((~np.isfinite(images[identifier])).sum()))
        for identifier, split, label in store.rows[["id", "split", "label"]].values
        for name in [store.classes[label]]
    ]
    result = CliRunner().invoke(main, ["info", str(store.path), "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)["filled"]
    for split in ("train", "val", "test"):
        for name in store.classes:
            mine = [num for one, other, num in lines if (one, other) == (split, name)]
            assert found[split][name] == {
                "images": sum(num > 0 for num in mine),
                "share": pytest.approx(sum(mine) / max(1, 60 * len(mine)), abs=1e-12),
            }
    told = CliRunner().invoke(main, ["info", str(store.path)], catch_exceptions=False).stdout
    train = found["train"]
    assert (
        f"filled in train  {train['no']['images'] + train['yes']['images']} images: "
        f"{train['no']['images']} no ({train['no']['share']:.2%} of pixels), " in told
    )
    np.testing.assert_array_equal(
        store.column("num_filled"), store.read_masks(slice(None)).sum(axis=(2, 3))
    )


def test_info_of_whole_images_says_nothing_of_masks(tmp_path):
    fill(tmp_path / "source")
    convert(tiny(), tmp_path / "source", tmp_path / "store")
    store = str(tmp_path / "store")
    found = CliRunner().invoke(main, ["info", store, "--json"], catch_exceptions=False).stdout
    assert json.loads(found)["filled"] is None
    assert "filled" not in CliRunner().invoke(main, ["info", store]).stdout
