"""Folds are stratified, keep groups whole and depend on nothing but the seed."""

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedKFold

from lenshpc.errors import ConfigError
from lenshpc.run.splits import assign_folds, training_rows


def alone(num_rows):
    """Return groups of one row each."""
    return np.arange(num_rows)


def counts(labels, folds):
    """Return fold → rows of each class."""
    return {int(k): np.bincount(labels[folds == k]).tolist() for k in np.unique(folds)}


LABELS = np.array([0] * 60 + [1] * 30 + [2] * 10)


def test_folds_have_equal_shares_of_each_class():
    folds = assign_folds(LABELS, alone(100), 5, seed=3)
    assert counts(LABELS, folds) == {k: [12, 6, 2] for k in range(5)}


@pytest.mark.parametrize("num_folds", [2, 3, 7])
def test_folds_differ_by_one_row_at_most_in_all_and_in_each_class(num_folds):
    labels = np.random.default_rng(2).choice(3, size=211, p=[0.7, 0.2, 0.1])
    ours = assign_folds(labels, alone(211), num_folds, seed=5)
    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=5)
    theirs = np.empty(211, dtype=int)
    for fold, (_, validating) in enumerate(splitter.split(labels, labels)):
        theirs[validating] = fold
    for folds in (ours, theirs):
        table = np.array(list(counts(labels, folds).values()))
        assert table.sum() == 211
        assert np.ptp(table, axis=0).max() <= 1
        assert np.ptp(table.sum(axis=1)) <= 1


def test_folds_are_drawn_row_by_row():
    folds = [assign_folds(LABELS, alone(100), 5, seed=seed) for seed in range(400)]
    # each row is in each fold 80 times of 400, with a deviation of 8
    often = np.array([np.bincount(column, minlength=5) for column in np.transpose(folds)])
    assert np.abs(often - 80).max() < 5 * 8
    assert abs(often.std() - 8) < 1


def test_groups_are_never_cut():
    labels = np.repeat(np.arange(60) % 2, 4)  # 60 groups of 4 rows
    groups = np.repeat(np.arange(60), 4)
    shuffled = np.random.default_rng(1).permutation(240)
    folds = assign_folds(labels[shuffled], groups[shuffled], 3, seed=0)
    held = {group: set(folds[groups[shuffled] == group]) for group in groups}
    assert {len(folds) for folds in held.values()} == {1}
    assert counts(labels[shuffled], folds) == {k: [40, 40] for k in range(3)}


@pytest.mark.parametrize("group_size", [1, 2])
def test_equal_seeds_give_equal_folds_and_others_do_not(group_size):
    groups = np.repeat(alone(100 // group_size), group_size)
    folds = [assign_folds(LABELS, groups, 5, seed=seed) for seed in (3, 3, 4)]
    assert folds[0].tolist() == folds[1].tolist()
    assert folds[0].tolist() != folds[2].tolist()


def test_one_fold_holds_out_a_tenth_of_each_class():
    folds = assign_folds(LABELS, alone(100), 1, seed=0)
    assert counts(LABELS, folds) == {-1: [54, 27, 9], 0: [6, 3, 1]}


def test_too_few_rows_of_a_class_are_refused():
    labels = np.array([0] * 20 + [1] * 3)
    with pytest.raises(ConfigError) as caught:
        assign_folds(labels, alone(23), 4, seed=0)
    assert str(caught.value) == (
        "class 1 has 3 independent training rows, too few for 4 parts; "
        "ask for fewer folds or add data"
    )


def test_rows_of_one_group_count_once():
    labels = np.array([0] * 20 + [1] * 8)
    groups = np.concatenate([alone(20), np.repeat([20, 21], 4)])
    with pytest.raises(ConfigError, match="class 1 has 2 independent training rows"):
        assign_folds(labels, groups, 3, seed=0)


def manifest(num=200):
    labels = np.arange(num) % 10 // 7  # 7 of 10 rows are of class 0
    frame = pd.DataFrame({"row": np.arange(num), "label": labels, "split": "dev"})
    frame["fold"] = assign_folds(labels, alone(num), 5, seed=0)
    frame.loc[num - 20 :, ["split", "fold"]] = ["test", -1]
    return frame


def test_whole_training_rows_are_those_of_the_other_folds():
    splits = manifest()
    expected = splits[(splits["split"] == "dev") & (splits["fold"] != 2)]
    pd.testing.assert_frame_equal(training_rows(splits, 2), expected)


def test_parts_of_the_training_rows_are_nested_and_keep_the_classes():
    splits = manifest()
    whole = training_rows(splits, 2)
    parts = [training_rows(splits, 2, fraction, seed=1) for fraction in (0.01, 0.1, 0.5)]
    for less, more in itertools.pairwise([*parts, whole]):
        assert set(less["row"]) < set(more["row"])
    for part, fraction in zip(parts, (0.01, 0.1, 0.5), strict=True):
        expected = np.ceil(fraction * np.bincount(whole["label"]))
        assert np.bincount(part["label"]).tolist() == expected.tolist()
    again, other = (training_rows(splits, 2, 0.1, seed=seed) for seed in (1, 2))
    assert again["row"].tolist() == parts[1]["row"].tolist()
    assert other["row"].tolist() != parts[1]["row"].tolist()
