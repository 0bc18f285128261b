from dataclasses import replace

import numpy as np
import pytest

from lenshpc.run.values import pack, unpack
from lenshpc.statistics import bootstrap, ensembles, radial, scores
from lenshpc.statistics.ensembles import SELECTION_NOTE
from lenshpc.statistics.results import ClassificationScores
from lenshpc.tasks.supervised import judge
from lenshpc.tasks.supervised.judge import score_models
from lenshpc.tasks.supervised.merge import merge


@pytest.fixture
def merged(run):
    return merge(run.paths, run.plan, run.splits)


def test_lines_stand_in_the_order_of_models_ensembles_baselines(merged):
    baseline = {"baseline": merged.probabilities["resnet18"]}
    found = score_models(merged, baseline, test_prior=0.1)
    assert [(one.name, one.kind) for one in found.evaluations] == [
        ("resnet18", "model"),
        ("resnet34", "model"),
        ("ensemble", "ensemble"),
        ("ensemble (logit mean)", "combination"),
        ("ensemble (rank mean)", "combination"),
        ("ensemble (oof weighted)", "combination"),
        ("ensemble (greedy)", "combination"),
        ("ensemble (stacking)", "combination"),
        ("baseline", "baseline"),
    ]
    assert [(one.first, one.second) for one in found.comparisons] == [
        ("resnet18", "resnet34"),
        ("resnet18", "ensemble"),
        ("resnet34", "ensemble"),
    ]
    assert (found.headline, found.test_prior) == ("ensemble", 0.1)
    assert found.oof_prior == pytest.approx(0.5, abs=0.02)
    assert len(found.notes) == 1


def test_no_decision_moves_with_test_labels(merged):
    expected = score_models(merged, {}, test_prior=0.1)
    rows = merged.rows.copy()
    testing = rows["split"] == "test"
    shuffled = np.random.default_rng(0).permutation(rows.loc[testing, "label"])
    rows.loc[testing, "label"] = shuffled
    found = score_models(replace(merged, rows=rows), {}, test_prior=0.1)
    for one, other in zip(found.evaluations, expected.evaluations, strict=True):
        assert one.threshold == other.threshold
        assert one.corrected.threshold == other.corrected.threshold
        assert one.oof == other.oof
    assert found.weights == expected.weights
    assert found.oof_prior == expected.oof_prior
    assert found.evaluations[0].test.auc != expected.evaluations[0].test.auc


def test_large_sets_have_the_same_figures_and_notes_that_say_how_intervals_were_made(
    merged, monkeypatch
):
    baseline = {"baseline": merged.probabilities["resnet18"]}
    alone = replace(merged, rows=merged.rows.drop(columns="group"))
    small = score_models(alone, baseline)
    for module in (bootstrap, scores):
        monkeypatch.setattr(module, "LARGE_ROWS", 10)
    monkeypatch.setattr(judge, "FIT_ROWS", 10)
    monkeypatch.setattr(radial, "MAX_IMAGES", 10)
    large = score_models(alone, baseline)
    samples = (ensembles.SAMPLE_NOTE, radial.SAMPLE_NOTE)
    assert large.notes == (SELECTION_NOTE, *samples, bootstrap.LARGE_NOTE)
    bounds = {"intervals": {}, "auc_low": 0, "auc_high": 0}
    for one, other in zip(small.evaluations, large.evaluations, strict=True):
        assert replace(one.test, **bounds) == replace(other.test, **bounds)
        assert one.test.intervals.keys() == other.test.intervals.keys()
    assert score_models(merged, {}).notes[-1] == bootstrap.GROUPED_NOTE


def test_scores_that_are_kept_come_back_as_they_were(merged):
    found = score_models(merged, {"baseline": merged.probabilities["resnet18"]}, test_prior=0.1)
    kept, again = pack(found), pack(unpack(ClassificationScores, pack(found)))
    assert list(again) == list(kept)
    for name, values in kept.items():
        np.testing.assert_array_equal(again[name], values)
