"""Synthetic rows are imbalanced-learn's, of training rows alone, and never in the store."""

import numpy as np
import pytest
from imblearn.over_sampling import SMOTE
from sklearn.decomposition import PCA

from lenshpc.data.smote import NUM_COMPONENTS, synthesise
from lenshpc.tasks.supervised.settings import Smote

NUM_ROWS, SIDE = 900, 12
IMAGES = np.random.default_rng(0).normal(size=(NUM_ROWS, 1, SIDE, SIDE)).astype(np.float32)
LABELS = (np.arange(NUM_ROWS) % 9 == 0).astype(np.int64)
ROWS = np.random.default_rng(1).permutation(NUM_ROWS)[:600]


def made(rows=ROWS, seed=3, labels=LABELS, **settings):
    return synthesise(
        rows,
        labels[rows],
        lambda some: IMAGES[some],
        Smote(**settings),
        num_rows=NUM_ROWS,
        seed=seed,
    )


def test_synthetic_rows_are_those_of_imbalanced_learn():
    pairs, labels = made()
    rare = np.sort(np.flatnonzero(LABELS[ROWS] == 1))
    flat = IMAGES[ROWS[rare]].reshape(len(rare), -1)
    points = PCA(min(NUM_COMPONENTS, *flat.shape), svd_solver="randomized", random_state=3)
    points = points.fit_transform(flat)
    common = len(ROWS) - len(rare)
    everything = np.vstack([points, np.zeros((common, points.shape[1]))])
    theirs, their_labels = SMOTE(k_neighbors=5, random_state=3).fit_resample(
        everything, np.repeat([1, 0], [len(rare), common])
    )
    place = np.full(NUM_ROWS, -1)
    place[ROWS[rare]] = np.arange(len(rare))
    first, second = points[place[pairs.firsts]], points[place[pairs.seconds]]
    mixed = first + pairs.weights[:, None] * (second - first)
    np.testing.assert_allclose(mixed, theirs[len(ROWS) :], atol=1e-5)
    assert np.array_equal(labels, their_labels[len(ROWS) :])
    assert len(pairs) == common - len(rare)


def test_parents_are_training_rows_of_the_rare_class():
    pairs, labels = made(ratio=0.5)
    rare = set(ROWS[LABELS[ROWS] == 1])
    assert set(labels) == {1}
    assert set(pairs.firsts) <= rare
    assert set(pairs.seconds) <= rare
    assert len(pairs) == int(0.5 * (LABELS[ROWS] == 0).sum()) - len(rare)


def test_genuine_rows_have_themselves_as_parents_and_no_mixture():
    pairs, _ = made()
    rows = np.array([5, NUM_ROWS, 7, NUM_ROWS + 2])
    assert pairs.first(rows).tolist() == [5, pairs.firsts[0], 7, pairs.firsts[2]]
    assert pairs.second(rows).tolist() == [5, pairs.seconds[0], 7, pairs.seconds[2]]
    assert pairs.mix(rows).tolist() == [0, pairs.weights[0], 0, pairs.weights[2]]


def test_rows_outside_of_the_fold_change_nothing():
    before, after = made(), LABELS.copy()
    after[np.setdiff1d(np.arange(NUM_ROWS), ROWS)] = 1
    for one, other in zip(
        vars(before[0]).values(), vars(made(labels=after)[0]).values(), strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("num", [2, 4])
def test_class_smaller_than_its_neighbourhood_uses_all_of_it(num):
    labels = np.zeros(NUM_ROWS, np.int64)
    labels[ROWS[:num]] = 1
    pairs, _ = made(labels=labels)
    assert set(pairs.firsts) | set(pairs.seconds) == set(ROWS[:num])


def test_balanced_classes_get_no_synthetic_rows():
    pairs, labels = made(labels=np.arange(NUM_ROWS) % 2, ratio=0.9)
    assert (len(pairs), len(labels)) == (0, 0)
