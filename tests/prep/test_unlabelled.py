"""Images without a label: a split of their own, read by semi-supervised training alone."""

import numpy as np
import pytest

from lenshpc.config import validate
from lenshpc.errors import ConfigError
from lenshpc.prep.convert import Options, convert
from lenshpc.prep.dataset import Dataset
from lenshpc.store import open_store

RINGS = {
    "name": "rings",
    "image": {"format": "npy", "shape": [1, 4, 4], "dtype": "float32", "channels": ["i"]},
    "classes": [{"name": "other", "train": "other"}, {"name": "ring", "train": "rings"}],
    "unlabelled": "sky",
    "holdout": {"fraction": 0.3, "from": "train", "to": "test"},
}


def test_unlabelled_images_are_rows_of_no_class(tmp_path):
    rng = np.random.default_rng(0)
    for folder, num in (("other", 20), ("rings", 20), ("sky", 7)):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for index in range(num):
            image = rng.normal(size=(1, 4, 4)).astype(np.float32)
            np.save(tmp_path / "source" / folder / f"{index}.npy", image)
    convert(validate(Dataset, RINGS, "rings"), tmp_path / "source", tmp_path / "store", Options())
    store = open_store(tmp_path / "store")
    sky = store.rows[store.rows["split"] == "unlabelled"]
    assert sorted(sky["id"]) == [f"sky/{index}.npy" for index in range(7)]
    assert set(sky["label"]) == {-1}
    assert store.attributes["counts"]["unlabelled"] == {"without a label": 7}
    assert (
        sum(store.attributes["counts"]["train"].values())
        + sum(store.attributes["counts"]["test"].values())
        == 40
    )


def test_unlabelled_pairs_are_refused():
    target = {**RINGS["image"], "train": "HR"}
    value = {**RINGS, "classes": RINGS["classes"][:1], "target": target}
    with pytest.raises(
        ConfigError, match="unlabelled images cannot be combined with target or pickled"
    ):
        validate(Dataset, value, "rings")
