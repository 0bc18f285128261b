"""A store opens as it is in zarr-python, xarray, dask and pandas, and tells what it holds."""

import re
from pathlib import Path

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray
from stores import write_rows

from lenshpc.store import Pixels, Store, StoreSpec, open_store
from lenshpc.store.contents import contents

PAGE = Path(__file__).parents[1] / "docs" / "stores.md"
NUM_ROWS = 50
PAIRS = StoreSpec(
    dataset="bands",
    classes=("nonlens", "true lens"),
    image=Pixels(shape=(3, 8, 9), dtype="float32", channels=("g", "r", "i")),
    target=Pixels(shape=(1, 16, 18), dtype="uint8", channels=("vis",)),
    masks=True,
    columns=("ra_deg", "theta_e_arcsec", "redshift"),
    chunk_rows=8,
    shard_rows=16,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store of all arrays that there are, at `stores/lenses`."""
    path = tmp_path_factory.mktemp("readers") / "stores" / "lenses"
    path.parent.mkdir()
    rng = np.random.default_rng(5)
    ids = [f"row {index}" for index in range(NUM_ROWS)]
    split = ["train"] * 30 + ["test"] * 20
    rows = pd.DataFrame({"id": ids, "group": ids, "label": np.arange(NUM_ROWS) % 2, "split": split})
    images = rng.normal(size=(NUM_ROWS, 3, 8, 9)).astype(np.float32)
    targets = rng.integers(0, 256, (NUM_ROWS, 1, 16, 18)).astype(np.uint8)
    values, masks = rng.normal(size=(NUM_ROWS, 3)), (images > 1).astype(np.uint8)
    write_rows(path, PAIRS, rows, images, targets, values, masks)
    return open_store(path)


def test_page_of_other_programs_runs(pairs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pairs.path.parents[1])
    found: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        exec(block, found)  # noqa: S102 (the page is ours)
    pixels, rows = pairs.read_raw(slice(None)), pairs.rows
    assert np.array_equal(found["pixels"], pixels[:32])
    assert found["classes"] == ["nonlens", "true lens"]
    assert np.array_equal(found["labels"], rows["label"])
    assert np.array_equal(found["red"].values, pixels[:, 1])
    is_lens = (rows["split"] == "train") & (rows["label"] == 1)
    np.testing.assert_allclose(found["mean_lens"], pixels[is_lens].mean(axis=0), atol=1e-6)
    assert np.array_equal(found["brightest"], pixels.max(axis=(0, 2, 3)))
    assert found["rows"]["id"].tolist() == rows["id"].tolist()
    assert found["counts"].to_dict() == {(0, 0): 15, (0, 1): 15, (2, 0): 10, (2, 1): 10}


def test_store_is_one_dataset_of_xarray(pairs: Store) -> None:
    opened = xarray.open_zarr(pairs.path)  # a warning would be an error
    assert dict(opened.sizes) == {
        "row": 50,
        "channel": 3,
        "y": 8,
        "x": 9,
        "target_channel": 1,
        "target_y": 16,
        "target_x": 18,
        "moment": 2,
        "byte": 32,
        "array": 3,
        "shard": 4,
        "chunk": 2,
    }
    assert set(opened.images.coords) == {"channel", "id", "group", "label", "split"}
    assert opened.channel.values.tolist() == ["g", "r", "i"]
    assert opened.target_channel.values.tolist() == ["vis"]
    assert np.array_equal(opened.images.values, pairs.read_raw(slice(None)))
    assert np.array_equal(opened.targets.values, pairs.read_raw_targets(slice(None)))
    assert np.array_equal(opened.masks.values, pairs.read_masks(slice(None)))
    for name in ("id", "group", "label", *PAIRS.columns):
        assert opened[name].values.tolist() == pairs.rows[name].tolist()
    assert opened.label.attrs == {
        "long_name": "class",
        "flag_values": [-1, 0, 1],
        "flag_meanings": "unlabelled nonlens true_lens",  # blanks part the words
    }
    units = {name: opened[name].attrs.get("units") for name in opened.variables}
    assert {name: unit for name, unit in units.items() if unit} == {
        "size": "byte",
        "shard_bytes": "byte",
        "ra_deg": "degree",
        "theta_e_arcsec": "arcsec",
    }


def test_dask_reads_file_by_file(pairs: Store) -> None:
    lazy = dask.array.from_zarr(str(pairs.path), component="images", chunks=(16, 3, 8, 9))
    assert lazy.numblocks == (4, 1, 1, 1)
    assert np.array_equal(lazy.compute(), pairs.read_raw(slice(None)))


def test_schema_is_told(pairs: Store) -> None:
    schema = contents(pairs)["arrays"]
    assert schema["masks"] == {
        "dtype": "uint8",
        "shape": [50, 3, 8, 9],
        "dimensions": ["row", "channel", "y", "x"],
        "units": None,
        "meaning": "1 where the image's pixel was filled",
    }
    assert schema["split"]["flags"] == {"train": 0, "val": 1, "test": 2, "unlabelled": 3}
    assert schema["id"]["dtype"] == "string"
    assert schema["theta_e_arcsec"]["units"] == "arcsec"
    assert set(schema) == set(xarray.open_zarr(pairs.path).variables)
