"""Predictions of a catalogue's objects in mosaics: as of the store of them, and with positions."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from mosaic_sets import mosaic_dataset, scatter, write_tiles
from trained_run import CLASSES, SIDE

from lenshpc.errors import ConfigError, DataError
from lenshpc.inference.outputs import Predictions
from lenshpc.inference.predict import begin_predictions, join, predict_parts
from lenshpc.prep.convert import convert

COLUMNS = ["ra", "dec", *(f"p_{name}" for name in CLASSES)]


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Return a folder with mosaics and a catalogue, beside a dataset file of them."""
    root = tmp_path_factory.mktemp("field") / "sky"
    write_tiles(root, bands=("grey",))
    scatter(40).write(root / "catalogue.csv")
    image = {"format": "fits", "shape": [1, SIDE, SIDE], "dtype": "float32", "channels": ["grey"]}
    fill = {"mosaics": {"files": "{tile}_{band}.fits", "edge": "fill"}}
    dataset = mosaic_dataset(image=image | {"bad_pixels": {"fill": "median"}}, **fill)
    told = dataset.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    (root.parent / "field.yaml").write_text(json.dumps(told))
    convert(dataset, root, root.parent / "store")
    return root


def predict(trained, images, out, **more) -> pd.DataFrame:
    """Return the predictions of all parts, by id."""
    begin_predictions(trained.paths.root, images, out, part_rows=7, top=5, **more)
    predict_parts(out)
    join(out)
    found = Predictions(out)
    parts = [found.read_part(part) for part in range(found.num_parts)]
    return pd.concat(parts).set_index("id").sort_index()


def test_objects_in_mosaics_are_predicted_as_their_store_is(trained, field, tmp_path) -> None:
    file = str(field.parent / "field.yaml")
    found = predict(trained, field, tmp_path / "mosaics", dataset=file)
    expected = predict(trained, field.parent / "store", tmp_path / "store")
    assert list(found.index) == sorted(scatter(40)["name"])
    np.testing.assert_allclose(found[COLUMNS], expected[COLUMNS], rtol=0, atol=1e-6)
    catalogue = scatter(40).to_pandas().set_index("name").sort_index()
    np.testing.assert_array_equal(found[["ra", "dec"]], catalogue[["ra", "dec"]])
    top = pd.read_csv(tmp_path / "mosaics/candidates.csv")
    assert list(top.columns[:4]) == ["rank", "id", "ra", "dec"]
    assert len(top) == 5


def test_other_mosaics_are_noticed_by_what_predicts_them(trained, field, tmp_path) -> None:
    file = str(field.parent / "field.yaml")
    begin_predictions(trained.paths.root, field, tmp_path / "out", dataset=file)
    path = field / "east_grey.fits"
    found = path.stat()
    os.utime(path, (found.st_atime, found.st_mtime + 60))
    with pytest.raises(ConfigError, match="no longer holds the images that"):
        predict_parts(tmp_path / "out")


def test_mosaics_without_their_catalogue_are_refused(trained, field, tmp_path) -> None:
    (tmp_path / "sky").mkdir()
    with pytest.raises(DataError) as refused:
        begin_predictions(
            trained.paths.root,
            tmp_path / "sky",
            tmp_path / "out",
            dataset=str(field.parent / "field.yaml"),
        )
    assert str(refused.value) == (
        f"{tmp_path}/sky has no catalogue catalogue.csv of the objects to cut from mosaics; add "
        "it, or describe the files with --dataset"
    )
