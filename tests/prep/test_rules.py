"""Groups, splits and the order of rows: by hashes that nothing but ids and groups decide."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from source_sets import fill, tiny

from lenshpc.errors import DataError
from lenshpc.prep.rows import TEXT, file_rows, join_rows, stack_rows
from lenshpc.prep.rules import check_groups, group_rows, hash_texts, hold_out, order_rows
from lenshpc.prep.scan import scan
from lenshpc.store import SPLITS

NAMES = [f"val/no/{number}-é.npy" for number in range(300)]


def rows(split="val", label=0):
    return file_rows(pa.array(NAMES, TEXT), None, label=label, split=split)


def hashed(text):
    return hashlib.sha256(text.encode()).digest()


def test_hashes_of_texts_are_those_of_hashlib_also_in_a_slice():
    texts = rows()["id"].slice(7, 100)
    expected = [int.from_bytes(hashed(f"3/{name}")[:8]) for name in NAMES[7:107]]
    assert hash_texts(texts, b"3/").tolist() == expected


def test_order_is_that_of_whole_hashes_split_by_split():
    table = join_rows([rows("test"), stack_rows("s.npz", 40, split="train")])
    found = table.take(order_rows(table, 5)).select(["split", "id"]).to_pylist()
    expected = [
        {"split": SPLITS.index(split), "id": name}
        for split, names in (("train", [f"s.npz#{row}" for row in range(40)]), ("test", NAMES))
        for name in sorted(names, key=lambda name: hashed(f"5/{name}"))
    ]
    assert found == expected


def test_rows_of_stacks_are_called_by_their_place():
    counts = {"a/s.npz": 1, "é.npz": 1234, "b.npz": 10}
    tables = [stack_rows(file, num, partner=f"t/{file}") for file, num in counts.items()]
    tables.insert(1, rows().slice(3, 5))
    found = join_rows(tables).select(["id", "file", "at", "partner"]).to_pylist()
    expected = [
        (f"{file}#{at}", file, at, f"t/{file}") for file, n in counts.items() for at in range(n)
    ]
    expected[1:1] = [(name, name, -1, "") for name in NAMES[3:8]]
    assert [tuple(row.values()) for row in found] == expected
    assert tables == []


@pytest.mark.parametrize("rule", ["id", r"/(\d)"])
def test_holdout_draws_whole_groups_by_their_hash(rule):
    dataset = tiny(group=rule)
    table = hold_out(group_rows(rows(), dataset), dataset)
    groups = NAMES if rule == "id" else [name.split("/")[2][0] for name in NAMES]
    held = [int.from_bytes(hashed(group)[:8]) / 2**64 < 0.5 for group in groups]
    assert table["group"].to_pylist() == groups
    expected = np.where(held, SPLITS.index("test"), SPLITS.index("val"))
    np.testing.assert_array_equal(table["split"].to_numpy(), expected)


def test_group_of_its_own_takes_no_memory():
    table = group_rows(rows(), tiny())
    addresses = {table[name].chunk(0).buffers()[2].address for name in ("id", "group")}
    assert len(addresses) == 1


def test_images_without_a_group_are_counted_and_named():
    with pytest.raises(DataError, match=r"200 images, such as .*, do not match the group expr"):
        group_rows(rows(), tiny(group=r"/(1)\d\d"))


def test_one_group_of_all_is_refused_at_once(tmp_path):
    fill(tmp_path)
    with pytest.raises(
        DataError, match=r"all 32 images are in one group, '\.npy', and a group is never"
    ):
        scan(tmp_path, tiny(group=r"(\.npy)$", holdout=None))


def test_class_of_a_split_that_is_one_group_is_told(tmp_path):
    fill(tmp_path)
    told = scan(tmp_path, tiny(group=r"(train/no|\d)", holdout=None)).told
    assert [line.partition(",")[0] for line in told] == [
        "warning: all images of no in train are of one group"
    ]


def test_groups_that_hold_little_are_not_told():
    dataset = tiny(group=r"/(\d+)")
    assert check_groups(group_rows(rows(), dataset), dataset) == ()
