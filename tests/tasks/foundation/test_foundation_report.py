"""The report of a pre-training, and what a classification says of one."""

import json

import numpy as np
import pytest
from foundation_run import make_foundation_run
from synthetic_run import make_run

from lenshpc.errors import DataError
from lenshpc.report.write import compose, write
from lenshpc.run.results import gather
from lenshpc.tasks.foundation.judge import merge_errors, score_errors


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return make_foundation_run(tmp_path_factory.mktemp("fm"))


def test_errors_are_means_over_members_beside_the_better_filling(pretrained):
    merged = merge_errors(pretrained.paths, pretrained.plan, pretrained.splits)
    lines = score_errors(merged, pretrained.plan)
    found = [(line.split, line.rows, line.num_rows) for line in lines]
    assert found == [
        ("test", "learnt classes", 20),
        ("oof", "learnt classes", 40),
        ("test", "class0", 20),
        ("test", "class1", 20),
    ]
    test, oof, _, other = lines
    assert (test.error, test.mean_error, test.smooth_error) == pytest.approx((0.2, 0.8, 0.4))
    assert (test.ratio, test.ratio_low, test.ratio_high) == pytest.approx((0.5,) * 3)
    assert other.ratio == pytest.approx(0.75)
    assert oof.error == pytest.approx(0.2)
    assert 0.19 < oof.error_low < 0.2 < oof.error_high < 0.21


def test_missing_member_leaves_rows_without_an_error(pretrained):
    plan = pretrained.plan
    merged = merge_errors(pretrained.paths, plan, pretrained.splits, plan.members[:1])
    test, oof, *_ = score_errors(merged, plan)
    assert (test.num_rows, oof.num_rows) == (20, 20)
    assert oof.error == pytest.approx(0.21)
    (empty, *_) = score_errors(
        merge_errors(pretrained.paths, plan, pretrained.splits, plan.members), plan
    )
    assert empty.num_rows == 0
    assert np.isnan([empty.error, empty.ratio, empty.error_low]).all()


def test_predictions_of_other_rows_are_refused(pretrained):
    altered = pretrained.splits.copy()
    altered.loc[altered.index[altered["split"] == "test"][0], "split"] = "excluded"
    with pytest.raises(DataError, match="which is not among its rows"):
        merge_errors(pretrained.paths, pretrained.plan, altered)


def test_predictions_without_an_error_are_refused(tmp_path):
    run = make_foundation_run(tmp_path)
    run.finish(1, run.predictions(1).drop(columns="smooth_error"))
    with pytest.raises(DataError, match=r"member 1 .*cannot be read .*smooth_error"):
        merge_errors(run.paths, run.plan, run.splits)


def test_report_shows_what_was_hidden_and_drawn(pretrained):
    results = gather(pretrained.paths, pretrained.plan, {}, allow_partial=False)
    report = compose(results)
    folder = write(report, pretrained.paths.report).parent
    assert [section.title for section in report.sections][:4] == [
        "Errors on hidden patches",
        "Hidden, drawn, true",
        "Features",
        "The encoders as files",
    ]
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert {"hidden_01.png", "hidden_24.png", "embedding.svg", "history_loss.svg"} <= figures
    content = json.loads((folder / "report.json").read_text())
    assert content["headline"]["ratio"] == pytest.approx(0.5)
    assert content["learnt"] == ["class0"]
    assert report.headline.value == "0.500 ×"
    assert report.verdict.checks[0].text.startswith(
        "mae_vit has a test error over the better filling's of 0.500, better than every baseline: "
        "it beats the closest one, the better of two fillings, by 0.500 ["
    )
    columns = ["id", "label", "row", "split", "model", "loss", "mean_error", "smooth_error"]
    assert sorted(report.predictions) == sorted(columns)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    scratch = {"init_from": None}
    return make_run(
        folder,
        models=("mae_vit", "mae_vit+probe", "mae_vit+tenth", "mae_vit+scratch_tenth"),
        init_from="/runs/fm-01234567",
        variants={
            "probe": {"method.linear_probe": True},
            "tenth": {"data.label_fraction": 0.6},
            "scratch_tenth": {"data.label_fraction": 0.6, **scratch},
        },
        method={"vit": {"patch": 2, "width": 24, "depth": 2, "heads": 2}},
    )


def test_report_sets_fine_tuning_beside_probes_and_scratch(tuned):
    results = gather(tuned.paths, tuned.plan, {}, allow_partial=False)
    report = compose(results)
    section = next(one for one in report.sections if one.title == "Pre-training")
    table, _, figure = section.blocks
    assert [row.cells[:4] for row in table.rows] == [
        ("mae_vit", "fine-tuned", "fm-01234567", "1"),
        ("mae_vit+probe", "linear probe", "fm-01234567", "1"),
        ("mae_vit+tenth", "fine-tuned", "fm-01234567", "0.6"),
        ("mae_vit+scratch_tenth", "from scratch", "–", "0.6"),
    ]
    assert figure.name == "label_fractions"


def test_report_of_a_plain_run_has_no_such_section(pristine_run):
    results = gather(pristine_run.paths, pristine_run.plan, {}, allow_partial=False)
    titles = [section.title for section in compose(results).sections]
    assert "Pre-training" not in titles
