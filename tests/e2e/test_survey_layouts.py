"""Images as surveys hand them out: prepared, verified and trained, and every row is what it was."""

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner
from toy_run import train

from lenshpc.cli.main import main
from lenshpc.store import open_store

SIDE, BANDS = 16, ("g", "r", "i")
RANDOM = np.random.default_rng(21)
LABELS = np.arange(60) % 2
SPLITS = np.where(np.arange(60) < 48, "train", "test")
NAMES = np.array([f"J{number:04d}+{number % 7}" for number in range(60)])
IMAGES = RANDOM.normal(size=(60, 3, SIDE, SIDE)).astype(np.float32)
IMAGES[LABELS == 1, :, 6:10, 6:10] += 3
IMAGE = {"shape": [3, SIDE, SIDE], "dtype": "float32", "channels": list(BANDS)}
CLASSES = [{"name": "other"}, {"name": "lens"}]


def write_hdf5(root):
    """Write images (N,H,W,C) with labels and ids in one file, and sets and fields in a table."""
    table = np.array(
        list(zip(SPLITS, np.arange(60) // 3, strict=True)), dtype=[("set", "S5"), ("field", "i4")]
    )
    with h5py.File(root / "survey.h5", "w") as file:
        pixels = np.moveaxis(IMAGES, 1, -1)
        file.create_dataset("cutouts/pixels", data=pixels, chunks=(8, SIDE, SIDE, 3), shuffle=True)
        file["labels"], file["names"], file["meta"] = LABELS == 1, NAMES.tolist(), table
    arrays = {"label": "labels", "id": "names", "split": "meta:set", "group": "meta:field"}
    keys = {"format": "hdf5", "axes": "hwc", "key": "cutouts/pixels"}
    return {"image": IMAGE | keys, "stacks": [{"file": "*.h5", "arrays": arrays}]}


def write_npy(root):
    """Write X and y as they are handed around."""
    stacks = []
    for split in ("train", "test"):
        rows = np.flatnonzero(split == SPLITS)
        for name, values in (("X", IMAGES), ("y", LABELS), ("names", NAMES)):
            np.save(root / f"{name}_{split}.npy", values[rows])
        arrays = {"label": f"y_{split}.npy", "id": f"names_{split}.npy"}
        stacks.append({"file": f"X_{split}.npy", "split": split, "arrays": arrays})
    return {"image": IMAGE | {"format": "npy", "stack": True}, "stacks": stacks}


def write_bands(root):
    """Write a FITS file a band, a third of them with borders of NaN, beside a catalogue."""
    (root / "cutouts").mkdir()
    for number, (name, image) in enumerate(zip(NAMES, IMAGES, strict=True)):
        gaps = np.arange(SIDE) < number % 3
        for band, pixels in zip(BANDS, np.where(gaps, np.nan, image), strict=True):
            fits.PrimaryHDU(pixels).writeto(root / f"cutouts/{name}_{band}.fits")
    table = Table({"NAME": NAMES, "CLASS": np.where(LABELS, "lens", "other"), "SET": SPLITS})
    table["RA"], table["DEC"] = np.arange(60) // 3 * 6.0, np.arange(60) // 3 - 10.0
    table["Z"] = np.where(LABELS, 0.5, np.nan)
    table[::-1].write(root / "objects.fits")
    catalogue = {"file": "objects.fits", "id": "name", "label": "class", "split": "set"}
    catalogue |= {"group": {"healpix_order": 6}, "position": {"ra": "ra", "dec": "dec"}}
    keys = {"format": "fits", "axes": "hw", "bands": "{object}_{band}.fits"}
    keys |= {"bad_pixels": {"fill": 0.0}}
    return {
        "image": IMAGE | keys,
        "folder": "cutouts",
        "catalogue": catalogue | {"columns": ["z"]},
    }


def run(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


LAYOUTS = {
    "hdf5": (write_hdf5, NAMES),
    "npy": (write_npy, NAMES),
    "bands": (write_bands, np.char.add("cutouts/", NAMES)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_of_a_survey_is_prepared_verified_and_trained(name, tmp_path):
    write, ids = LAYOUTS[name]
    source, store, file = tmp_path / "source", tmp_path / "store", tmp_path / "mine.yaml"
    source.mkdir()
    file.write_text(yaml.safe_dump({"name": "mine", "classes": CLASSES, **write(source)}))
    told = run("prepare", file, source, store, "--workers", 1).stderr
    run("verify", store, "--against", source, "--workers", 1)
    found = open_store(store)
    rows = found.rows
    order = pd.Index(ids).get_indexer(rows["id"])
    np.testing.assert_array_equal(np.sort(order), np.arange(60))
    np.testing.assert_array_equal(rows["label"], LABELS[order])
    np.testing.assert_array_equal(rows["split"], SPLITS[order])
    expected = IMAGES[order].copy()
    if name == "bands":
        for image, number in zip(expected, order, strict=True):
            image[..., : number % 3] = 0
        assert "60 of 60 images have a row in the catalogue" in told
        assert rows["group"].nunique() == 20
        np.testing.assert_array_equal(rows["ra_deg"], order // 3 * 6.0)
        np.testing.assert_array_equal(rows["z"], np.where(LABELS, 0.5, np.nan)[order])
        masks = found.read_masks(slice(0, 60))
        np.testing.assert_array_equal(masks.sum(axis=(1, 2, 3)), order % 3 * 3 * SIDE)
    if name == "hdf5":
        np.testing.assert_array_equal(rows["group"], (order // 3).astype(str))
    np.testing.assert_array_equal(found.read_raw(slice(0, 60)), expected)

    further = {"data": {"mask_channels": True}} if name == "bands" else {}
    done = train(tmp_path, found, "multiclass", ("d4_net",), **further)
    predicted = pd.concat(
        pd.read_parquet(path) for path in sorted(done.root.rglob("predictions.parquet"))
    )
    tested = predicted[predicted["split"] == "test"]
    assert set(tested["id"]) == set(ids[SPLITS == "test"])
    shares = np.exp(tested[["logp_0", "logp_1"]]).sum(axis=1)
    np.testing.assert_allclose(shares, 1, rtol=1e-5)
