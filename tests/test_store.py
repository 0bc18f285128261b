"""The store: what is written is read back; what is not whole does not open."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import zarr

from lenshpc.errors import DataError
from lenshpc.store import StoreSpec, open_store, shard_rows, writing

SPEC = StoreSpec(
    dataset="tiny",
    classes=("no", "yes"),
    channels=("a",),
    image_shape=(1, 4, 3),
    dtype="float32",
    seed=7,
)
NUM_ROWS = 70
IMAGES = np.random.default_rng(0).normal(size=(NUM_ROWS, 1, 4, 3)).astype(np.float32)
HASHES = np.random.default_rng(1).integers(0, 256, size=(NUM_ROWS, 32), dtype=np.uint8)
ROWS = pd.DataFrame(
    {
        "id": [f"Ünï/{i} a.npy" for i in range(NUM_ROWS)],
        "label": [i % 2 for i in range(NUM_ROWS)],
        "split": ["train"] * 40 + ["val"] * 20 + ["test"] * 10,
        "group": [str(i // 2) for i in range(NUM_ROWS)],
    }
)


def fill(writer):
    for block in writer.blocks:
        sizes = np.full(block.stop - block.start, 176)
        writer.write_block(block, IMAGES[block], HASHES[block], sizes)


@pytest.fixture
def path(tmp_path):
    with writing(tmp_path / "store", SPEC, ROWS) as writer:
        fill(writer)
    return tmp_path / "store"


def test_store_gives_back_what_was_written(path):
    store = open_store(path)
    np.testing.assert_array_equal(store.images[:], IMAGES)
    expected = ROWS.assign(sha256=[row.tobytes().hex() for row in HASHES])
    assert store.rows.to_dict("list") == expected.to_dict("list")
    assert (store.dataset, store.classes, store.channels) == ("tiny", ("no", "yes"), ("a",))
    assert (store.image_shape, store.dtype, store.scale) == ((1, 4, 3), np.float32, 1.0)
    assert store.attributes["counts"] == {
        "train": {"no": 20, "yes": 20},
        "val": {"no": 10, "yes": 10},
        "test": {"no": 5, "yes": 5},
    }


@pytest.mark.parametrize(
    "rows",
    [slice(3, 9), slice(None), np.array([69, 2, 2, 40]), np.array([], int), np.arange(70) % 7 == 0],
    ids=["slice", "all", "unsorted", "none", "mask"],
)
def test_read_gives_the_rows_asked_for(rows, path):
    pixels = open_store(path).read(rows)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, IMAGES[rows])


def test_read_beyond_the_end_is_refused(path):
    with pytest.raises(DataError, match="has 70 rows"):
        open_store(path).read(np.array([70]))


def test_content_hash_ignores_the_shards_and_sees_the_rows(path, tmp_path, monkeypatch):
    monkeypatch.setattr("lenshpc.store.SHARD_ROWS", 32)
    with writing(tmp_path / "small", SPEC, ROWS) as writer:
        assert len(writer.blocks) == 3
        fill(writer)
    with writing(tmp_path / "other", SPEC, ROWS.assign(label=0)) as writer:
        fill(writer)
    hashes = [open_store(path.parent / name).content_hash for name in ("store", "small", "other")]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


@pytest.mark.parametrize(
    ("num_rows", "shape", "dtype", "expected"),
    [
        (1, (3, 64, 64), "float32", 32),
        (33, (3, 64, 64), "float32", 64),
        (10**6, (3, 64, 64), "float32", 2048),
        (10**6, (1, 150, 150), "float64", 1472),
        (10**6, (3, 9000, 9000), "float64", 32),
    ],
)
def test_shard_is_short_for_few_rows_and_large_images(num_rows, shape, dtype, expected):
    assert shard_rows(num_rows, shape, dtype) == expected


def set_attribute(path, name, value):
    zarr.open_group(path, mode="a").attrs[name] = value


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


BROKEN = {
    "absent": (shutil.rmtree, "no store at"),
    "other folder": (
        lambda path: (path / "zarr.json").unlink(),
        "is no store: zarr.json is missing",
    ),
    "incomplete": (lambda path: set_attribute(path, "complete", False), "is not complete"),
    "other layout": (lambda path: set_attribute(path, "lenshpc_store", 99), "has layout 99, not 1"),
    "metadata": (lambda path: truncate(path / "zarr.json"), "is damaged: zarr.json"),
    "array": (lambda path: shutil.rmtree(path / "moments"), "is damaged: 'moments'"),
    "labels": (
        lambda path: shutil.rmtree(path / "label/c"),
        "is damaged: the rows do not match the content hash",
    ),
    "shard missing": (
        lambda path: (path / "images/c/0/0/0/0").unlink(),
        "is damaged: shard images/c/0/0/0/0 has 0 bytes",
    ),
    "shard cut": (
        lambda path: truncate(path / "images/c/0/0/0/0"),
        "is damaged: shard images/c/0/0/0/0 has",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_store_does_not_open(name, path):
    change, complaint = BROKEN[name]
    change(path)
    with pytest.raises(DataError) as error:
        open_store(path)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_foreign_zarr_does_not_open(tmp_path):
    zarr.create_group(tmp_path / "foreign")
    with pytest.raises(DataError, match="is zarr but no lenshpc store"):
        open_store(tmp_path / "foreign")


def test_flipped_bit_in_a_shard_is_found_on_reading(path):
    shard = path / "images/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    store = open_store(path)
    with pytest.raises(DataError, match="is damaged: shard images/c/0/0/0/0: "):
        store.read(slice(0, 32))


def test_complete_is_the_last_attribute(path):
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    assert list(attributes)[-1] == "complete"
    assert attributes["complete"] is True
