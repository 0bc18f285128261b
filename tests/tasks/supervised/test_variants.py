"""Variants compared training by training, against scikit-learn and scipy."""

import numpy as np
import pytest
from lenses_run import MODELS, make_lenses_run
from scipy.stats import t, ttest_rel
from sklearn.metrics import accuracy_score, roc_auc_score

from lenshpc.tasks.supervised.variants import Trained, compare_variants, pairs_of, score_variants


@pytest.fixture(scope="module")
def lenses(tmp_path_factory):
    return make_lenses_run(tmp_path_factory.mktemp("variants"))


@pytest.fixture(scope="module")
def trained(lenses):
    return score_variants(lenses.paths, lenses.plan, lenses.splits)


def test_figures_of_each_training_are_those_of_scikit_learn_on_test_rows(lenses, trained):
    assert [one.member for one in trained] == list(lenses.plan.members)
    for one in trained[::5]:
        frame = lenses.predictions(one.member.index)
        frame = frame[frame["split"] == "test"]
        labels = lenses.splits.set_index("row").loc[frame["row"], "label"]
        score = np.exp(frame["logp_1"].astype(float))
        assert one.auc == pytest.approx(roc_auc_score(labels, score))
        assert one.accuracy == pytest.approx(accuracy_score(labels, score > 0.5))


def test_differences_are_those_of_a_paired_t_test(trained):
    found = {one.metric: one for one in compare_variants(trained)}
    assert list(found) == ["auc", "accuracy"]
    first, second = ([one.auc for one in trained if one.member.model == name] for name in MODELS)
    one, test = found["auc"], ttest_rel(first, second)
    change = np.subtract(first, second)
    reach = t.ppf(0.975, 5) * change.std(ddof=1) / np.sqrt(6)
    assert (one.first, one.second, one.num_pairs) == (*MODELS, 6)
    assert one.difference == pytest.approx(change.mean())
    assert one.p_value == pytest.approx(test.pvalue)
    assert (one.low, one.high) == pytest.approx((change.mean() - reach, change.mean() + reach))


def test_trainings_without_a_partner_are_left_out(trained):
    pairs = pairs_of(trained[1:], *MODELS)
    keys = [[(one.member.fold, one.member.seed) for one in pair] for pair in pairs]
    assert keys == [[(fold, seed)] * 2 for fold in (0, 1) for seed in range(3)][1:]


def test_one_pair_and_equal_differences_have_no_interval(trained):
    (first, *_), (second, *_) = zip(*pairs_of(trained, *MODELS), strict=True)
    alone = next(compare_variants([first, second]))
    assert alone.difference == pytest.approx(first.auc - second.auc)
    assert np.isnan([alone.low, alone.high, alone.p_value]).all()
    even = [Trained(member=one.member, auc=0.5, accuracy=0.5) for one in trained]
    assert [one.difference for one in compare_variants(even)] == [0, 0]
    assert all(np.isnan(one.p_value) for one in compare_variants(even))


def test_run_without_variants_has_nothing_to_compare(pristine_run):
    assert score_variants(pristine_run.paths, pristine_run.plan, pristine_run.splits) == ()
