"""Dataset files: the shipped ones load, and each mistake is one line."""

import pytest
from source_sets import TINY, write_yaml

from lenshpc.errors import ConfigError
from lenshpc.prep.dataset import load_dataset

FOLDERLESS = {"classes": [{"name": "a"}, {"name": "b"}]}
BROKEN = {
    "key of another name": (
        {"split_values": {"train": [1]}},
        "unknown key 'split_values'; did you mean splits? known: name, image, classes, target, "
        "truth, unlabelled, folder, stacks, catalogue, mosaics, splits, holdout, group, simulate",
    ),
    "unknown key in a list": (
        {"classes": [{"name": "a", "trian": "a"}]},
        "unknown key 'classes.0.trian'; did you mean classes.0.train? known: classes.0.train, "
        "classes.0.val, classes.0.test, classes.0.name, classes.0.values, classes.0.pickled",
    ),
    "unknown key of another name": (
        {"holdout": {"fraction": 0.5, "from": "train", "to": "val", "too": "test"}},
        "unknown key 'holdout.too'; did you mean holdout.to? known: holdout.fraction, "
        "holdout.from, holdout.to",
    ),
    "unknown key": ({"clases": []}, "unknown key 'clases'; did you mean classes?"),
    "no classes": ({"classes": []}, "classes"),
    "dtype": (
        {"image": TINY["image"] | {"dtype": "float31"}},
        "expected an integer or float dtype",
    ),
    "channels": ({"image": TINY["image"] | {"channels": ["a"]}}, "1 channel names for shape"),
    "outside": (
        {"classes": [{"name": "a", "train": "../a"}, {"name": "b", "train": "b"}]},
        "expected a path inside SOURCE",
    ),
    "folder twice": (
        {"classes": [{"name": "a", "train": "a"}, {"name": "b", "train": "a"}]},
        "folder 'a' is listed twice",
    ),
    "class twice": (
        {"classes": [{"name": "a", "train": "a"}, {"name": "a", "train": "b"}]},
        "class 'a' is listed twice",
    ),
    "uneven splits": (
        {"classes": [{"name": "a", "train": "a", "val": "v"}, {"name": "b", "train": "b"}]},
        "every class needs a folder for the same splits",
    ),
    "holdout into folders": (
        {"holdout": {"fraction": 0.5, "from": "train", "to": "val"}},
        "holdout must go from a split that has folders to one that has none",
    ),
    "column of the store": (
        {"truth": {"columns": ["size"]}},
        "the store itself has an array size; give the number another name",
    ),
    "group": ({"group": "no capture"}, "expected id, or an expression with one"),
    "no place": (
        FOLDERLESS,
        "expected one key that says where the images are, found nothing; give one of folders of "
        "classes",
    ),
    "two places": (
        {"folder": "all"},
        "expected one key that says where the images are, found folders of classes and folder",
    ),
    "no label": (
        FOLDERLESS | {"folder": "."},
        "nothing says to which of 2 classes an image belongs",
    ),
    "two labels": (
        FOLDERLESS
        | {
            "image": TINY["image"] | {"stack": True},
            "stacks": [{"file": "x.npy", "arrays": {"label": "y.npy"}}],
            "catalogue": {"file": "c.csv", "id": "id", "label": "label"},
        },
        "labels come from catalogue.label or from arrays, not from both",
    ),
    "labels of folders": (
        {"catalogue": {"file": "c.csv", "id": "id", "label": "label"}},
        "labels come from folders; leave out catalogue.label",
    ),
    "stacks of files": (
        FOLDERLESS | {"stacks": [{"file": "x.npy", "arrays": {"label": "y.npy"}}]},
        "stacks need an image.format of stacks",
    ),
    "mosaics without positions": (
        FOLDERLESS
        | {
            "image": TINY["image"] | {"format": "fits"},
            "mosaics": {"files": "{tile}_{band}.fits"},
            "catalogue": {"file": "c.csv", "id": "id", "label": "label"},
        },
        "mosaics need a catalogue with a position",
    ),
    "cells without positions": (
        {"catalogue": {"file": "c.csv", "id": "id", "group": {"healpix_order": 8}}},
        "group by healpix_order needs position",
    ),
    "bands": (
        {"image": TINY["image"] | {"bands": "{object}.npy"}},
        "expected a file name with {object} and {band}, each once",
    ),
    "simulate": (
        {"simulate": {"model": "survey", "difficulty": 1, "pixel_scale_arcsec": -1}},
        "expected more than 0",
    ),
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


def test_values_of_labels_and_splits_are_the_declared_ones_or_the_names(tmp_path):
    entry = {"file": "survey-*.npy", "arrays": {"label": "y.npy"}}
    mine = TINY | {"image": TINY["image"] | {"stack": True}, "stacks": [entry]}
    path = tmp_path / "mine.yaml"
    found = load_dataset(str(write_yaml(path, mine | {"classes": [{"name": "a"}, {"name": "b"}]})))
    assert found.label_values == {"0": 0, "1": 1, "a": 0, "b": 1}
    assert found.split_words == {name: name for name in ("train", "val", "test", "unlabelled")}
    digits = {"classes": [{"name": "1"}, {"name": "2"}]}
    assert load_dataset(str(write_yaml(path, mine | digits))).label_values == {"1": 0, "2": 1}
    digits = {"classes": [{"name": "1"}, {"name": "a"}]}
    assert load_dataset(str(write_yaml(path, mine | digits))).label_values == {"1": 0, "a": 1}
    classes = [{"name": "a", "values": [7, "spiral"]}, {"name": "b", "values": [True]}]
    changed = mine | {"classes": classes, "splits": {"train": [1, "T"], "test": [2]}}
    found = load_dataset(str(write_yaml(path, changed)))
    assert found.label_values == {"7": 0, "spiral": 0, "1": 1}
    assert found.split_words == {"1": "train", "T": "train", "2": "test"}
