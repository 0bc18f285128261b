"""Distances between sets, beside torch-fidelity, scipy and closed forms."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from lenshpc.models.importing import declare_missing_torchvision_ops
from lenshpc.statistics.frechet import (
    frechet,
    halvings,
    kid,
    over_halves,
    polynomial_mmd,
    wasserstein,
)

declare_missing_torchvision_ops()
from torch_fidelity.metric_fid import (  # noqa: E402
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_kid import kernel_mmd  # noqa: E402


@pytest.fixture
def sets():
    """Return two sets of correlated features of different mean and spread."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(12, 12))
    return rng.normal(size=(300, 12)), 0.3 + rng.normal(size=(300, 12)) @ mixing / 3


def test_frechet_distance_is_that_of_torch_fidelity(sets):
    moments = (fid_features_to_statistics(torch.from_numpy(one)) for one in sets)
    expected = fid_statistics_to_metric(*moments, verbose=False)[KEY_METRIC_FID]
    assert frechet(*sets) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_shifted_and_scaled_sets_is_the_closed_form(sets):
    one, _ = sets
    variance = np.cov(one, rowvar=False).trace()
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, one + 0.5) == pytest.approx(12 * 0.25)
    scaled = one.mean(axis=0) + 3 * (one - one.mean(axis=0))
    assert frechet(one, scaled) == pytest.approx((3 - 1) ** 2 * variance)


def test_frechet_distance_of_fewer_rows_than_features_is_finite(sets):
    assert 0 < frechet(sets[0][:5], sets[1][:5]) < 1000


def test_kernel_distance_is_that_of_torch_fidelity(sets):
    expected = kernel_mmd(*sets)
    assert polynomial_mmd(*sets) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_of_one_distribution_is_zero_within_its_spread():
    rng = np.random.default_rng(1)
    found = kid(*rng.normal(size=(2, 400, 8)))
    assert abs(found.mean) < found.std
    assert found.std > 0


def test_wasserstein_distance_is_the_mean_of_scipys(sets):
    columns = [one.T for one in sets]
    expected = np.mean([wasserstein_distance(*each) for each in zip(*columns, strict=True)])
    assert wasserstein(*sets) == pytest.approx(expected)


def test_halves_are_disjoint_and_equal():
    for first, second in halvings(11):
        assert len(first) == len(second) == 5
        assert len({*first, *second}) == 10


def test_floor_has_no_row_on_both_sides(sets):
    one, other = sets
    floor = over_halves(frechet, one, one)
    assert 0 < floor.mean < over_halves(frechet, other, one).mean
    assert floor.std > 0


def test_kernel_distance_of_a_few_rows_is_not_known():
    found = kid(np.zeros((3, 2)), np.ones((3, 2)))
    assert np.isnan([found.mean, found.std]).all()
