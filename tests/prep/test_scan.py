"""Scanning: ids, labels and splits of a good layout; one clear error for each bad one."""

import shutil

import pandas as pd
import pytest
from source_sets import fill, tiny

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import RefusedError
from lenshpc.prep.scan import scan
from lenshpc.store import SPLITS


def found(root, dataset):
    """Return the table of a scan, sorted by id."""
    return scan(root, dataset).table.to_pandas().sort_values("id", ignore_index=True)


def test_scan_gives_ids_labels_and_splits(tmp_path):
    fill(tmp_path, num_images=2, splits=("train",))
    ids = [f"train/{name}/{i}.npy" for name in ("no", "yes") for i in range(2)]
    expected = {"id": ids, "label": [0, 0, 1, 1], "split": 0, "group": ids, "file": ids, "at": -1}
    pd.testing.assert_frame_equal(
        found(tmp_path, tiny()).astype({"file": "str", "partner": "str"}),
        pd.DataFrame(expected | {"partner": ""}),
        check_dtype=False,
        check_like=True,
    )


def test_holdout_depends_on_the_id_alone(tmp_path):
    fill(tmp_path, num_images=40)
    whole = found(tmp_path, tiny()).set_index("id")["split"]
    for number in range(20, 40):
        (tmp_path / f"val/no/{number}.npy").unlink()
    part = found(tmp_path, tiny()).set_index("id")["split"]
    assert part.to_dict() == whole[part.index].to_dict()
    assert 25 < (whole == SPLITS.index("test")).sum() < 55
    assert (whole != SPLITS.index("train")).sum() == 80


def test_groups_never_part(tmp_path):
    fill(tmp_path, num_images=40)
    rows = found(tmp_path, tiny(group=r"(\d)\.npy$"))
    assert set(rows["group"]) == set("0123456789")
    held = rows[rows["split"] != SPLITS.index("train")]
    assert (held.groupby("group")["split"].nunique() == 1).all()


def test_hidden_files_and_a_table_beside_the_folders_do_not_count(tmp_path):
    fill(tmp_path)
    (tmp_path / "train/no/.DS_Store").touch()
    (tmp_path / "truth.csv").touch()
    assert scan(tmp_path, tiny()).table.num_rows == 32


def remove(*folders):
    return lambda root: [shutil.rmtree(root / folder) for folder in folders]


def touch(name):
    def change(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()

    return change


def empty(root):
    for path in (root / "train/yes").iterdir():
        path.unlink()


BROKEN = {
    "no folder": (remove("."), "no source folder at"),
    "unknown layout": (remove("train", "val"), "is not laid out as tiny: train/no/ is missing"),
    "class missing in train": (remove("train/yes"), "train/yes/ is missing; expected train/no"),
    "class missing in val": (remove("val/yes"), "val/yes/ is missing"),
    "empty class": (empty, "train/yes holds no .npy files; every class needs images"),
    "stray file": (touch("train/no/readme.txt"), "unexpected "),
    "stray folder": (touch("train/no/more/1.npy"), "unexpected "),
    "fourth class": (touch("train/maybe/1.npy"), "train/maybe is not part of tiny"),
    "other split": (touch("validation/no/1.npy"), "validation is not part of tiny"),
    "loose image": (touch("train/1.npy"), "train/1.npy is not part of tiny"),
    "case duplicate": (touch("train/no/1.NPY"), "duplicated id: train/no/1.NPY and train/no/1.npy"),
    "newline": (touch("train/no/a\nb.npy"), "cannot use the file name 'train/no/a\\nb.npy'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_layout_is_one_line_that_says_what_and_where(name, tmp_path):
    root = tmp_path / "source"
    fill(root)
    change, complaint = BROKEN[name]
    change(root)
    with pytest.raises(DataError) as error:
        scan(root, tiny())
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_two_suffixes_of_one_stem_are_one_id(tmp_path):
    image = {"format": "image", "shape": [1, 4, 4], "dtype": "uint8", "channels": ["i"]}
    for name in ("a.jpg", "a.jpeg"):
        touch(f"train/no/{name}")(tmp_path)
    (tmp_path / "train/yes").mkdir()
    with pytest.raises(DataError, match=r"duplicated id: train/no/a.jpeg and train/no/a.jpg"):
        scan(tmp_path, tiny(image=image))


def test_a_link_to_itself_is_named(tmp_path):
    fill(tmp_path)
    (tmp_path / "train/no/loop").symlink_to("loop")
    with pytest.raises(DataError, match="train/no/loop"):
        scan(tmp_path, tiny())


def test_a_split_left_without_a_class_is_refused(tmp_path):
    fill(tmp_path, num_images=1)
    (tmp_path / "val/no/0.npy").rename(tmp_path / "val/no/2.npy")  # whose hash falls elsewhere
    with pytest.raises(DataError, match=r"the holdout of tiny leaves no (no|yes) in (val|test)"):
        scan(tmp_path, tiny())


def break_names(root):
    """Leave odd names, strangers, a link to nothing, twins and a file that stands twice."""
    (root / "train/no/a\nb.npy").touch()
    (root / "train/no/notes.txt").touch()
    (root / "train/yes/gone.npy").symlink_to("nowhere.npy")
    (root / "train/yes/0.NPY").touch()
    (root / "train/more").mkdir()
    (root / "val/no/9.npy").hardlink_to(root / "train/no/0.npy")


def test_all_that_cannot_be_used_is_told_at_once(tmp_path):
    fill(tmp_path)
    break_names(tmp_path)
    with pytest.raises(RefusedError) as error:
        scan(tmp_path, tiny())
    assert {(one.path, one.cause) for one in error.value.defects} == {
        (r"'train/no/a\nb.npy'", "odd name"),
        ("train/no/notes.txt", "unexpected"),
        ("train/yes/0.npy", "duplicated id"),
        ("train/more", "unexpected"),
        ("val/no/9.npy", "the same file"),
    }
    assert str(error.value).startswith("5 sources cannot be used: 2 unexpected, 1 ")
    assert sorted(error.value.__notes__) == sorted(one.error for one in error.value.defects)
    assert not any("\n" in note for note in error.value.__notes__)


def test_all_without_a_partner_are_told_at_once(tmp_path):
    pairs = {"name": "pairs", "image": tiny().image, "classes": [{"name": "a", "train": "LR"}]}
    dataset = Dataset(**pairs, target={**tiny().image.model_dump(), "train": "HR"})
    for folder, numbers in (("LR", range(6)), ("HR", range(2, 9))):
        (tmp_path / folder).mkdir()
        for number in numbers:
            (tmp_path / f"{folder}/{number}.npy").touch()
    (tmp_path / "LR/3.npy").unlink()
    (tmp_path / "LR/3.npy").symlink_to("nowhere")
    with pytest.raises(RefusedError) as error:
        scan(tmp_path, dataset)
    found = {one.path: one.cause for one in error.value.defects}
    alone = [*(f"LR/{number}.npy" for number in (0, 1)), *(f"HR/{i}.npy" for i in (6, 7, 8))]
    assert found == dict.fromkeys(alone, "no partner")  # that 3 leads nowhere, reading says
