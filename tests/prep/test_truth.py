"""Numbers beside images: they become columns of the store, and mistakes are one line."""

import math
import os

import numpy as np
import pandas as pd
import pytest
from source_sets import fill, tiny

from lenshpc.errors import DataError
from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import Dataset, load_dataset
from lenshpc.prep.simulation.simulate import simulate
from lenshpc.prep.tables import read_table
from lenshpc.prep.verify import verify

TRUTH = {"columns": ["theta_e_arcsec", "gamma1"]}
DATASET = tiny(truth=TRUTH)


@pytest.fixture
def source(tmp_path):
    """Return a folder of images with what is known of all but the last one."""
    images = sorted(fill(tmp_path / "source"))
    table = pd.DataFrame({"id": images, "kind": "lens", "gamma1": np.arange(len(images)) / 100})
    table["theta_e_arcsec"] = 1 + table["gamma1"]
    table.loc[0, "gamma1"] = math.nan
    table.iloc[:-1].to_csv(tmp_path / "source/truth.csv", index=False)
    return tmp_path / "source"


def columns(store):
    return store.rows.set_index("id")[["theta_e_arcsec", "gamma1"]].sort_index()


def test_numbers_become_columns_and_what_is_not_known_is_nan(source, tmp_path):
    found = columns(convert(DATASET, source, tmp_path / "store"))
    expected = np.stack([1 + np.arange(32) / 100, np.arange(32) / 100], axis=1)
    expected[0, 1] = expected[-1] = math.nan
    np.testing.assert_array_equal(found.to_numpy(), expected)
    verify(tmp_path / "store", against=source)


def test_images_without_the_file_have_nan(source, tmp_path):
    (source / "truth.csv").unlink()
    found = columns(convert(DATASET, source, tmp_path / "store"))
    assert found.isna().all(axis=None)
    assert found.shape == (32, 2)


def test_verification_finds_numbers_that_were_changed(source, tmp_path):
    convert(DATASET, source, tmp_path / "store")
    table = pd.read_csv(source / "truth.csv")
    table.assign(gamma1=0.5).to_csv(source / "truth.csv", index=False)
    with pytest.raises(DataError, match="differs from its source; prepare under another name"):
        verify(tmp_path / "store", against=source)


MISTAKES = {
    "no column": (
        lambda table: table.drop(columns="gamma1"),
        "needs one column gamma1, it holds id, kind",
    ),
    "no id": (
        lambda table: table.rename(columns={"id": "name"}),
        "needs one column id, it holds name, kind",
    ),
    "a word": (lambda table: table.assign(gamma1="strong"), "invalid value 'strong'"),
    "twice": (lambda table: pd.concat([table, table.head(1)]), "names 'train/no/0.npy' twice"),
    "no name": (lambda table: table.assign(id=[None, *table["id"][1:]]), "has a row without an id"),
    "a truth value": (lambda table: table.assign(gamma1=True), "invalid value 'True'"),
    "a column twice": (
        lambda table: table.rename(columns={"kind": "gamma1"}),
        "needs one column gamma1, it holds it twice",
    ),
    "other names": (
        lambda table: table.assign(id=table["id"] + "x"),
        "none of the 32 images has a row in",
    ),
    "no rows": (lambda table: table.head(0), "it has no rows"),
    "endless": (lambda table: table.assign(gamma1=math.inf), "an infinite number for 'train/no/"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_file_with_a_mistake_is_refused_before_any_image_is_read(name, source, tmp_path):
    change, complaint = MISTAKES[name]
    change(pd.read_csv(source / "truth.csv")).to_csv(source / "truth.csv", index=False)
    (source / "train/no/3.npy").write_bytes(b"")  # would be refused as well
    with pytest.raises(DataError) as error:
        convert(DATASET, source, tmp_path / "store")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_ids_that_name_no_image_are_shown_beside_one_that_does(source, tmp_path):
    numbers = pd.read_csv(source / "truth.csv").assign(id=range(100, 131))
    numbers.to_csv(source / "truth.csv", index=False)
    with pytest.raises(DataError, match=r"is 'train/no/0\.npy', its first row is of '100'"):
        convert(DATASET, source, tmp_path / "store")


def test_number_of_images_with_a_row_is_told(source, tmp_path):
    told = []
    convert(DATASET, source, tmp_path / "one", tell=told.append)
    with (source / "truth.csv").open("a") as stream:
        stream.write("lost,lens,1,2\n")
    convert(DATASET, source, tmp_path / "two", tell=told.append)
    (source / "truth.csv").unlink()
    convert(DATASET, source, tmp_path / "three", tell=told.append)
    line = f"31 of 32 images have a row in the truth table {source}/truth.csv, by their id"
    assert told == [line, f"{line}; 1 rows name no image, such as 'lost'"]


def make_unreadable(path, kind):
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to("gone.csv")
    else:
        path.write_bytes(b"\x89HDF\r\n\x1a\n")


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("pipe", "is not a regular file"),
        ("link to nothing", "is a broken link"),
        ("HDF5", "is HDF5, expected a table as CSV; save it so"),
    ],
)
def test_table_that_cannot_be_read_is_not_an_absent_one(kind, complaint, source, tmp_path):
    make_unreadable(source / "truth.csv", kind)
    with pytest.raises(DataError, match=complaint):
        convert(DATASET, source, tmp_path / "store")


def test_decimals_of_a_table_are_read_exactly(tmp_path):
    numbers = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 8.41e21, 123456789.123456789]
    text = "".join(f"{i},{number!r}\n" for i, number in enumerate(numbers))
    (tmp_path / "truth.csv").write_text(f"id,gamma1\n{text}", encoding="utf-8")
    found = read_table(tmp_path / "truth.csv", ["id"], numbers=["gamma1"])
    assert found.numbers["gamma1"].tolist() == numbers


@pytest.mark.parametrize(
    ("truth", "complaint"),
    [
        ({"columns": []}, "at least 1 item"),
        ({"columns": ["gamma1", "gamma1"]}, "column 'gamma1' is listed twice"),
        ({"file": "../truth.csv", "columns": ["gamma1"]}, "expected a path inside SOURCE"),
    ],
)
def test_declaration_with_a_mistake_is_refused(truth, complaint):
    with pytest.raises(ValueError, match=complaint):
        tiny(truth=truth)


def test_einstein_radii_of_the_physics_guided_set_differ_and_reach_the_store(tmp_path):
    dataset = load_dataset("physics_guided")
    counts = {"train": dict.fromkeys(("no", "sphere", "vort"), 6), "val": {"no": 1}}
    dataset = Dataset.model_validate(dataset.model_dump(by_alias=True) | {"holdout": None})
    simulate(dataset, tmp_path / "out", {"train": counts["train"]})
    found = convert(dataset, tmp_path / "out", tmp_path / "store").rows.set_index("id")
    expected = pd.read_csv(tmp_path / "out/truth.csv", index_col="id").loc[found.index]
    for name in dataset.columns:
        np.testing.assert_array_equal(found[name], expected[name])
    total = found["theta_e_arcsec"] / np.sqrt(1 - found["subhalo_mass_fraction"])
    assert total.between(0.8, 1.6).all()
    assert total.max() - total.min() > 0.4
