import numpy as np
import pytest
from sklearn import metrics as oracle

from lenshpc.statistics import bootstrap


def scores_of(labels, seed=0, decimals=1):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=len(labels)) + labels).round(decimals)


def drawn(labels, scores, resamples):
    ranking = bootstrap.rank(labels == 1, scores)
    return bootstrap.points(ranking, resamples.counts, resamples.group)


def weights_of(resamples):
    return resamples.counts[:, resamples.group].astype(float)


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_areas_of_resamples_agree_with_scikit_learn(decimals):
    labels = np.arange(150) % 3 // 2
    scores = scores_of(labels, decimals=decimals)
    resamples = bootstrap.draw(labels, None, num_resamples=20, seed=1)
    found = drawn(labels, scores, resamples)
    for at, weights in enumerate(weights_of(resamples)):
        expected = oracle.roc_auc_score(labels, scores, sample_weight=weights)
        assert found.auc()[at] == pytest.approx(expected, abs=1e-12)
        expected = oracle.average_precision_score(labels, scores, sample_weight=weights)
        assert found.pr_auc()[at] == pytest.approx(expected, abs=1e-12)


def test_curves_of_resamples_are_those_of_the_repeated_rows():
    labels = np.arange(150) % 3 // 2
    scores = scores_of(labels)
    resamples = bootstrap.draw(labels, None, num_resamples=5, seed=1)
    found = drawn(labels, scores, resamples)
    grid = np.array([0.05, 0.3, 0.77, 1.0])
    rates, precisions = bootstrap.roc_at(found, grid), bootstrap.precision_at(found, grid)
    for at, weights in enumerate(weights_of(resamples)):
        rows = np.repeat(np.arange(150), weights.astype(int))
        false, true, _ = oracle.roc_curve(labels[rows], scores[rows], drop_intermediate=False)
        expected = [true[false <= rate + 1e-9].max() for rate in grid]
        np.testing.assert_allclose(rates[at], expected)
        few = true[false * 100 <= 9].max()
        assert found.recall_before(np.full(5, 9.0))[at] == pytest.approx(few)
        precision, recall, _ = oracle.precision_recall_curve(labels[rows], scores[rows])
        expected = [precision[recall >= wanted - 1e-9][-1] for wanted in grid]
        np.testing.assert_allclose(precisions[at], expected)


@pytest.mark.parametrize("num_classes", [2, 3, 70])
def test_resamples_keep_each_class(num_classes):
    labels = np.random.default_rng(0).integers(num_classes, size=30 * num_classes)
    weights = weights_of(bootstrap.draw(labels, None, num_resamples=50, seed=0))
    assert weights.shape == (50, 30 * num_classes)
    for label in range(num_classes):
        np.testing.assert_array_equal(weights[:, labels == label].sum(axis=1), sum(labels == label))


def test_resamples_keep_groups_whole():
    labels = np.repeat([0, 1], 30)
    groups = np.array([f"g{at // 3}" for at in range(60)], dtype=object)
    weights = weights_of(bootstrap.draw(labels, groups, num_resamples=50, seed=0))
    by_group = weights.reshape(50, 20, 3)
    np.testing.assert_array_equal(by_group.min(axis=2), by_group.max(axis=2))
    np.testing.assert_array_equal(weights[:, :30].sum(axis=1), 30)


def test_groups_of_equal_rows_widen_the_interval_by_the_root_of_their_size():
    labels = np.repeat([0, 1], 200)
    scores = scores_of(labels, decimals=9)
    fourfold, groups = np.tile(scores, 4), np.tile(np.arange(400), 4).astype(object)
    many = np.tile(labels, 4)
    widths = []
    for known in (groups, None):
        resamples = bootstrap.draw(many, known, num_resamples=2000, seed=0)
        widths.append(np.ptp(bootstrap.interval(drawn(many, fourfold, resamples).auc())))
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.1)


def test_resamples_do_not_depend_on_the_chunk(monkeypatch):
    labels = np.arange(99) % 2
    whole = bootstrap.draw(labels, None, num_resamples=7, seed=0)
    monkeypatch.setattr(bootstrap, "CHUNK_VALUES", 1)
    np.testing.assert_array_equal(
        bootstrap.draw(labels, None, num_resamples=7, seed=0).counts, whole.counts
    )


def test_interval_has_the_width_of_delong():
    """The standard error of the AUC in closed form: DeLong's placement values."""
    labels = np.repeat([0, 1], [400, 300])
    scores = scores_of(labels, seed=3, decimals=9)
    wins = scores[labels == 1][:, None] > scores[labels == 0][None, :]
    variance = wins.mean(axis=1).var(ddof=1) / 300 + wins.mean(axis=0).var(ddof=1) / 400
    resamples = bootstrap.draw(labels, None, num_resamples=2000, seed=0)
    low, high = bootstrap.interval(drawn(labels, scores, resamples).auc())
    assert (high - low) / (2 * 1.96) == pytest.approx(np.sqrt(variance), rel=0.08)
    assert low < wins.mean() < high


def test_sums_of_resamples_are_those_of_the_repeated_rows():
    labels = np.arange(50) % 2
    values = np.random.default_rng(0).normal(size=(50, 3))
    resamples = bootstrap.draw(labels, labels.astype(object), num_resamples=9, seed=0)
    expected = weights_of(resamples) @ values
    np.testing.assert_allclose(resamples.sum_values(values), expected)


def test_interval_of_undefined_draws_is_nan():
    assert np.isnan(bootstrap.interval(np.full(5, np.nan))).all()
