"""Predictions of stacks with ids and of bands as files, at a catalogue's positions."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from trained_run import CLASSES, SIDE

from lenshpc.inference.outputs import Predictions
from lenshpc.inference.predict import begin_predictions, join, predict_parts

NUM = 9
NAMES = [f"J{number}" for number in range(NUM)]
PIXELS = np.random.default_rng(6).normal(size=(NUM, 1, SIDE, SIDE)).astype(np.float32)
IMAGE = {"shape": [1, SIDE, SIDE], "dtype": "float32", "channels": ["grey"]}
CATALOGUE = {"file": "objects.csv", "id": "name", "label": "kind", "group": "field"}
KEYS = {"position": {"ra": "ra", "dec": "dec"}, "columns": ["redshift"]}


def write_table(root):
    """Write positions of all but the last object, and nothing of what a training needs."""
    known = pd.DataFrame({"name": NAMES[:-1], "ra": np.arange(8) + 0.25, "dec": -np.arange(8.0)})
    known.to_csv(root / "objects.csv", index=False)
    return {"catalogue": CATALOGUE | KEYS}


def write_hdf5(root):
    with h5py.File(root / "new-1.h5", "w") as file:
        file.create_dataset("x", data=PIXELS, chunks=(4, 1, 8, 8), compression="gzip")
        file["names"] = NAMES
    arrays = {"id": "names", "split": "sets"}
    stacks = [{"file": "old-*.h5"}, {"file": "new-*.h5", "arrays": arrays}]
    return {"image": IMAGE | {"format": "hdf5", "key": "x"}, "stacks": stacks} | write_table(root)


def write_npz(root):
    np.savez_compressed(root / "others.npz", x=PIXELS)
    arrays = {"label": "y", "id": "names"}
    stacks = [{"file": "X.npz", "arrays": arrays}]
    return {"image": IMAGE | {"format": "npz", "key": "x"}, "stacks": stacks}


def write_bands(root):
    for name, pixels in zip(NAMES, PIXELS, strict=True):
        (root / f"cut/{name[-1]}").mkdir(parents=True)
        fits.PrimaryHDU(pixels[0]).writeto(root / f"cut/{name[-1]}/{name}.grey.fits")
    keys = {"format": "fits", "bands": "{object}.{band}.fits", "axes": "hw"}
    return {"image": IMAGE | keys, "folder": "cut"} | write_table(root)


LAYOUTS = {
    "hdf5": (write_hdf5, NAMES),
    "npz": (write_npz, [f"others.npz#{number}" for number in range(NUM)]),
    "bands": (write_bands, [f"cut/{number}/J{number}" for number in range(NUM)]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_are_predicted_by_the_dataset_file_of_their_kind(name, trained, tmp_path):
    write, ids = LAYOUTS[name]
    root, out = tmp_path / "new", tmp_path / "out"
    root.mkdir()
    classes = [{"name": one} for one in CLASSES]
    told = {"name": "mine", "classes": classes} | write(root)
    (tmp_path / "mine.yaml").write_text(json.dumps(told))
    dataset = str(tmp_path / "mine.yaml")
    begin_predictions(trained.paths.root, root, out, part_rows=4, top=3, dataset=dataset)
    predict_parts(out)
    join(out)
    found = Predictions(out)
    table = pd.concat([found.read_part(part) for part in range(found.num_parts)])
    table = table.set_index("id").loc[ids]
    assert len(table) == NUM
    if "catalogue" in told:
        np.testing.assert_array_equal(table["ra"], [*np.arange(8) + 0.25, np.nan])
        np.testing.assert_array_equal(table["dec"], [*-np.arange(8.0), np.nan])

    plain = tmp_path / "plain"
    plain.mkdir()
    for number, pixels in enumerate(PIXELS):
        np.save(plain / f"{number}.npy", pixels)
    begin_predictions(trained.paths.root, plain, tmp_path / "expected", part_rows=4)
    predict_parts(tmp_path / "expected")
    join(tmp_path / "expected")
    other = Predictions(tmp_path / "expected")
    expected = pd.concat([other.read_part(part) for part in range(other.num_parts)])
    names = [f"p_{one}" for one in CLASSES]
    np.testing.assert_allclose(table[names], expected[names], rtol=0, atol=1e-6)
