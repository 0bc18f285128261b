"""Lens parameters merged over members and compared with the truth, against pandas and scipy."""

import numpy as np
import pandas as pd
import pytest
from lenses_run import LENS, make_lenses_run

from lenshpc.errors import DataError
from lenshpc.tasks.physics_guided.lens_parameters import compare_with_truth, merge_lenses


@pytest.fixture(scope="module")
def lenses(tmp_path_factory):
    return make_lenses_run(tmp_path_factory.mktemp("lenses"))


@pytest.fixture(scope="module")
def merged(lenses):
    return merge_lenses(lenses.paths, lenses.plan, lenses.splits)


def test_parameters_are_the_means_over_the_members_that_predict_a_row(lenses, merged):
    frames = pd.concat([lenses.predictions(one.index) for one in lenses.plan.members[:6]])
    names = [*LENS, "physics_loss"]
    expected = frames.astype(dict.fromkeys(names, float)).groupby("row")[names].mean()
    counts = frames.groupby("row").size()
    assert set(counts) == {3, 6}
    assert list(merged.models) == ["resnet18"]
    found = merged.models["resnet18"].set_index(merged.rows["row"].to_numpy())
    pd.testing.assert_frame_equal(
        found.sort_index()[names], expected, check_names=False, rtol=1e-12
    )
    assert merged.members["resnet18"] == lenses.plan.members[0]


def test_run_without_lenses_has_none(pristine_run):
    found = merge_lenses(pristine_run.paths, pristine_run.plan, pristine_run.splits)
    assert found.models == {}


def test_rows_of_missing_members_are_not_known(lenses):
    missing = [one for one in lenses.plan.members if one.fold == 0]
    found = merge_lenses(lenses.paths, lenses.plan, lenses.splits, missing)
    absent = found.models["resnet18"]["theta_e_arcsec"].isna()
    assert (absent == (found.rows["fold"] == 0) & (found.rows["split"] == "oof")).all()


def test_member_that_lacks_a_row_is_refused(tmp_path):
    run = make_lenses_run(tmp_path)
    run.finish(0, run.predictions(0).iloc[1:])
    with pytest.raises(DataError, match="does not predict"):
        merge_lenses(run.paths, run.plan, run.splits)


def test_agreement_with_the_truth_has_its_closed_form(merged):
    rows, estimate = merged.rows, merged.models["resnet18"]["theta_e_arcsec"]
    truth = 1 + rows["row"].to_numpy() / 1000
    truth[::7] = np.nan
    found = list(
        compare_with_truth(merged, {"theta_e_arcsec": truth, "gamma1": 0 * truth}, ("no", "yes"))
    )
    parts = ["test", "test, no", "test, yes", "out-of-fold"]
    assert [one.part for one in found] == [*parts, "test", "out-of-fold"]
    testing = rows["split"] == "test"
    asked = testing & (rows["label"] == 1) & np.isfinite(truth)
    true, said = truth[asked], estimate[asked].to_numpy()
    one = found[2]
    assert (one.model, one.parameter, one.num) == ("resnet18", "theta_e_arcsec", asked.sum())
    assert one.mae == pytest.approx(np.abs(said - true).mean())
    assert one.bias == pytest.approx((said - true).mean())
    assert one.r2 == pytest.approx(
        1 - ((said - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()
    )
    assert np.isnan(found[-1].r2)  # a truth that does not vary explains nothing


def test_truth_that_is_not_known_is_not_compared(merged):
    nothing = np.full(len(merged.rows), np.nan)
    assert list(compare_with_truth(merged, {"theta_e_arcsec": nothing}, ("no", "yes"))) == []


def test_member_that_lacks_the_lenses_of_its_model_is_refused(tmp_path):
    run = make_lenses_run(tmp_path)
    run.finish(0, run.predictions(0).drop(columns=["physics_loss"]))
    with pytest.raises(DataError, match=r"member 0 .*cannot be read .*physics_loss"):
        merge_lenses(run.paths, run.plan, run.splits)
