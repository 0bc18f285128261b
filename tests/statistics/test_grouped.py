"""Large sets of groups, counted in bins, against the same resamples counted row by row."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from lenshpc.statistics import bootstrap, scores
from lenshpc.statistics.bootstrap import draw
from lenshpc.statistics.metrics import rank_classes
from lenshpc.statistics.scores import FPR_GRID, RECALL_GRID, rotation


def sample(num_groups=1500, size=4, decimals=9, seed=0):
    """Return labels, scores that groups share in part, and groups; some hold both classes."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), size)
    labels = (group % 3 == 0).astype(int)
    labels[:: 7 * size] = 1 - labels[:: 7 * size]
    shared = rng.normal(size=num_groups)[group]
    values = (shared + rng.normal(size=len(group)) + 2 * labels).round(decimals)
    return labels, values, group.astype(object)


def both(monkeypatch, labels, groups, ask, num=200):
    """Return what is asked of resamples, counted row by row and in bins."""
    resamples = draw(labels, groups, num_resamples=num, seed=1)
    assert resamples.counted
    expected = ask(resamples)
    monkeypatch.setattr(bootstrap, "LARGE_ROWS", 100)
    monkeypatch.setattr(scores, "LARGE_ROWS", 100)
    return expected, ask(resamples)


@pytest.mark.parametrize("decimals", [0, 9])
def test_figures_are_those_of_the_same_resamples(decimals, monkeypatch):
    labels, values, groups = sample(decimals=decimals)
    judged = list(rank_classes(labels, values).values())
    expected, found = both(monkeypatch, labels, groups, lambda one: one.draw_rankings(judged))
    error = np.sqrt(((found - expected) ** 2).mean(axis=1))
    assert (error <= np.array([0.02, 0.05, 0.1, 0.1]) * expected.std(axis=1)).all()
    if decimals == 0:  # a bin for each score
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("decimals", [0, 9])
def test_bands_are_those_of_the_same_resamples(decimals, monkeypatch):
    labels, values, groups = sample(decimals=decimals)
    (judged,) = rank_classes(labels, values).values()
    expected, found = both(
        monkeypatch, labels, groups, lambda one: one.draw_bands(judged, FPR_GRID, RECALL_GRID)
    )
    for ours, theirs in zip(found, expected, strict=True):
        if decimals == 0:
            np.testing.assert_allclose(ours, theirs, atol=1e-12)
        error = np.sqrt(((ours - theirs) ** 2).mean(axis=0))
        assert (error <= 0.15 * theirs.std(axis=0) + 1e-12).mean() > 0.9
        assert np.abs(ours - theirs).mean() < 2e-3


def test_areas_are_those_of_scikit_learn_on_the_rows(monkeypatch):
    labels, values, groups = sample(num_groups=90, decimals=1)
    monkeypatch.setattr(bootstrap, "LARGE_ROWS", 100)
    resamples = draw(labels, groups, num_resamples=10, seed=1)
    found = resamples.draw_rankings(list(rank_classes(labels, values).values()))
    for at, counts in enumerate(resamples.counts[:, resamples.group]):
        rows = np.repeat(np.arange(len(labels)), counts)
        assert found[:2, at] == pytest.approx(
            [
                oracle.roc_auc_score(labels[rows], values[rows]),
                oracle.average_precision_score(labels[rows], values[rows]),
            ],
            abs=1e-12,
        )


def test_change_on_turned_images_has_the_interval_of_counted_rows(monkeypatch):
    labels, values, groups = sample()
    turned = values + np.random.default_rng(3).normal(0, 0.3, len(values))
    lines = [np.stack([-one, one], axis=1) for one in (values, turned)]
    expected, found = both(
        monkeypatch, labels, groups, lambda one: rotation(labels, lines[0], one, lines[1]), 2000
    )
    width = expected.change_high - expected.change_low
    assert (found.auc, found.change) == (expected.auc, expected.change)
    assert found.change_low == pytest.approx(expected.change_low, abs=0.03 * width)
    assert found.change_high == pytest.approx(expected.change_high, abs=0.03 * width)


def test_as_many_resamples_are_counted_as_memory_holds(monkeypatch):
    labels, _, groups = sample()
    monkeypatch.setattr(bootstrap, "LARGE_ROWS", 100)
    monkeypatch.setattr(bootstrap, "MAX_COUNTS", 450_000)
    assert draw(labels, groups, num_resamples=2000, seed=0).counts.shape == (300, 1500)
    assert draw(labels, groups, num_resamples=40, seed=0).counts.shape == (40, 1500)
