"""Numbers beside images: they become columns of the store, and mistakes are one line."""

import math

import numpy as np
import pandas as pd
import pytest
from source_sets import fill, tiny

from lenshpc.errors import DataError
from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import Dataset, load_dataset
from lenshpc.prep.simulation.simulate import simulate
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
    with pytest.raises(DataError, match="differs from its source; prepare it again"):
        verify(tmp_path / "store", against=source)


MISTAKES = {
    "no column": (lambda table: table.drop(columns="gamma1"), "lacks the column id, or numbers in"),
    "no id": (lambda table: table.rename(columns={"id": "name"}), "lacks the column id"),
    "a word": (lambda table: table.assign(gamma1="strong"), "lacks the column id, or numbers in"),
    "twice": (lambda table: pd.concat([table, table.head(1)]), "names 'train/no/0.npy' twice"),
    "no name": (lambda table: table.assign(id=[None, *table["id"][1:]]), "has a row without an id"),
    "endless": (lambda table: table.assign(gamma1=math.inf), "a number without end for 'train/no/"),
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


@pytest.mark.parametrize(
    ("truth", "complaint"),
    [
        ({"columns": []}, "at least 1 item"),
        ({"columns": ["gamma1", "gamma1"]}, "column 'gamma1' stands twice"),
        ({"file": "../truth.csv", "columns": ["gamma1"]}, "expected a folder inside SOURCE"),
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
