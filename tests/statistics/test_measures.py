"""Measures by which lines are compared, against scipy, sklearn and each other."""

import numpy as np
import pytest
from scipy.stats import norm, ttest_rel
from sklearn.metrics import roc_auc_score

from lenshpc.statistics.bootstrap import draw
from lenshpc.statistics.delong import compare, measure_lines
from lenshpc.statistics.measures import AUC, MANY_ROWS, MeanMeasure
from lenshpc.statistics.scores import draw_aucs

PSNR = MeanMeasure(name="PSNR")


def test_difference_of_means_is_that_of_the_paired_test_of_scipy():
    rng = np.random.default_rng(0)
    base = rng.normal(30, 4, 200)
    lines = {"one": base + rng.normal(0.2, 1, 200), "other": base}
    labels = np.zeros(200, int)
    resamples = draw(labels, None, num_resamples=2000, seed=0)
    (found,) = measure_lines(labels, lines, resamples, measure=PSNR).compare([("one", "other")])
    expected = ttest_rel(lines["one"], lines["other"])
    assert found.difference == pytest.approx(np.mean(lines["one"] - base))
    assert found.difference / found.std == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(2 * norm.sf(abs(expected.statistic)))
    low, high = expected.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_mean_of_a_resample_is_that_of_its_rows():
    labels, values = np.zeros(4, int), np.array([1.0, 2.0, 3.0, 10.0])
    resamples = draw(labels, None, num_resamples=50, seed=0)
    counts = resamples.counts[:, resamples.group].astype(float)
    np.testing.assert_allclose(PSNR.draw(labels, [values], resamples), [counts @ values / 4])


def scored(num_rows, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(num_rows) % 2
    scores = (labels + rng.normal(0, 1.5, num_rows) for _ in range(2))
    return labels, [np.stack([-one, one], axis=1) for one in scores]


def test_aucs_of_many_rows_scatter_as_those_that_are_counted():
    labels, lines = scored(2 * MANY_ROWS)
    resamples = draw(labels, None, num_resamples=300, seed=0)
    found = AUC.draw(labels, lines, resamples)
    counted = np.stack([draw_aucs(labels, one, resamples) for one in lines])
    assert found.std(axis=1) == pytest.approx(counted.std(axis=1), rel=0.02)
    assert np.abs(found - counted).mean() < 0.02 * counted.std(axis=1).mean()
    assert found.mean(axis=1) == pytest.approx(
        [roc_auc_score(labels, one[:, 1]) for one in lines], abs=2e-3
    )


def test_aucs_of_few_rows_are_counted():
    labels, lines = scored(2 * MANY_ROWS - 2)
    resamples = draw(labels, None, num_resamples=2, seed=0)
    counted = [draw_aucs(labels, one, resamples) for one in lines]
    np.testing.assert_array_equal(AUC.draw(labels, lines, resamples), counted)


def test_lines_without_resamples_have_a_standard_error_and_no_interval():
    labels, (one, other) = scored(120)
    lines, pairs = {"one": one, "other": other}, [("one", "other")]
    resamples = draw(labels, None, num_resamples=100, seed=0)
    (found,) = measure_lines(labels, lines, None).compare(pairs)
    (whole,) = compare(labels, lines, resamples)
    assert (found.difference, found.std, found.p_value) == (
        whole.difference,
        whole.std,
        whole.p_value,
    )
    assert np.isnan([found.low, found.high]).all()


def test_rows_of_one_class_define_no_auc():
    labels, (one, other) = np.ones(9, int), np.random.default_rng(0).random((2, 9, 2))
    assert measure_lines(labels, {"one": one, "other": other}, None) is None
