"""The sections of a run with lenses and variants."""

from dataclasses import replace

import numpy as np
import pytest
from lenses_run import MODELS, make_lenses_run

from lenshpc.errors import DataError
from lenshpc.report.content import Gallery, Prose
from lenshpc.report.markdown import render_markdown
from lenshpc.report.write import compose
from lenshpc.run.results import gather
from lenshpc.statistics import scores as judging

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module", autouse=True)
def _few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "NUM_RESAMPLES", 100)
        yield


def redraw(member, rows):
    """Return images of 8 × 8 pixels and sources of 5 × 5 that name their rows."""
    assert member.model == MODELS[0]
    light = np.linspace(0, 1, 64).reshape(1, 8, 8) * (1 + rows[:, None, None])
    source = np.ones((len(rows), 5, 5))
    return {"light": light, "render": 0.9 * light, "source": source}


def refuse(member, rows):
    raise DataError("the store is gone")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    run = make_lenses_run(tmp_path_factory.mktemp("report"))
    return gather(run.paths, run.plan, {}, allow_partial=False, tools={"reconstruct": redraw})


@pytest.fixture(scope="module")
def report(results):
    return compose(results)


def section(report, title):
    return next(one for one in report.sections if one.title == title)


def test_sections_of_lenses_and_variants_follow_those_of_the_classification(report):
    titles = [one.title for one in report.sections]
    assert titles[titles.index("Variants") : titles.index("Training")] == [
        "Variants",
        "Lens parameters",
    ]
    assert "theta_e_0" in [figure.name for figure in report.figures()]
    render_markdown(report)


def test_content_has_every_training_and_the_loss_of_the_lenses(report):
    variants = report.content["variants"]
    assert [one["member"] for one in variants["members"]] == list(range(12))
    assert [one["metric"] for one in variants["differences"]] == ["auc", "accuracy"]
    lens = report.content["lens_parameters"]
    assert list(lens["physics_loss"]) == [MODELS[0]]
    assert 0.3 < lens["physics_loss"][MODELS[0]] < 0.7
    assert lens["agreement"] == []  # the store holds no truth


def test_tables_of_variants_have_a_line_for_each_training(report):
    differences, trainings, accuracies = section(report, "Variants").blocks[:3]
    assert [row.cells[0] for row in differences.rows] == [f"{MODELS[0]} − {MODELS[1]}"] * 2
    assert [row.cells[:2] for row in trainings.rows] == [
        (str(fold), str(seed)) for fold in (0, 1) for seed in range(3)
    ]
    assert [column.title for column in trainings.columns] == ["Fold", "Seed", *MODELS]
    scores = {one["member"]: one for one in report.content["variants"]["members"]}
    first = [scores[0], scores[6]]  # of either model
    for table, metric in ((trainings, "auc"), (accuracies, "accuracy")):
        assert table.rows[0].cells[2:] == tuple(f"{one[metric]:.4f}" for one in first)


def test_gallery_has_image_redrawn_residual_and_source_of_test_rows_of_each_class(report, results):
    gallery = next(
        one for one in section(report, "Lens parameters").blocks if isinstance(one, Gallery)
    )
    captions = [tuple(picture.caption for picture in panel) for panel in gallery.panels]
    further = ("redrawn", "residual", "source")
    assert captions == [("nonlens", *further)] * 3 + [("lens", *further)] * 3
    testing = set(results.splits.loc[results.splits["split"] == "test", "id"])
    assert {panel[0].text.split(" (")[0] for panel in gallery.panels} <= testing


def test_pictures_that_cannot_be_made_are_a_sentence(results):
    report = compose(replace(results, tools={"reconstruct": refuse}))
    said = [
        block.text
        for block in section(report, "Lens parameters").blocks
        if isinstance(block, Prose)
    ]
    assert said == ["No pictures of sources: the store is gone."]


def test_truth_that_the_store_holds_is_compared_and_drawn(tmp_path):
    run = make_lenses_run(tmp_path, {"theta_e_arcsec": 1 + np.arange(150) / 1000})
    report = compose(gather(run.paths, run.plan, {}, allow_partial=False))
    agreement = report.content["lens_parameters"]["agreement"]
    assert [one["part"] for one in agreement] == [
        "test",
        "test, nonlens",
        "test, lens",
        "out-of-fold",
    ]
    assert agreement[0]["mae"] < 0.03
    assert "theta_e_truth_0" in [figure.name for figure in report.figures()]
    kinds = [block.kind for block in section(report, "Lens parameters").blocks]
    assert kinds == ["table", "prose", "figure", "figure"]
