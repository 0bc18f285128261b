"""Predictions as files: a row group a range of rows, whatever the blocks in which they came."""

import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lenshpc import files
from lenshpc.errors import DataError
from lenshpc.files import recall_sha256, sha256
from lenshpc.run.tables import MemberTable, TableWriter, open_tables

ROWS = np.array([0, 1, 5, 9, 16, 17, 31, 40, 47, 100, 101])


def lines():
    """Return lines of some rows of a store."""
    split = np.where(ROWS % 2, "oof", "test")
    ids = [f"lens/{row:04d}.npy" for row in ROWS]
    values = ROWS.astype(np.float32) / 7
    return pd.DataFrame({"row": ROWS, "id": ids, "split": split, "logp_0": values})


def write(path, size):
    frame = lines()
    with TableWriter(path, range_rows=16) as table:
        for start in range(0, len(frame), size):
            table.add(frame.iloc[start : start + size])


@pytest.mark.parametrize("size", [1, 3, 4, 11])
def test_bytes_do_not_depend_on_the_blocks_in_which_rows_came(tmp_path, size):
    write(tmp_path / "one.parquet", size=2)
    write(tmp_path / "other.parquet", size)
    assert sha256(tmp_path / "other.parquet") == sha256(tmp_path / "one.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "other.parquet"), lines())


def test_row_groups_are_ranges_of_rows(tmp_path):
    write(tmp_path / "table.parquet", size=3)
    metadata = pq.read_metadata(tmp_path / "table.parquet")
    groups = [metadata.row_group(at).column(0).statistics for at in range(4)]
    assert [(one.min, one.max) for one in groups] == [(0, 9), (16, 31), (40, 47), (100, 101)]
    assert metadata.num_row_groups == 4


@pytest.mark.parametrize(("first", "last"), [(0, 149), (16, 47), (20, 100), (50, 60), (140, 149)])
def test_range_has_the_rows_that_pandas_finds(run, first, last):
    found = MemberTable(run.paths, run.plan.members[1]).read_range(["logp_1", "row"], first, last)
    frame = run.predictions(1)
    expected = frame.loc[frame["row"].between(first, last), ["row", "logp_1"]]
    pd.testing.assert_frame_equal(
        found.to_pandas()[["row", "logp_1"]], expected.reset_index(drop=True)
    )


def test_members_of_two_layouts_are_refused_in_one_line(run):
    run.finish(4, run.predictions(4), layout=1)
    with pytest.raises(DataError) as caught:
        open_tables(run.paths, run.plan.members)
    done = run.paths.member(run.plan.members[4].name).done
    assert str(caught.value) == (
        f"member 4 (resnet34 fold 1 seed 0) of run {run.paths.name} has predictions of layout 1, "
        "which another version of lenshpc wrote, and member 5 of layout 2; "
        f"rerun it with: rm {done} && lenshpc resume {run.paths.name}"
    )


def test_bytes_that_change_after_they_were_hashed_are_not_read(run):
    member = run.plan.members[0]
    path = run.paths.member(member.name).predictions
    table = MemberTable(run.paths, member)
    column = pq.read_metadata(path).row_group(1).column(3)
    content = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    content[begin + column.total_compressed_size - 1] ^= 1  # of the last page
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        table.read(["logp_0"])
    with pytest.raises(DataError, match=re.escape(f"{path} is damaged")):
        MemberTable(run.paths, member)


def test_file_is_hashed_again_once_it_has_changed(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = recall_sha256(path)
    monkeypatch.setattr(files, "SETTLED_S", -1.0)
    assert recall_sha256(path) == recall_sha256(path) == first == sha256(path)
    path.write_bytes(b"two!")
    assert recall_sha256(path) == sha256(path)
    other = tmp_path / "other"
    other.write_bytes(b"six!")
    other.rename(path)
    assert recall_sha256(path) == sha256(path)


def test_file_that_was_just_written_is_hashed_each_time(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    state = path.stat()
    assert recall_sha256(path) == sha256(path)
    assert state.st_ino not in {inode for _, inode, *_ in files._HASHED}
