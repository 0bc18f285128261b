"""Columns of a store: read by their parts, coded as zarr does, and hashed whatever their parts."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr
from stores import begin_rows, chunks_of, table_of, write_rows

from lenshpc.errors import DataError
from lenshpc.prep.verify import verify
from lenshpc.store import Pixels, StoreSpec, begin, open_store
from lenshpc.store.texts import TEXT_CODEC, decode_texts, encode_texts

NUM_ROWS = 50
SPEC = StoreSpec(
    dataset="tiny",
    classes=("no", "yes"),
    image=Pixels(shape=(2, 3, 3), dtype="float32", channels=("a", "b")),
    columns=("mass",),
    source={"name": "tiny"},
    chunk_rows=4,
    shard_rows=8,
)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(NUM_ROWS, 2, 3, 3)).astype(np.float32)
MASS = RANDOM.random((NUM_ROWS, 1))
ROWS = pd.DataFrame(
    {
        "id": [f"ö{'x' * (i % 7)}/{i}.npy" for i in range(NUM_ROWS)],
        "label": np.arange(NUM_ROWS) % 2,
        "split": ["train"] * 30 + ["test"] * 20,
        "group": [f"g{i // 2}" for i in range(NUM_ROWS)],
    }
)
TEXTS = ["", "plain", "Ünï", "\U0001f30c" * 9, "", "x" * 300]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Write a store whose columns lie in four files each, of 16 rows but the last."""
    monkeypatch.setattr("lenshpc.store.layout.COLUMN_ROWS", 16)
    write_rows(tmp_path / "store", SPEC, ROWS, IMAGES, values=MASS)
    assert len(list((tmp_path / "store/id/c").iterdir())) == 4
    return tmp_path / "store"


@pytest.mark.parametrize("num", [6, 9])
def test_texts_are_coded_as_zarr_does(num, tmp_path):
    array = zarr.create_array(tmp_path, shape=6, dtype=str, chunks=num, compressors=TEXT_CODEC)
    array[:] = np.array(TEXTS, dtype=np.dtypes.StringDType())
    texts = pa.array(["before", *TEXTS, "after"], pa.large_string())[1:-1]
    assert encode_texts(texts, num) == (tmp_path / "c/0").read_bytes()
    assert decode_texts((tmp_path / "c/0").read_bytes()).to_pylist() == TEXTS + [""] * (num - 6)


CHOICES = {
    "slice": slice(14, 35),
    "none": slice(0, 0),
    "unsorted, twice": np.array([49, 3, 3, 16, 15]),
    "mask": np.arange(NUM_ROWS) % 9 == 4,
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("is_kept", [False, True], ids=["read in parts", "kept"])
def test_some_rows_of_columns_are_those_of_all(is_kept, name, path):
    store, rows = open_store(path), CHOICES[name]
    if is_kept:
        store.column("mass"), store.column("moments"), store.text("id")
    assert store.text("id", rows).to_pylist() == ROWS["id"].to_numpy()[rows].tolist()
    np.testing.assert_array_equal(store.column("mass", rows), MASS[rows, 0], strict=True)
    means = IMAGES[rows].astype(np.float64).mean(axis=(2, 3))
    np.testing.assert_allclose(store.column("moments", rows)[..., 0], means, rtol=1e-12, atol=0)


def test_blocks_of_columns_follow_each_other(path):
    found = list(open_store(path).blocks("group", "label", "sha256"))
    assert [len(block["label"]) for block in found] == [16, 16, 16, 2]
    groups = [text for block in found for text in block["group"].to_pylist()]
    assert groups == ROWS["group"].tolist()
    assert np.concatenate([block["label"] for block in found]).tolist() == ROWS["label"].tolist()
    assert {block["sha256"].shape[1] for block in found} == {32}


def test_statistics_of_rows_are_those_of_their_pixels(path):
    rows = np.array([0, 1, 15, 16, 40, 49])
    mean, std = open_store(path).statistics(rows)
    pixels = IMAGES[rows].astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


def test_store_is_named_alike_whatever_the_parts_of_its_columns(path, tmp_path, monkeypatch):
    monkeypatch.setattr("lenshpc.store.layout.COLUMN_ROWS", 10**6)
    spec = replace(SPEC, codec="none", chunk_rows=5, shard_rows=25)
    write_rows(tmp_path / "whole", spec, ROWS, IMAGES, values=MASS)
    whole, parts = open_store(tmp_path / "whole"), open_store(path)
    kept = {"files", "seal"}
    for name in parts.attributes.keys() - kept:
        assert whole.attributes[name] == parts.attributes[name]
    pd.testing.assert_frame_equal(whole.rows, parts.rows)


def test_manifest_hash_is_that_of_the_sources_in_any_order(path, tmp_path):
    order = RANDOM.permutation(NUM_ROWS)
    rows = ROWS.iloc[order].reset_index(drop=True)
    write_rows(tmp_path / "other", SPEC, rows, IMAGES[order], values=MASS[order])
    one, other = open_store(path).attributes, open_store(tmp_path / "other").attributes
    assert one["manifest_hash"] == other["manifest_hash"]
    assert one["content_hash"] != other["content_hash"]
    renamed = ROWS.assign(id=ROWS["id"].replace({"ö/0.npy": "ö/00.npy"}))
    write_rows(tmp_path / "renamed", SPEC, renamed, IMAGES, values=MASS)
    found = open_store(tmp_path / "renamed").attributes["manifest_hash"]
    assert found != one["manifest_hash"]


def test_groups_that_are_the_ids_are_read_once(tmp_path):
    write_rows(tmp_path / "store", SPEC, ROWS.assign(group=ROWS["id"]), IMAGES, values=MASS)
    store = open_store(tmp_path / "store")
    assert not store.is_grouped
    assert store.text("group") is store.text("id")
    shutil.rmtree(tmp_path / "store/group/c")
    assert open_store(tmp_path / "store").text("group").to_pylist() == ROWS["id"].tolist()
    with pytest.raises(DataError, match="is damaged: group/c/0 is missing"):
        verify(tmp_path / "store")


def test_store_with_groups_says_so(path):
    store = open_store(path)
    assert store.is_grouped
    assert store.text("group").to_pylist() == ROWS["group"].tolist()


def test_damage_in_one_file_of_a_column_is_found_when_its_rows_are_asked_for(path):
    file = path / "id/c/2"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    store = open_store(path)
    assert store.text("id", slice(0, 32)).to_pylist() == ROWS["id"].tolist()[:32]
    for rows in (slice(31, 33), None):
        with pytest.raises(DataError, match="is damaged: id/c/2 does not match its hash"):
            store.text("id", rows)
    with pytest.raises(DataError, match="is damaged: id/c/2 does not match its hash"):
        verify(path)


def test_draft_of_a_table_in_another_order_is_the_same(tmp_path):
    table, order = table_of(ROWS), RANDOM.permutation(NUM_ROWS)
    file = pa.array([f"stack{i % 3}.npy" for i in range(NUM_ROWS)], pa.large_string())
    straight = begin_rows(tmp_path / "store", SPEC, ROWS.assign(file=file.to_pylist()), {})
    mixed = table.append_column("file", file.dictionary_encode()).take(order)
    draft = begin(tmp_path / "store", SPEC, mixed, np.argsort(order), {})
    assert draft.folder == straight.folder
    assert draft.rows(6)["id"].to_pylist() == ROWS["id"].tolist()[48:]
    other = begin(tmp_path / "store", SPEC, mixed, np.argsort(order)[::-1], {})
    assert other.folder != straight.folder
    assert other.rows(0)["file"].to_pylist() == [f"stack{i % 3}.npy" for i in range(49, 41, -1)]


def test_masks_are_kept_beside_the_images(tmp_path):
    masks = (RANDOM.random(IMAGES.shape) < 0.1).astype(np.uint8)
    paths = []
    for number, kept in enumerate((masks, 1 - masks)):
        paths.append(tmp_path / f"store{number}")
        draft = begin_rows(paths[-1], replace(SPEC, masks=True), ROWS, {})
        for shard, block in enumerate(draft.blocks):
            chunks = chunks_of(draft, shard, IMAGES, values=MASS)
            starts = range(block.start, block.stop, SPEC.chunk_rows)
            draft.write(
                shard,
                (
                    replace(
                        chunk, pixels={**chunk.pixels, "masks": kept[start:][: len(chunk.size)]}
                    )
                    for chunk, start in zip(chunks, starts, strict=True)
                ),
            )
        draft.finish()
    first, second = map(open_store, paths)
    np.testing.assert_array_equal(first.read_masks(slice(3, 40)), masks[3:40], strict=True)
    np.testing.assert_array_equal(first.read_raw(slice(None)), IMAGES, strict=True)
    assert first.content_hash != second.content_hash
    write_rows(tmp_path / "plain", SPEC, ROWS, IMAGES, values=MASS)
    plain = open_store(tmp_path / "plain")
    with pytest.raises(DataError, match="has no masks; prepare it from a dataset file with"):
        plain.read_masks(slice(0, 1))
