"""The file of a split manifest: read by its columns, each of which has a hash."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lenshpc.errors import DataError
from lenshpc.run.manifest import NUMBERS, PARTS, read_splits, splits_hash, write_splits

NUM_ROWS = 40


def manifest(**columns):
    splits = np.array(["dev"] * 30 + ["test"] * 6 + ["excluded"] * 4)
    frame = pd.DataFrame(
        {
            "row": np.arange(NUM_ROWS),
            "id": [f"ö{row}" for row in range(NUM_ROWS)],
            "label": np.arange(NUM_ROWS, dtype=np.int16) % 2,
            "group": [f"g{row // 2}" for row in range(NUM_ROWS)],
            "split": pd.Categorical(splits, list(PARTS)),
            "fold": np.where(splits == "dev", np.arange(NUM_ROWS) % 3, -1).astype(np.int16),
        }
    )
    return frame.assign(**columns)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr("lenshpc.run.manifest.BLOCK_ROWS", 16)
    write_splits(tmp_path / "splits.parquet", manifest())
    return tmp_path / "splits.parquet"


def test_columns_are_read_as_they_were_written(path):
    digest = splits_hash(manifest())
    pd.testing.assert_frame_equal(read_splits(path, digest), manifest())
    some = read_splits(path, digest, NUMBERS)
    pd.testing.assert_frame_equal(some, manifest()[list(NUMBERS)])
    assert pq.ParquetFile(path).num_row_groups == 3


def test_groups_that_are_the_ids_are_read_too(tmp_path):
    alone = manifest(group=manifest()["id"])
    write_splits(tmp_path / "splits.parquet", alone)
    found = read_splits(tmp_path / "splits.parquet", splits_hash(alone))
    pd.testing.assert_frame_equal(found, alone)


def test_hash_does_not_depend_on_the_blocks(monkeypatch):
    whole = splits_hash(manifest())
    monkeypatch.setattr("lenshpc.run.manifest.BLOCK_ROWS", 7)
    assert splits_hash(manifest()) == whole


@pytest.mark.parametrize("name", manifest().columns)
def test_another_value_anywhere_is_another_manifest(name):
    other = manifest()
    other.loc[[3, 34], name] = other.loc[[34, 3], name].to_numpy()
    assert splits_hash(other) != splits_hash(manifest())


@pytest.mark.parametrize("name", manifest().columns)
def test_exchanged_column_is_refused_by_whoever_reads_it(name, path):
    digest, table = splits_hash(manifest()), pq.read_table(path)
    at = table.column_names.index(name)
    turned = table.set_column(at, name, table[name].take(pa.array(range(NUM_ROWS))[::-1]))
    pq.write_table(turned.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(DataError, match=r"splits\.parquet is not the manifest of its Plan"):
        read_splits(path, digest)
    if name in NUMBERS:
        with pytest.raises(DataError, match="is not the manifest of its Plan"):
            read_splits(path, digest, NUMBERS)
    else:
        read_splits(path, digest, NUMBERS)


def test_cut_file_is_damaged(path):
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"splits\.parquet is damaged \("):
        read_splits(path, splits_hash(manifest()))


def test_file_that_the_system_does_not_hand_out_is_not_called_damaged(path):
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(DataError, match="cannot be read: Too many levels of symbolic links"):
        read_splits(path, splits_hash(manifest()))
