"""Dataset files: the shipped ones load, and each mistake is one line."""

import pytest
from source_sets import TINY, write_yaml

from lenshpc.errors import ConfigError
from lenshpc.prep.dataset import load_dataset

BROKEN = {
    "unknown key": ({"clases": []}, "unknown key 'clases'; did you mean classes?"),
    "no classes": ({"classes": []}, "classes"),
    "dtype": (
        {"image": TINY["image"] | {"dtype": "float31"}},
        "expected an integer or float dtype",
    ),
    "channels": ({"image": TINY["image"] | {"channels": ["a"]}}, "1 channel names for shape"),
    "outside": (
        {"classes": [{"name": "a", "train": "../a"}, {"name": "b", "train": "b"}]},
        "expected a folder inside SOURCE",
    ),
    "folder twice": (
        {"classes": [{"name": "a", "train": "a"}, {"name": "b", "train": "a"}]},
        "folder 'a' stands twice",
    ),
    "class twice": (
        {"classes": [{"name": "a", "train": "a"}, {"name": "a", "train": "b"}]},
        "class 'a' stands twice",
    ),
    "uneven splits": (
        {"classes": [{"name": "a", "train": "a", "val": "v"}, {"name": "b", "train": "b"}]},
        "every class needs a folder for the same splits",
    ),
    "holdout into folders": (
        {"holdout": {"fraction": 0.5, "from": "train", "to": "val"}},
        "holdout must go from a split that has folders to one that has none",
    ),
    "group": ({"group": "no capture"}, "expected id, or an expression with one"),
    "simulate": ({"simulate": {"model": "survey", "pixel_scale_arcsec": -1}}, "greater than 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_dataset_file_with_a_mistake_is_refused(name, tmp_path):
    change, complaint = BROKEN[name]
    path = write_yaml(tmp_path / "mine.yaml", TINY | change)
    with pytest.raises(ConfigError) as error:
        load_dataset(str(path))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "classes", "splits"),
    [
        ("lens_finding", ["nonlens", "lens"], ("train", "test")),
        ("multiclass", ["no", "sphere", "vort"], ("train", "val")),
        ("slc", ["no_sub", "sub"], ("train",)),
        ("super_resolution", ["lens"], ("train",)),
        ("super_resolution_hsc_hst", ["lens"], ("train",)),
        ("diffusion", ["lens"], ("train",)),
        ("foundation", ["no_sub", "cdm", "axion"], ("train",)),
    ],
)
def test_shipped_dataset_loads(name, classes, splits):
    dataset = load_dataset(name)
    assert (dataset.name, [entry.name for entry in dataset.classes]) == (name, classes)
    assert dataset.splits == splits
