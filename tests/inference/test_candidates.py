"""The best rows of parts, whatever their order; a table that a spreadsheet does not run."""

import csv
import doctest

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lenshpc.errors import DataError
from lenshpc.inference import candidates
from lenshpc.inference.candidates import find_candidates, write_candidates
from lenshpc.report.latex import escape_cell


def write_parts(folder, frame, num):
    """Write a frame in `num` parts; return their paths."""
    paths = [folder / f"part-{at:05d}.parquet" for at in range(num)]
    for at, path in enumerate(paths):
        frame.iloc[at::num].to_parquet(path, index=False, row_group_size=7)
    return paths


def test_candidates_are_those_of_the_whole_table_whatever_the_order(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "flags": ["", "edge"] * 100,
            "spread": rng.random(200).astype(np.float32),
            "score": rng.integers(0, 12, 200) / 8,  # many ties
            "id": [f"{at:03d}.npy" for at in rng.permutation(200)],
        }
    )
    frame.loc[::9, "score"] = np.nan
    frame.loc[3, "score"] = np.inf
    monkeypatch.setattr(candidates, "BATCH_ROWS", 5)
    paths = write_parts(tmp_path, frame, 3)

    finite = frame[np.isfinite(frame["score"])]
    expected = finite.sort_values(["score", "id"], ascending=[False, True]).head(25)
    expected = expected[["id", "score", "flags", "spread"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(find_candidates(paths, 25), expected)
    pd.testing.assert_frame_equal(find_candidates(paths[::-1], 25), expected)
    assert len(find_candidates(paths, 1000)) == len(finite)


def test_candidates_of_empty_parts_have_the_columns_but_no_arrays(tmp_path):
    path = tmp_path / "part-00000.parquet"
    table = {"score": pa.array([], pa.float32()), "id": pa.array([], pa.string())}
    pq.write_table(pa.table({**table, "z": pa.array([], pa.list_(pa.float32()))}), path)
    found = find_candidates([path], 3)
    assert (list(found), len(found)) == (["id", "score"], 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"PAR1 no more"), "is damaged"),
        (lambda path: None, "cannot be read: No such file"),
        (
            lambda path: pq.write_table(pa.table({"id": ["a"], "z": [1.0]}), path),
            "has columns id, z, expected `id` and `score`",
        ),
        (
            lambda path: pq.write_table(pa.table({"id": ["a"], "score": [1]}), path),
            "has other columns than the parts before it",
        ),
    ],
)
def test_part_that_is_none_is_named(tmp_path, make, message):
    good = tmp_path / "part-00000.parquet"
    pq.write_table(pa.table({"id": ["b"], "score": [0.5]}), good)
    bad = tmp_path / "part-00001.parquet"
    make(bad)
    with pytest.raises(DataError, match=f"{bad} {message}"):
        find_candidates([good, bad], 2)


def test_candidates_read_back_equal(tmp_path):
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "id": ['a,"b".fits', "two\nlines", "é\u202e.npy", "-cmd|' /C calc'!A0", "+12.5"],
            "score": rng.random(5) / 3,
            "p_lens": (rng.random(5) * 1e-30).astype(np.float32),
            "known": [True, False, True, True, False],
            "dec": [np.nan, *rng.random(4)],
        }
    )
    path = tmp_path / "candidates.csv"
    write_candidates(frame, path)

    with path.open(newline="") as stream:
        head, *lines = csv.reader(stream)
    assert head == ["rank", "id", "dec", "score", "p_lens", "known"]
    assert [line[0] for line in lines] == ["1", "2", "3", "4", "5"]
    ids = [*frame["id"][:3], "'-cmd|' /C calc'!A0", "+12.5"]
    assert [line[1] for line in lines] == ids
    assert [float(line[3]) for line in lines] == list(frame["score"])
    assert [np.float32(line[4]) for line in lines] == list(frame["p_lens"])
    assert lines[0][2] == ""


@pytest.mark.parametrize(
    "text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "-1+1", "--1", "=1.5"]
)
def test_formula_gets_a_mark_that_can_be_taken_away(text):
    assert escape_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a=b.npy", "-12.5", "+3e-4", "1-2", "", "0'", -1.5, None])
def test_what_is_no_formula_stays(value):
    assert escape_cell(value) == value


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Of a part in one row group, a batch at a time is held."""
    scores = np.random.default_rng(3).random(1_000_000)
    table = pa.table({"id": np.arange(len(scores)), "score": scores, "p_lens": scores / 3})
    part = tmp_path / "part-00000.parquet"
    pq.write_table(table, part)
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)  # which counts anew
    pa.set_memory_pool(pool)
    try:
        find_candidates([part, part], 10)
    finally:
        pa.set_memory_pool(before)
    assert 0 < pool.max_memory() < table.nbytes // 2


def test_examples_of_docstrings_hold():
    assert doctest.testmod(candidates).failed == 0
