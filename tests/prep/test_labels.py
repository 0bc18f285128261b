"""What arrays beside stacks say of their rows: labels, ids, splits and groups, or one line."""

import h5py
import numpy as np
import pandas as pd
import pytest
from byte_changes import assert_refused, try_changes

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.labels import read_stack_rows
from lenshpc.prep.scan import scan
from lenshpc.prep.stacks import count_rows
from lenshpc.prep.texts import mend_texts, to_texts

ROWS = np.random.default_rng(4).normal(size=(6, 4, 3, 2)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 0])
NAMES = ["J0", "J1", "J2", "J3", "J4", "J5"]
SPLITS = ["train", "train", "test", "test", "unlabelled", "train"]
GROUPS = [7, 7, 8, 8, 9, 7]
CATALOGUE = np.array(
    list(zip(LABELS, (name.encode() for name in NAMES), GROUPS, strict=True)),
    dtype=[("label", "i4"), ("name", "S9"), ("field", ">i8")],
)


def declare(form, arrays, file="*", classes=("no", "yes"), **further):
    image = {"format": form, "shape": [2, 4, 3], "dtype": "float32", "channels": ["g", "r"]}
    image |= {"axes": "hwc", **({"stack": True} if form == "npy" else {"key": "images"})}
    classes = [{"name": one} if isinstance(one, str) else one for one in classes]
    stacks = further.pop("stacks", [{"file": file, "arrays": arrays}])
    given = {"name": "mine", "image": image, "classes": classes, "stacks": stacks}
    return Dataset.model_validate(given | further)


def rows(root, dataset):
    """Return id → label, split and group."""
    found = scan(root, dataset).table.select(["id", "label", "split", "group"]).to_pylist()
    return {row.pop("id"): tuple(row.values()) for row in found}


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        file["images"] = ROWS
        for name, values in arrays.items():
            file[name] = values


EXPECTED = {
    "J0": (0, 0, "7"),
    "J1": (1, 0, "7"),
    "J2": (1, 2, "8"),
    "J3": (0, 2, "8"),
    "J4": (-1, 3, "9"),
    "J5": (0, 0, "7"),
}


def as_datasets(root):
    group = {"meta/group": GROUPS, "names": NAMES, "sets": np.array(SPLITS, "S")}
    write_hdf5(root / "s.h5", labels=LABELS == 1, **group)
    return declare(
        "hdf5", {"label": "labels", "id": "names", "split": "sets", "group": "meta/group"}
    )


def as_fields(root):
    write_hdf5(root / "s.h5", catalogue=CATALOGUE, sets=SPLITS)
    names = {"label": "catalogue:label", "id": "catalogue:name", "group": "catalogue:field"}
    return declare("hdf5", names | {"split": "sets"})


def as_members(root):
    words = np.array(["spiral", "ring"])[LABELS]
    np.savez(
        root / "s.npz", images=ROWS, y=words[:, None], i=NAMES, s=[0, 0, 1, 1, 2, 0], c=CATALOGUE
    )
    classes = ({"name": "no", "values": ["spiral"]}, {"name": "yes", "values": ["ring", "lens"]})
    places = {"label": "y", "id": "i", "split": "s", "group": "c:field"}
    words = {"train": [0], "test": [1], "unlabelled": [2]}
    return declare("npz", places, classes=classes, splits=words)


def as_files(root):
    np.save(root / "X.npy", ROWS)
    np.save(root / "y.npy", LABELS.astype(float))
    np.save(root / "c.npy", CATALOGUE)
    table = pd.DataFrame({"set": SPLITS, "field": [7, 7, 8, 8, 9, 7], "id": NAMES})
    table.to_csv(root / "meta.csv", index=False)
    places = {"label": "y.npy", "id": "c.npy:name", "split": "meta.csv:SET"}
    return declare("npy", places | {"group": "meta.csv:field"}, file="X.npy")


def as_enumerations(root):
    """Write numbers whose names mean the opposite of what the numbers would."""
    labels = h5py.enum_dtype({"yes": 0, "no": 1}, "i4")
    sets = h5py.enum_dtype({"test": 0, "train": 3, "unlabelled": 2}, "u1")
    cases = np.empty(6, [("set", sets), ("number", "i4")])
    cases["set"] = [3, 3, 0, 0, 2, 3]
    write_hdf5(root / "s.h5", names=NAMES, groups=GROUPS, cases=cases)
    with h5py.File(root / "s.h5", "a") as file:
        file.create_dataset("labels", data=(1 - LABELS)[:, None], dtype=labels)
    return declare(
        "hdf5", {"label": "labels", "id": "names", "split": "cases:set", "group": "groups"}
    )


@pytest.mark.parametrize("write", [as_datasets, as_fields, as_members, as_files, as_enumerations])
def test_arrays_say_label_id_split_and_group_of_each_row(write, tmp_path):
    assert rows(tmp_path, write(tmp_path)) == EXPECTED


def test_stacks_of_a_pattern_have_arrays_of_their_own_and_a_split(tmp_path):
    for number in range(2):
        np.save(tmp_path / f"X-{number}.npy", ROWS)
        np.save(tmp_path / f"y-{number}.npy", LABELS)
    np.save(tmp_path / "T.npy", ROWS[:2])
    np.save(tmp_path / "more.npy", ROWS[:2])
    np.save(tmp_path / "t.npy", LABELS[:2])
    stacks = [
        {"file": "X-*.npy", "arrays": {"label": "y-*.npy"}},
        {"file": "T.npy", "split": "test", "arrays": {"label": "t.npy"}},
        {"file": "more.npy", "split": "unlabelled"},
    ]
    dataset = declare("npy", {}, stacks=stacks, group=r"^(.)")
    expected = {
        f"X-{number}.npy#{row}": (LABELS[row], 0, "X") for number in range(2) for row in range(6)
    }
    expected |= {f"T.npy#{row}": (LABELS[row], 2, "T") for row in range(2)}
    assert rows(tmp_path, dataset) == expected | {
        f"more.npy#{row}": (-1, 3, "m") for row in range(2)
    }
    assert not [line for line in scan(tmp_path, dataset).told if "beside" in line]
    np.save(tmp_path / "forgotten.npy", ROWS)
    line = "1 files beside the stacks are named by no key: 'forgotten.npy'"
    assert line in scan(tmp_path, dataset).told


MISTAKES = {
    "a label of no class": (
        {"labels": [0, 2, 2, 2, 8, 9]},
        "arrays.label has values that no class has: '2' in 3 rows, '9' in 1 rows; known are 0, 1, "
        "no, yes; set classes[].values in DATASET",
    ),
    "no label": (
        {"labels": [0.0, np.nan, 1, np.nan, np.nan, 1]},
        "2 of 6 rows have no label, the first is row 1; fill them in",
    ),
    "a word that no split has": (
        {"sets": ["train", "train", "dev", "dev", "test", "test"]},
        "arrays.split has values that no split has: 'dev' in 2 rows; known are train, val, test, "
        "unlabelled; set `splits` in DATASET",
    ),
    "ids twice": (
        {"names": ["a", "b", "a", "c", "b", "d"]},
        "'a', 'b' occur more than once among the ids of stacks; each id belongs to one image",
    ),
    "no id": ({"names": ["a", "b", "", "c", "d", "e"]}, "1 of 6 rows have no id"),
    "an id that breaks a line": (
        {"names": ["a\nb", *NAMES[1:]]},
        r"cannot use the id 'a\nb'; write it",
    ),
    "no group": ({"groups": ["a", " ", "b", "c", "d", "e"]}, "1 of 6 rows have no group"),
    "fewer labels": (
        {"labels": LABELS[:5]},
        "labels has 5 rows, s.h5 has 6 images; there must be one value per image",
    ),
    "labels as vectors": ({"labels": np.eye(6)}, "labels has (6,) values a row, expected one"),
    "complex labels": ({"labels": LABELS * 1j}, "labels holds values of type complex128, expected"),
    "not UTF-8": ({"names": np.array([b"\xff", *"abcde"], "S")}, "names holds Invalid UTF8"),
    "too wide": ({"names": np.array(NAMES, "S20000")}, "values of 20000 bytes, too wide for a id"),
    "fields": (
        {"labels": CATALOGUE},
        "labels has the fields label, name, field; set `stacks[].arr",
    ),
    "an enumeration without a name": (
        {"labels": np.array(LABELS * 7, h5py.enum_dtype({"no": 0, "yes": 1}, "i4"))},
        "labels holds the number 7, for which its enumeration has no name; correct it, or `stacks",
    ),
    "none": ({"labels": None}, "lacks the array 'labels'; it holds 'groups', 'images', 'names'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_array_with_a_mistake_is_one_line(name, tmp_path):
    changed, told = MISTAKES[name]
    sound = {"labels": LABELS, "names": NAMES, "sets": SPLITS, "groups": GROUPS}
    found = {key: values for key, values in (sound | changed).items() if values is not None}
    write_hdf5(tmp_path / "s.h5", **found)
    places = {"label": "labels", "id": "names", "split": "sets", "group": "groups"}
    with pytest.raises(DataError) as error:
        scan(tmp_path, declare("hdf5", places))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def objects(root):
    np.save(root / "y.npy", np.array(["no", "yes"] * 3, object), allow_pickle=True)
    return {"label": "y.npy"}


PLACES = {
    "objects": (objects, "y.npy holds pickled objects, which are refused; save plain arrays"),
    "no file": (lambda root: {"label": "gone.npy"}, "gone.npy cannot be read: No such file"),
    "no table": (lambda root: {"label": "gone.csv:y"}, "gone.csv cannot be read: No such file"),
    "an array of the same file": (
        lambda root: {"label": "labels"},
        "X.npy holds one array; give a .npy file beside it, or TABLE:COLUMN",
    ),
    "a field of a plain array": (
        lambda root: {"label": "X.npy:label"},
        "the array has the fields none",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_place_that_holds_no_labels_is_one_line(name, tmp_path):
    np.save(tmp_path / "X.npy", ROWS)
    make, told = PLACES[name]
    with pytest.raises(DataError) as error:
        scan(tmp_path, declare("npy", make(tmp_path), file="X.npy"))
    assert told in str(error.value)


def test_file_that_no_pattern_or_two_name_is_refused(tmp_path):
    np.save(tmp_path / "X.npy", ROWS)
    one = {"file": "X.npy", "arrays": {"label": "y.npy"}}
    np.save(tmp_path / "y.npy", LABELS)
    for second, told in (
        ({"file": "Z-*.npy"}, "Z-*.npy matches no file; .* holds 'X.npy', 'y.npy'; set `stacks`"),
        (
            {"file": "?.npy", "arrays": {"label": "y.npy"}},
            "2 sources cannot be used: 1 the same file, 1 wrong shape",
        ),
    ):
        with pytest.raises(DataError, match=told.replace("*.npy matches", r"\*.npy matches")):
            scan(tmp_path, declare("npy", {}, stacks=[one, one | second]))


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (4,)}, {"chunks": (4,), "compression": "gzip", "shuffle": True}],
)
def test_texts_of_any_length_are_read_however_they_are_packed(options, tmp_path):
    names = ["x" * 4000, "y", "naïve", "b", "c", "d"]
    with h5py.File(tmp_path / "s.h5", "w", userblock_size=512) as file:
        file["images"], file["labels"] = ROWS, LABELS
        file.create_dataset("groups", data=names, dtype=h5py.string_dtype(), **options)
    given = declare("hdf5", {"label": "labels", "group": "groups"})
    assert scan(tmp_path, given).table["group"].to_pylist() == names


def test_heap_through_which_the_library_would_walk_for_ever_is_refused(tmp_path):
    write_hdf5(tmp_path / "s.h5", labels=["no", "yes"] * 3)
    content = (tmp_path / "s.h5").read_bytes()
    at = content.index(b"GCOL") + 16
    while content[at : at + 2] != bytes(2):  # until the free space at the end
        at += 16 + -(-int.from_bytes(content[at + 8 : at + 16], "little") // 8) * 8
    (tmp_path / "s.h5").write_bytes(content[: at + 8] + bytes(8) + content[at + 16 :])
    with pytest.raises(
        DataError, match="is damaged: the heap with the texts of /labels cannot be read"
    ):
        scan(tmp_path, declare("hdf5", {"label": "labels"}))


def test_all_stacks_that_cannot_be_used_are_found_in_one_pass(tmp_path):
    np.save(tmp_path / "X-0.npy", ROWS)
    np.save(tmp_path / "X-1.npy", ROWS[:, :1])
    (tmp_path / "X-2.npy").write_bytes((tmp_path / "X-0.npy").read_bytes()[:-9])
    for number in range(3):
        np.save(tmp_path / f"y-{number}.npy", LABELS + number)
    with pytest.raises(DataError) as error:
        scan(tmp_path, declare("npy", {"label": "y-*.npy"}, file="X-*.npy"))
    causes = {one.path: one.cause for one in error.value.defects}
    assert causes == {"X-1.npy": "wrong shape", "X-2.npy": "truncated"}


def test_values_become_texts_as_people_write_them():
    for values, expected in (
        (np.array([1, -2], ">i2"), ["1", "-2"]),
        (np.array([1.0, np.nan, 1.5]), ["1", None, "1.5"]),
        (np.array([True, False]), ["1", "0"]),
        (np.array([b"a  ", b""]), ["a", None]),
        (np.array(["é ", "b"]), ["é", "b"]),
        (np.ma.array([1, 2], mask=[True, False]), [None, "2"]),
    ):
        assert to_texts(values).to_pylist() == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1.0", None, "2.0"], ["1", None, "2"]),
        (["1.0", "x"], ["1.0", "x"]),
        (["True", None, "false"], ["1", None, "0"]),
        ([None] * 100 + ["1.0"], [None] * 100 + ["1"]),
        ([None, None], [None, None]),
        ([], []),
    ],
)
def test_column_of_whole_numbers_in_a_text_file_loses_its_points(column, expected):
    texts = to_texts(np.array(column or [""], object)).slice(0, len(column))
    assert mend_texts(texts).to_pylist() == expected


@pytest.mark.parametrize("num_tries", [25, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("write", [as_datasets, as_fields, as_members])
def test_changed_arrays_are_refused_or_give_a_value_a_row(write, num_tries, tmp_path):
    given = write(tmp_path)
    (path,) = tmp_path.iterdir()
    sound = path.read_bytes()

    def attempt(content):
        path.unlink()  # HDF5 goes by the inode
        path.write_bytes(content)
        try:
            num = count_rows(str(path), given.image)
            found = read_stack_rows(tmp_path, given, given.stacks[0], path.name, num)
        except DataError as error:
            assert_refused(path, error)
        else:
            assert {(len(column), column.null_count) for column in found.values()} == {(num, 0)}

    try_changes(sound, num_tries, attempt)
