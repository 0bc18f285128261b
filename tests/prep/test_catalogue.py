"""Catalogues: what each row says of its image, how many match, and one line for each mistake."""

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from healpix_cells import find as find_cell

from lenshpc.errors import DataError
from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.scan import scan
from lenshpc.prep.verify import verify

IMAGES = ["a/J1.npy", "a/J2.npy", "b/J3.npy", "b/J4.npy", "b/J5.npy", "b/J6.npy"]
IMAGE = {"format": "npy", "shape": [1, 4, 4], "dtype": "float32", "channels": ["i"]}
CLASSES = [{"name": "spiral"}, {"name": "lens", "values": ["lens", "arc", 2]}]
KEYS = {"id": "name", "label": "class", "split": "set", "group": "plate"}
COLUMNS = {
    "name": ["J1", "J2", "J3", "J4", "J5", "J6", "J7"],
    "class": ["spiral", "lens", "arc", "spiral", "spiral", "lens", "unknown"],
    "set": ["train", "train", "train", "train", "test", "test", "unlabelled"],
    "plate": [10, 10, 11, 11, 12, 12, 12],
    "redshift": [0.1, 0.2, np.nan, 0.4, 0.5, 0.6, 0.7],
    "RA": [0.0, 359.99, 150.1, 150.1, 200.0, 360.0, 12.0],
    "DEC": [-90.0, 0.0, 2.2, 2.2003, 45.0, 90.0, 1.0],
}


def declare(file="objects.csv", folder=".", classes=CLASSES, **keys):
    further = {name: keys.pop(name) for name in ("holdout", "group_rule", "splits") if name in keys}
    table = {name: value for name, value in ({"file": file} | KEYS | keys).items() if value}
    given = {"name": "mine", "image": IMAGE, "classes": classes, "catalogue": table}
    if "group_rule" in further:
        given["group"] = further.pop("group_rule")
    return Dataset.model_validate(given | further | ({"folder": folder} if folder else {}))


@pytest.fixture
def root(tmp_path):
    for name in IMAGES:
        flat = tmp_path / name.replace("/", "_")
        np.save(flat, np.zeros((1, 4, 4), np.float32))
    return tmp_path


def save(root, file="objects.csv", **changed):
    table = {name: values for name, values in (COLUMNS | changed).items() if values is not None}
    if "name" not in changed:
        table["name"] = ["a_J1", "a_J2", "b_J3", "b_J4", "b_J5", "b_J6", "b_J7"]
    frame = pd.DataFrame(table)
    if file.endswith(".csv"):
        frame.to_csv(root / file, index=False)
    elif file.endswith(".parquet"):
        frame.to_parquet(root / file)
    else:
        kind = "fits" if file.endswith(".fits") else "votable"
        Table.from_pandas(frame).write(root / file, format=kind)


def rows(found, *names):
    """Return id → the columns of a scan."""
    table = found.table.select(["id", *names]).to_pylist()
    return {row.pop("id"): tuple(row.values()) for row in table}


EXPECTED = {
    "a_J1.npy": (0, 0, "10"),
    "a_J2.npy": (1, 0, "10"),
    "b_J3.npy": (1, 0, "11"),
    "b_J4.npy": (0, 0, "11"),
    "b_J5.npy": (0, 2, "12"),
    "b_J6.npy": (1, 2, "12"),
}


@pytest.mark.parametrize("ending", ["csv", "parquet", "fits", "vot"])
def test_a_catalogue_gives_labels_splits_groups_and_numbers(ending, root):
    save(root, f"objects.{ending}")
    found = scan(root, declare(f"objects.{ending}", columns=["redshift"]))
    assert rows(found, "label", "split", "group") == EXPECTED
    numbers = {name: value for name, (value,) in rows(found, "redshift").items()}
    np.testing.assert_equal(
        numbers, dict(zip(sorted(numbers), COLUMNS["redshift"][:6], strict=True))
    )
    assert found.told[0] == (
        f"6 of 6 images have a row in the catalogue {root}/objects.{ending}, by their id without "
        "its ending; 1 rows name no image, such as 'b_J7'"
    )


FORMS = {
    "id": ["cut/a/J1.npy", "cut/b/J1.npy", "cut/b/J2.npy"],
    "id without its ending": ["cut/a/J1", "cut/b/J1", "cut/b/J2"],
    "file name": ["x", "y", "J2.npy"],
    "file name without its ending": ["x", "y", "J2"],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_an_id_that_matches_most_is_taken_and_told(form, tmp_path):
    classes = [{"name": "a", "train": "cut/a"}, {"name": "b", "train": "cut/b"}]
    for name in FORMS["id"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, np.zeros((1, 4, 4), np.float32))
    frame = pd.DataFrame({"name": FORMS[form], "redshift": [1.0, 2.0, 3.0]})
    frame.to_csv(tmp_path / "objects.csv", index=False)
    keys = {"label": None, "split": None, "group": None, "unmatched": "leave_out"}
    given = declare(folder=None, classes=classes, columns=["redshift"], **keys)
    if "name" in form:
        with pytest.raises(DataError, match=r"mine has no a in train"):
            scan(tmp_path, given)
        given = declare(folder=None, classes=classes, columns=["redshift"], **keys).model_copy(
            update={"classes": given.classes[1:]}
        )
        (tmp_path / "cut/a/J1.npy").unlink()
        (tmp_path / "cut/a").rmdir()
    found = scan(tmp_path, given)
    known = dict(zip(FORMS["id"], [1.0, 2.0, 3.0], strict=True))
    assert rows(found, "redshift") == {
        name: (known[name],) for name in FORMS["id"] if name == "cut/b/J2.npy" or "id" in form
    }
    assert f"by their {form}" in found.told[0]


def test_neighbours_on_the_sky_are_one_group_and_positions_are_kept(root):
    save(root)
    cells = {"group": {"healpix_order": 8}, "position": {"ra": "ra", "dec": "dec"}}
    found = rows(scan(root, declare(**cells)), "group", "ra_deg", "dec_deg")
    for place, (name, (group, ra, dec)) in enumerate(sorted(found.items())):
        assert (ra, dec) == (COLUMNS["RA"][place], COLUMNS["DEC"][place])
        assert group == f"healpix8-{find_cell(ra, dec, 8)}", name
    assert found["b_J3.npy"][0] == found["b_J4.npy"][0] != found["b_J5.npy"][0]


def test_images_without_a_row_or_label_are_refused_left_out_or_unlabelled(root):
    save(root, name=["a_J1", "a_J2", "b_J3", "b_J4", "b_J5", "x", "y"], **{
        "class": ["spiral", "lens", "arc", "spiral", None, "lens", "lens"], "set": None,
    })  # fmt: skip
    keys = {"split": None}
    with pytest.raises(DataError) as error:
        scan(root, declare(**keys))
    assert str(error.value) == (
        f"2 of 6 images have no row with a class in {root}/objects.csv: b_J5.npy, b_J6.npy; add "
        "them, or set catalogue.unmatched to leave_out or unlabelled in DATASET"
    )
    kept = {name: (label, 0, group) for name, (label, _, group) in EXPECTED.items()}
    left = {name: row for name, row in kept.items() if name < "b_J5"}
    found = scan(root, declare(unmatched="leave_out", **keys))
    assert rows(found, "label", "split", "group") == left
    assert found.told[1].endswith("left out: b_J5.npy, b_J6.npy")
    found = scan(root, declare(unmatched="unlabelled", **keys))
    assert rows(found, "label", "split", "group") == left | {
        "b_J5.npy": (-1, 3, "12"),
        "b_J6.npy": (-1, 3, "b_J6.npy"),
    }
    assert found.told[1].endswith("kept as unlabelled: b_J5.npy, b_J6.npy")


def test_splits_of_a_catalogue_come_first_and_holdout_parts_groups_of_them(root):
    save(root, set=["T"] * 4 + ["X"] * 3)
    words = {"train": ["T"], "test": ["X"]}
    holdout = {"fraction": 0.3, "from": "train", "to": "val"}
    given = declare(splits=words, classes=[{"name": "any"}], label=None, holdout=holdout)
    found = rows(scan(root, given), "split", "group")
    assert {found[name][0] for name in ("b_J5.npy", "b_J6.npy")} == {2}
    for first, second, split in (("a_J1.npy", "a_J2.npy", 1), ("b_J3.npy", "b_J4.npy", 0)):
        assert found[first][0] == found[second][0] == split
    with pytest.raises(DataError, match="2 images are already in test, which `holdout` would make"):
        scan(root, declare(splits=words, holdout=holdout | {"to": "test"}))


def test_group_that_a_split_parts_is_told(root):
    save(root, plate=[1, 2, 3, 3, 1, 2, 2])
    (line,) = [one for one in scan(root, declare()).told if one.startswith("warning")]
    assert line.startswith(
        "warning: 2 groups have images in test and in other splits, such as 1, 2, so no run takes"
    )


NONE = (
    "none of the 6 images has a row in {root}/objects.csv: an image is 'a_J1.npy', its first row "
    "is of 'p0'; name the rows by the images' paths or names"
)
MISTAKES = {
    "none": ({"name": [f"p{i}" for i in range(7)]}, NONE),
    "twice": (
        {"name": ["a_J1", "a_J1", "b_J3", "b_J4", "b_J4", "b_J6", "x"]},
        "names 'a_J1', 'b_J4' twice; each image has one row",
    ),
    "no id": ({"name": ["a_J1", None, *"bcdef"]}, "has a row without an id"),
    "labels of no class": (
        {"class": ["spiral", "ring", "ring", "lens", "?", "lens", "ring"]},
        "objects.csv: class has values that no class has: 'ring' in 2 rows, '?' in 1 rows; known "
        "are spiral, lens, arc, 2; set classes[].values in DATASET",
    ),
    "splits of no word": (
        {"set": ["train", "dev", "train", "train", "test", "test", "hold"]},
        "set has values that no split has: 'dev' in 1 rows; known are train, val, test, unlabelled",
    ),
    "no split": (
        {"set": ["train", None, *["test"] * 5]},
        "has no set for 1 images: a_J2.npy; fill",
    ),
    "no group": ({"plate": [None, 1, None, 1, 1, 1, 1]}, "has no plate for 2 images: a_J1.npy, b_"),
    "outside": (
        {"RA": [-0.1, 361, 3, 3, 3, 3, 999], "DEC": [0, 0, -91, 3, 3, 3, 3]},
        "has 3 positions outside of 0 to 360 by -90 to 90 degrees, of a_J1.npy, a_J2.npy, b_J3.npy",
    ),
    "nowhere": (
        {"RA": [np.nan, 1, 3, 3, 3, 3, 3]},
        "has no position for 1 images: a_J1.npy; fill it in",
    ),
    "endless": ({"redshift": [1, 2, np.inf, 4, 5, 6, 7]}, "an infinite number for 'b_J3'"),
    "a word": ({"redshift": [*"123456", "deep"]}, "invalid value 'deep'"),
    "no column": ({"class": None}, "needs one column class, it holds name, set, plate, redshift"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_catalogue_with_a_mistake_is_one_line(name, root):
    changed, told = MISTAKES[name]
    save(root, **changed)
    keys = {"columns": ["redshift"], "position": {"ra": "RA", "dec": "DEC"}}
    cells = {"group": {"healpix_order": 3}} if name in {"outside", "nowhere"} else {}
    with pytest.raises(DataError) as error:
        scan(root, declare(**keys, **cells))
    assert told.format(root=root) in str(error.value)
    assert "\n" not in str(error.value)


def test_radians_are_not_taken_for_degrees(root):
    save(root, "objects.fits")
    table = Table.read(root / "objects.fits")
    table["RA"].unit = "rad"
    table.write(root / "objects.fits", overwrite=True)
    keys = {"position": {"ra": "RA", "dec": "DEC"}}
    with pytest.raises(DataError, match="has RA in rad, expected degrees"):
        scan(root, declare("objects.fits", **keys))


def test_row_that_names_two_images_is_refused(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "J1.npy", np.zeros((1, 4, 4), np.float32))
    pd.DataFrame({"name": ["J1"], "redshift": [1.0]}).to_csv(tmp_path / "objects.csv")
    classes = [{"name": one, "train": one} for one in "ab"]
    keys = {"label": None, "split": None, "group": None, "columns": ["redshift"]}
    with pytest.raises(
        DataError,
        match=r"'J1' is the file name without its ending of 2 images, such as a/J1.npy and b/",
    ):
        scan(tmp_path, declare(folder=None, classes=classes, **keys))


CHANGES = {
    "label": {"class": ["lens", *COLUMNS["class"][1:]]},
    "split": {"set": ["test", *COLUMNS["set"][1:]]},
    "group": {"plate": [99, *COLUMNS["plate"][1:]]},
    "number": {"redshift": [0.9, *COLUMNS["redshift"][1:]]},
}


@pytest.mark.parametrize("what", CHANGES)
def test_verification_finds_what_a_catalogue_says_otherwise_now(what, root, tmp_path_factory):
    store = tmp_path_factory.mktemp("made") / "store"
    save(root)
    convert(declare(columns=["redshift"]), root, store)
    verify(store, against=root)
    save(root, **CHANGES[what])
    with pytest.raises(DataError, match="prepare under another name"):
        verify(store, against=root)
