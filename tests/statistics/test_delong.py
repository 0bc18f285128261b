from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm

from lenshpc.statistics.bootstrap import draw
from lenshpc.statistics.delong import compare, covariance, holm


def correlated(num_rows=120, num_models=3, decimals=1, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(num_rows) % 3 == 0).astype(int)
    shared = rng.normal(size=num_rows) + labels
    models = [(shared + 0.8 * rng.normal(size=num_rows)).round(decimals) for _ in range(num_models)]
    return labels, models


def literal_covariance(labels, models):
    """DeLong et al. 1988, equations 3 to 6, pair by pair."""
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    v10 = np.zeros((len(models), len(positives)))
    v01 = np.zeros((len(models), len(negatives)))
    for at, scores in enumerate(models):
        for i, positive in enumerate(positives):
            for j, negative in enumerate(negatives):
                x, y = scores[positive], scores[negative]
                psi = 1.0 if x > y else 0.5 if x == y else 0.0
                v10[at, i] += psi / len(negatives)
                v01[at, j] += psi / len(positives)
    return np.cov(v10) / len(positives) + np.cov(v01) / len(negatives)


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_covariance_agrees_with_the_literal_formula(decimals):
    labels, models = correlated(decimals=decimals)
    np.testing.assert_allclose(
        covariance(labels, models), literal_covariance(labels, models), atol=1e-15
    )


def test_covariance_by_hand():
    """Positives 2, 4, 5 and negatives 1, 3: placements 1/2, 1, 1 and 1, 2/3."""
    found = covariance(np.array([0, 1, 0, 1, 1]), [np.array([1.0, 2, 3, 4, 5])] * 2)
    np.testing.assert_allclose(found, np.full((2, 2), (1 / 12) / 3 + (1 / 18) / 2))


def test_variance_of_groups_of_equal_rows_is_that_of_the_groups():
    labels, models = correlated()
    groups = np.tile(np.arange(len(labels)), 3).astype(object)
    many = [np.tile(scores, 3) for scores in models]
    found = covariance(np.tile(labels, 3), many, groups)
    np.testing.assert_allclose(found, covariance(labels, models), atol=1e-15)


def test_variance_of_a_mean_over_classes_agrees_with_repeated_draws():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3

    def sample():
        raw = np.exp(rng.normal(size=(300, 3)) + np.eye(3)[labels])
        return raw / raw.sum(axis=1, keepdims=True)

    from lenshpc.statistics.metrics import roc_auc

    scatter = np.var([roc_auc(labels, sample()) for _ in range(400)], ddof=1)
    predicted = np.mean([covariance(labels, [sample()] * 2)[0, 0] for _ in range(20)])
    assert predicted == pytest.approx(scatter, rel=0.2)


def test_holm_agrees_with_the_definition():
    """Holm 1979: the ordered p-values 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, made to rise."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_comparisons_are_paired_tests_of_all_pairs():
    labels, scores = correlated()
    models = {
        name: np.stack([-values, values], axis=1)
        for name, values in zip("abc", scores, strict=True)
    }
    resamples = draw(labels, None, num_resamples=2000, seed=0)
    found = compare(labels, models, resamples)
    assert [(one.first, one.second) for one in found] == list(combinations("abc", 2))
    shared = literal_covariance(labels, scores)
    wins = [
        [
            (s[i] > s[j]) + (s[i] == s[j]) / 2
            for i in np.flatnonzero(labels)
            for j in np.flatnonzero(1 - labels)
        ]
        for s in scores
    ]
    for one, (a, b) in zip(found, combinations(range(3), 2), strict=True):
        std = np.sqrt(shared[a, a] + shared[b, b] - 2 * shared[a, b])
        difference = np.mean(wins[a]) - np.mean(wins[b])
        assert (one.difference, one.std) == pytest.approx((difference, std))
        assert one.p_value == pytest.approx(2 * norm.sf(abs(difference) / std))
        assert (one.high - one.low) / (2 * 1.96) == pytest.approx(std, rel=0.15)
    assert [one.p_holm for one in found] == holm([one.p_value for one in found])


def test_equal_models_do_not_differ():
    labels, (scores, *_) = correlated()
    values = np.stack([-scores, scores], axis=1)
    resamples = draw(labels, None, num_resamples=50, seed=0)
    (found,) = compare(labels, {"a": values, "b": 2 * values}, resamples)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_one_model_has_nothing_to_be_compared_with():
    labels, (scores, *_) = correlated()
    resamples = draw(labels, None, num_resamples=5, seed=0)
    assert compare(labels, {"a": np.stack([-scores, scores], axis=1)}, resamples) == ()
