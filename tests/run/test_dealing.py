"""Groups are dealt whole to parts of equal size and equal shares of each class."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from lenshpc.run.dealing import deal_groups, number_kinds


def spread(labels, parts):
    """Return by how much the parts differ: the largest deviation of a class's share in them."""
    table = np.array([np.bincount(labels[parts == part], minlength=3) for part in np.unique(parts)])
    return np.abs(table / table.sum(axis=0) * len(table) - 1).max()


def table_of(labels, groups):
    table = np.zeros((groups.max() + 1, labels.max() + 1), np.int64)
    np.add.at(table, (groups, labels), 1)
    return table


def test_kinds_are_those_of_equal_rows():
    table = np.random.default_rng(0).integers(0, 3, (200, 4))
    kinds = number_kinds(table)
    expected = np.unique(table, axis=0, return_inverse=True)[1]
    assert sorted(set(kinds)) == list(range(len(set(expected))))
    assert len(set(zip(kinds, expected, strict=True))) == len(set(expected))


@pytest.mark.parametrize("size", [1, 5, 40], ids=lambda size: f"up to {size} rows")
@pytest.mark.parametrize("parts", [2, 5, 10])
def test_parts_are_as_even_as_those_of_scikit_learn(parts, size):
    random = np.random.default_rng(size)
    groups = np.repeat(np.arange(600), random.integers(1, size + 1, 600))
    # Half of a group's rows are of one class, which is a rare one for few.
    common = random.choice(3, 600, p=[0.8, 0.15, 0.05])[groups]
    mixed = random.random(len(groups)) < 0.5
    labels = np.where(mixed, random.choice(3, len(groups), p=[0.8, 0.15, 0.05]), common)
    ours = deal_groups(table_of(labels, groups), parts, seed=3)[groups]
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=3)
    theirs = np.empty(len(groups), int)
    for part, (_, mine) in enumerate(splitter.split(labels, labels, groups)):
        theirs[mine] = part
    assert spread(labels, ours) <= 1.5 * spread(labels, theirs) + 0.02


def test_groups_that_are_alike_are_dealt_out_evenly_at_random():
    table = np.repeat([[3, 0], [0, 1], [1, 1]], [20, 50, 35], axis=0)
    dealt = [deal_groups(table, 5, seed=seed) for seed in range(300)]
    for kind, start in (((3, 0), 0), ((0, 1), 20), ((1, 1), 70)):
        mine = (table == kind).all(axis=1)
        assert mine[start]
        assert np.bincount(dealt[0][mine]).tolist() == [mine.sum() // 5] * 5
    # Each group is in each part 60 times of 300, with a deviation of 7.
    often = np.array([np.bincount(column, minlength=5) for column in np.transpose(dealt)])
    assert np.abs(often - 60).max() < 5 * 7
    assert deal_groups(table, 5, seed=7).tolist() == dealt[7].tolist()
