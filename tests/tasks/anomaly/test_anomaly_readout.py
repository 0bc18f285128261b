"""What models of the normal class say of new images, on planted scores and of trained members."""

from dataclasses import replace

import numpy as np
import pytest
from anomaly_run import make_run, make_store
from toy_run import results_of, train

from lenshpc.errors import ConfigError
from lenshpc.inference.load import load_ensemble
from lenshpc.inference.trained import open_trained
from lenshpc.registry import Request
from lenshpc.run.plan import load_plan, load_splits
from lenshpc.run.predictions import read_predictions
from lenshpc.run.trained import make_readout
from lenshpc.tasks.anomaly.judge import evaluate
from lenshpc.tasks.anomaly.merge import SCORES, merge_scores
from lenshpc.tasks.anomaly.readout import ScoreReadout


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("strange"))


@pytest.fixture(scope="module")
def readout(strange):
    return make_readout(open_trained(strange.paths.root), Request())


def outputs_of(run):
    """Return what each member said of the test rows."""
    frames = [read_predictions(run.paths, run.plan, run.splits, one) for one in run.plan.members]
    testing = [frame[frame["split"] == "test"] for frame in frames]
    return [{name: frame[name].to_numpy() for name in SCORES} for frame in testing]


def test_scores_and_decisions_of_test_rows_are_those_of_the_report(strange, readout):
    table = readout.table(outputs_of(strange))
    judged = evaluate(results_of(strange))
    merged, line = judged.merged, next(one for one in judged.lines if one.name == "ensemble")
    asked = merged.part("test")
    np.testing.assert_allclose(table["score"], merged.values["ensemble"][asked], atol=1e-9)
    strange_ones = table["decision"] == "anomalous"
    assert readout.settings()["threshold"] == line.threshold
    assert strange_ones[merged.anomalous[asked]].mean() == line.parts["test"].recall
    assert strange_ones[~merged.anomalous[asked]].mean() == line.parts["test"].false_positives


def test_table_has_score_spread_decision_and_the_mean_of_each_score(readout):
    # Members in the order of two models with two folds; each is scaled by its own normal rows.
    readout._scales = [(1.0, 1.0), (2.0, 2.0), (0.0, 4.0), (1.0, 0.5)]
    readout._threshold = 2.0
    rel_mse = np.array([[1, 4], [2, 8], [0, 16], [1, 2.5]], np.float32)
    outputs = [{"rel_mse": line, "mse": 2 * line, "ssim_error": line / 100} for line in rel_mse]
    found = readout.table(outputs)
    assert {name: column.tolist() for name, column in found.items()} == {
        "score": [0, 3.25],  # of 3, 3, 4 and 3
        "spread": [0, pytest.approx(np.std([3, 3, 4, 3]))],
        "decision": ["class0", "anomalous"],
        "rel_mse": [1, 7.625],
        "mse": [2, 15.25],
        "ssim_error": pytest.approx([0.01, 0.07625]),
    }
    np.testing.assert_array_equal(readout.answer(outputs), found["score"])


def test_one_of_two_models_has_the_score_of_its_own_line(strange):
    plan = strange.plan
    trained = open_trained(strange.paths.root, ["wae"])
    assert [one.model for one in trained.spec.members] == ["wae", "wae"]
    merged = merge_scores(strange.paths, plan, strange.splits)
    found = make_readout(trained, Request()).answer(outputs_of(strange)[2:])
    expected = merged.values["wae rel_mse"][merged.part("test")]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_nothing_that_is_fitted_moves_with_test_rows(tmp_path):
    run = make_run(tmp_path)
    before = ScoreReadout.fit(results_of(run))
    splits = run.splits.copy()
    testing = splits["split"] == "test"
    splits.loc[testing, "label"] = 1 - splits.loc[testing, "label"]
    rng = np.random.default_rng(0)
    for member in run.plan.members:
        frame = run.predictions(member.index)
        other = (frame["split"] != "oof").to_numpy()
        frame.loc[other, list(SCORES)] = rng.normal(size=(other.sum(), 3)).astype(np.float32)
        run.finish(member.index, frame)
    assert ScoreReadout.fit(replace(results_of(run), splits=splits)) == before


def test_prior_of_classes_is_refused(strange):
    with pytest.raises(ConfigError) as caught:
        make_readout(open_trained(strange.paths.root), Request(prior=0.1, rank_by="class1"))
    name = strange.paths.name
    assert str(caught.value) == (
        f"--prior 0.1 and --rank-by class1: {name} does not distinguish classes; leave it out"
    )


@pytest.mark.slow
def test_trained_members_say_of_the_test_rows_what_the_report_has(tmp_path):
    store = make_store(tmp_path)
    run = train(tmp_path, store, "anomaly", ("conv_ae", "wae"), data={"crop": 24})
    merged = merge_scores(run, load_plan(run), load_splits(run, load_plan(run)))
    test = merged.part("test")
    found = load_ensemble(run.root, device="cpu").predict(
        store.read_raw(merged.rows.loc[test, "row"].to_numpy())
    )
    np.testing.assert_allclose(found, merged.values["ensemble"][test], atol=1e-6)
