"""The distance to the training rows: scikit-learn's neighbours, in units of the rows' own."""

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from lenshpc.statistics.novelty import Reference, select_reference


def test_distance_is_that_of_the_tenth_neighbour_in_units_of_the_rows_own():
    rng = np.random.default_rng(0)
    rows, fresh = rng.normal(size=(300, 8)), rng.normal(size=(40, 8)) + 0.5
    unit = normalize(rows)
    neighbours = NearestNeighbors(n_neighbors=11).fit(unit)
    own = neighbours.kneighbors(unit)[0][:, 10]  # the first is the row itself
    expected = neighbours.kneighbors(normalize(fresh))[0][:, 9] / np.quantile(own, 0.99)
    np.testing.assert_allclose(Reference(rows).distance(fresh), expected, rtol=1e-4)


def test_one_in_a_hundred_of_alike_rows_lies_beyond_one():
    rng = np.random.default_rng(1)
    reference = Reference(rng.normal(size=(1000, 4)))
    fresh = reference.distance(rng.normal(size=(20_000, 4)))
    assert 0.004 < (fresh > 1).mean() < 0.025


def test_nearest_rows_come_nearest_first():
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    places, distances = Reference(rows).nearest(np.array([[2.0, 0.0]]), 3)
    assert places.tolist() == [[0, 2, 1]]
    np.testing.assert_allclose(distances, [[0, np.sqrt(2 - np.sqrt(2)), np.sqrt(2)]], atol=1e-6)


def test_identical_rows_have_a_distance_and_no_division_by_zero():
    found = Reference(np.ones((5, 3))).distance(np.array([[1.0, 1.0, 1.0], [-1.0, 0.0, 0.0]]))
    assert np.isfinite(found).all()
    assert found[1] > 1


def test_reference_is_spread_over_the_rows():
    assert select_reference(3).tolist() == [0, 1, 2]
    places = select_reference(5000)
    assert (len(places), places[0], places[-1]) == (1000, 0, 4999)
    assert len(set(places.tolist())) == 1000
