"""Means over members, range by range: those of pandas on all rows at once, or a refusal."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic_run import make_run

from lenshpc.errors import DataError
from lenshpc.run import merging
from lenshpc.run.merging import Merger, RowFault
from lenshpc.run.predictions import evaluated_rows
from lenshpc.run.stages import Shelf, Stages

COLUMNS = ["logp_0", "logp_1"]


def merger(run, **changes):
    """Return what merges the members of the first model in ranges of 16 rows."""
    members = run.plan.ensembles()["resnet18"]
    asked = {"members": members, "columns": COLUMNS, "range_rows": 16, **changes}
    return Merger(run=run.paths, plan=run.plan, splits=run.splits, **asked)


def average(run, members):
    """Return the means of all rows by pandas."""
    frames = pd.concat([run.predictions(one.index) for one in members])
    means = frames.astype(dict.fromkeys(COLUMNS, np.float64)).groupby("row")[COLUMNS].mean()
    return means.reindex(evaluated_rows(run.splits)["row"]).to_numpy()


@pytest.mark.parametrize("range_rows", [1, 7, 16, 150, 2**17])
def test_means_are_those_of_pandas_whatever_the_ranges(run, range_rows):
    asked = merger(run, range_rows=range_rows)
    np.testing.assert_allclose(asked.merge(), average(run, asked.members), rtol=1e-14)


def test_sums_depend_on_neither_ranges_nor_threads_nor_layout(tmp_path, monkeypatch):
    run = make_run(tmp_path, models=("resnet18",), seeds=(0, 1, 2))
    before = merger(run).merge()
    monkeypatch.setattr(merging, "count_threads", lambda: 5)
    np.testing.assert_array_equal(merger(run, range_rows=11).merge(), before)
    for member in run.plan.members:
        run.finish(member.index, run.predictions(member.index).iloc[::-1], layout=1)
    np.testing.assert_array_equal(merger(run).merge(), before)


def test_rows_that_no_member_has_are_nan(run):
    asked = merger(run)
    members = [one for one in asked.members if one.fold != 1]
    found = replace(asked, members=members).merge()
    uncovered = (evaluated_rows(run.splits)["fold"] == 1).to_numpy()
    np.testing.assert_array_equal(np.isnan(found), np.stack([uncovered] * 2, axis=1))
    assert np.isnan(replace(asked, members=[]).merge()).all()


def test_convert_is_given_the_columns_side_by_side(run):
    asked = merger(run)
    found = replace(asked, convert=lambda _, values: values[:, ::-1]).merge()
    np.testing.assert_array_equal(found, asked.merge()[:, ::-1])


def test_fault_in_one_range_is_told_of_all_rows_of_the_member(run):
    bad = run.predictions(1)["row"].iloc[[2, 30, 60]].tolist()
    ids = run.splits.set_index("row")["id"]
    third = run.predictions(1)["logp_0"].iloc[[2, 30, 60]].to_numpy(np.float64)

    def convert(_, values):
        flags = np.isin(values[:, 0], third)
        if flags.any():
            raise RowFault(flags, "predicts what cannot be")
        return values

    with pytest.raises(DataError) as caught:
        merger(run, convert=convert).merge()
    assert f"predicts what cannot be for {ids[bad[0]]!r} and 2 more; " in str(caught.value)


def edit(frame, what):
    """Return predictions with a fault in the last of their ranges."""
    if what == "order":
        return frame.iloc[[*range(len(frame) - 2), -1, -2]]
    if what == "beyond":
        return pd.concat([frame, frame.tail(1).assign(row=1000, id="other")])
    frame.loc[frame.index[-1], "logp_1"] = np.nan
    return frame


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("order", "has rows in another order than its layout says; rerun it with: "),
        ("beyond", "predicts 'other', which is not among its rows (oof or test); "),
        ("value", "predicts a value that is not finite for "),
    ],
)
def test_fault_of_a_sorted_file_is_told(run, what, told):
    run.finish(2, edit(run.predictions(2), what))
    with pytest.raises(DataError) as caught:
        merger(run).merge()
    assert f"member 2 (resnet18 fold 2 seed 0) of run {run.paths.name} {told}" in str(caught.value)


def test_merge_goes_on_after_the_parts_that_one_before_has_made(run, tmp_path):
    stages = Stages(folder=tmp_path / "cache")
    with stages.hold():
        expected = merger(run, stages=stages).merge()
    (folder,) = (path for path in stages.folder.iterdir() if path.is_dir())
    parts = sorted(folder.iterdir())
    assert [path.name for path in parts] == [f"{at:05d}" for at in range(10)]
    for path in parts[4:]:  # as a kill would have left it
        path.unlink()
    (folder / ".00004.host.1.tmp").write_bytes(b"half")
    # Other numbers in a part are those of the mean: it is not computed again.
    Shelf(folder).write(2, {"means": np.full((16, 2), 7.0)})
    marked = expected.copy()
    marked[32:48] = 7
    with stages.hold():
        np.testing.assert_array_equal(merger(run, stages=stages).merge(), marked)
    assert sorted(folder.iterdir()) == parts
    run.finish(0, run.predictions(0).assign(logp_0=-1.0))
    changed = merger(run, stages=stages).merge()
    np.testing.assert_array_equal(changed, merger(run).merge())
    assert (changed != expected).any()
