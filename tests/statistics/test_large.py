"""Resamples of large sets against those that are drawn row by row, and against scikit-learn."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as oracle

from lenshpc.statistics import bootstrap, large
from lenshpc.statistics.bootstrap import draw
from lenshpc.statistics.delong import covariance, measure_lines
from lenshpc.statistics.large import Cuts, LargeResamples, ScoreBins, measure_areas
from lenshpc.statistics.measures import MeanMeasure
from lenshpc.statistics.metrics import rank_classes
from lenshpc.statistics.ranking import RankedClass, count_down
from lenshpc.statistics.scores import FPR_GRID, RECALL_GRID, rotation

NUM = 2000  # resamples
QUANTILES = np.array([0.025, 0.25, 0.5, 0.75, 0.975])


def sample(num_rows, share=0.3, decimals=9, separation=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(num_rows) < share * num_rows).astype(int)
    return labels, (rng.normal(size=num_rows) + separation * labels).round(decimals)


def both(labels, num=NUM):
    """Return resamples drawn row by row, and others that are not."""
    return draw(labels, None, num_resamples=num, seed=1), LargeResamples(labels, num, 2)


def check_alike(expected, found, *, limit=4.0):
    """Hold means, deviations and quantiles of draws (…, B) against each other.

    Each is to lie within so many of its standard errors, as of normal draws.
    """
    spread, root = expected.std(axis=-1), np.sqrt(2 / expected.shape[-1])
    np.testing.assert_array_equal(found.std(axis=-1) > 0, spread > 0)
    np.testing.assert_array_equal(found[spread == 0], expected[spread == 0])
    expected, found, spread = expected[spread > 0], found[spread > 0], spread[spread > 0]
    means = (found.mean(axis=-1) - expected.mean(axis=-1)) / (root * spread)
    assert np.abs(means).max() < limit
    widths = np.log(found.std(axis=-1) / spread) / (root / np.sqrt(2))
    assert np.abs(widths).max() < limit
    density = norm.pdf(norm.ppf(QUANTILES)) / spread[..., None]
    error = root * np.sqrt(QUANTILES * (1 - QUANTILES)) / density
    apart = np.quantile(found, QUANTILES, axis=-1) - np.quantile(expected, QUANTILES, axis=-1)
    assert (np.abs(np.moveaxis(apart, 0, -1)) / error).max() < limit


@pytest.mark.parametrize("decimals", [1, 9])
def test_figures_are_distributed_as_those_of_rows(decimals):
    labels, scores = sample(10_000, decimals=decimals)
    counted, found = both(labels)
    (judged,) = rank_classes(labels, scores).values()
    check_alike(counted.draw_rankings([judged]), found.draw_rankings([judged]))
    np.testing.assert_array_equal(found.draw_aucs([judged]), found.draw_rankings([judged])[0])


def test_bands_are_distributed_as_those_of_rows():
    labels, scores = sample(10_000)
    (judged,) = rank_classes(labels, scores).values()
    # Below and above, a point rests on few rows, and is far from normal.
    rates, recalls = FPR_GRID[(FPR_GRID > 0.005) & (FPR_GRID < 0.7)][::2], RECALL_GRID[10:95:2]
    drawn = [one.draw_bands(judged, rates, recalls) for one in both(labels)]
    for expected, found in zip(*drawn, strict=True):
        check_alike(expected.T, found.T)


@pytest.mark.parametrize("num_classes", [3, 4])
def test_means_over_classes_are_distributed_as_those_of_rows(num_classes):
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(num_classes, size=9000))
    raw = np.exp(rng.normal(size=(9000, num_classes)) + 1.2 * np.eye(num_classes)[labels])
    judged = list(rank_classes(labels, raw / raw.sum(axis=1, keepdims=True)).values())
    counted, found = both(labels)
    check_alike(counted.draw_rankings(judged), found.draw_rankings(judged))


def test_recalls_and_precisions_of_few_rows_are_those_of_scikit_learn_row_by_row():
    """Of 9 rows the distributions have few values, whose shares tell more than moments do."""
    labels, scores = np.array([1, 0, 1, 0, 1, 0, 0, 1, 0]), np.array([5, 4, 4, 3, 3, 3, 2, 1, 1.0])
    num, rates, recalls = 50_000, np.array([0.0, 0.2, 0.7]), np.array([0.25, 0.6, 1.0])
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(1000):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in (0, 1)]
        )
        false, true, _ = oracle.roc_curve(labels[rows], scores[rows], drop_intermediate=False)
        precision, recall, _ = oracle.precision_recall_curve(labels[rows], scores[rows])
        expected.append(
            [true[false <= rate + 1e-9].max() for rate in rates]
            + [precision[recall >= wanted - 1e-9][-1] for wanted in recalls]
        )
    (judged,) = rank_classes(labels, scores).values()
    found = LargeResamples(labels, num, 0).draw_bands(judged, rates, recalls)
    for ours, theirs in zip(np.concatenate(found, axis=1).T, np.transpose(expected), strict=True):
        values = np.unique(np.concatenate([ours, theirs]).round(9))
        shares = [(one.round(9)[:, None] == values).mean(axis=0) for one in (ours, theirs)]
        error = np.sqrt(np.maximum(shares[0] * (1 - shares[0]), 1e-4) / len(theirs))
        assert (np.abs(shares[0] - shares[1]) < 4 * error).all()


def resample_bins(labels, scores, resamples):
    """Return bins, and the rows of each kind that each resample has in them: two of (B, Q)."""
    judged = RankedClass(labels == 1, scores)
    cuts = Cuts(judged.true, judged.false[None])
    stops = large._choose_stops(cuts.true, cuts.all_false)
    order, weights = np.argsort(-scores, kind="stable"), resamples.counts[:, resamples.group]
    ends = (judged.true + judged.false)[stops] - 1
    down = [np.cumsum(weights[:, order] * (labels[order] == k), axis=1)[:, ends] for k in (1, 0)]
    return ScoreBins.of(cuts), *(np.diff(one, prepend=0) for one in down)


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_areas_of_counts_are_those_of_scikit_learn_on_the_rows(decimals):
    labels, scores = sample(300, decimals=decimals)
    resamples = draw(labels, None, num_resamples=20, seed=1)
    found = measure_areas(*resample_bins(labels, scores, resamples))
    for at, counts in enumerate(resamples.counts[:, resamples.group]):
        rows = np.repeat(np.arange(300), counts)
        expected = [
            oracle.roc_auc_score(labels[rows], scores[rows]),
            oracle.average_precision_score(labels[rows], scores[rows]),
        ]
        assert found[:, at] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("share", "separation"), [(0.3, 1.5), (0.01, 1.5), (0.5, 5), (0.05, 3)])
def test_bins_move_an_area_by_less_than_a_twentieth_of_its_error(share, separation):
    labels, scores = sample(20_000, share, separation=separation)
    resamples = draw(labels, None, num_resamples=60, seed=1)
    bins, true, false = resample_bins(labels, scores, resamples)
    assert len(bins.lost) < 1024 < len(np.unique(scores))
    expected = resamples.draw_rankings([RankedClass(labels == 1, scores)])[:2]
    error = measure_areas(bins, true, false) - expected
    assert (np.sqrt((error**2).mean(axis=1)) < 0.05 * expected.std(axis=1)).all()


def test_standard_error_of_an_auc_is_delongs():
    labels, scores = sample(50_000, 0.1)
    drawn = draw(labels, None, num_resamples=NUM, seed=0).draw_aucs(
        [RankedClass(labels == 1, scores)]
    )
    variance = covariance(labels, [scores, scores])[0, 0]
    assert drawn.std() == pytest.approx(np.sqrt(variance), rel=4 / np.sqrt(2 * NUM))


def test_confusion_counts_are_distributed_as_those_of_rows():
    labels, scores = sample(10_000, 0.02)
    cells = labels * 2 + (scores > 2)
    counted, found = both(labels)
    expected, drawn = (one.count_cells(cells, 4) for one in (counted, found))
    check_alike(expected.T, drawn.T)
    np.testing.assert_array_equal(drawn.sum(axis=1), 10_000)
    np.testing.assert_array_equal(drawn[:, 2:].sum(axis=1), 200)


def test_sums_of_skewed_and_related_values_are_distributed_as_those_of_rows():
    rng = np.random.default_rng(0)
    labels = np.arange(5000) % 2
    skewed = rng.exponential(size=5000) ** 4 * (1 + labels)
    values = np.stack([skewed, skewed + rng.normal(size=5000), np.ones(5000)], axis=1)
    expected, found = (one.sum_values(values).T for one in both(labels))
    check_alike(expected, found)
    assert np.corrcoef(found[:2])[0, 1] == pytest.approx(np.corrcoef(expected[:2])[0, 1], abs=0.01)


def test_wilsons_interval_is_that_of_a_recall():
    """Of a share of rows above a fixed threshold, at a size where both are nearly normal."""
    from scipy.stats import binomtest

    labels, scores = sample(50_000, 0.4)
    right = int((scores[labels == 1] > 1).sum())
    wilson = binomtest(right, 20_000).proportion_ci(method="wilson")
    drawn = draw(labels, None, num_resamples=NUM, seed=0).count_cells(labels * 2 + (scores > 1), 4)
    low, high = bootstrap.interval(drawn[:, 3] / 20_000)
    width = wilson.high - wilson.low
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=0.06 * width)


def test_rows_that_are_their_own_groups_are_no_groups():
    labels = np.arange(bootstrap.LARGE_ROWS + 1) % 2
    names = np.array([f"g{at}" for at in range(len(labels))], dtype=object)
    assert not draw(labels, names, num_resamples=2, seed=0).counted
    names[1] = names[3]
    assert draw(labels, names, num_resamples=2, seed=0).counted
    assert draw(labels[1:], None, num_resamples=2, seed=0).counted


def test_differences_of_large_sets_have_the_intervals_of_resamples():
    labels, scores = sample(8000)
    other = scores + np.random.default_rng(1).normal(size=8000)
    lines = {
        name: np.stack([-one, one], axis=1) for name, one in zip("ab", (scores, other), strict=True)
    }
    counted, found = both(labels)
    expected, closed = (measure_lines(labels, lines, one) for one in (counted, found))
    first, second = (one.compare([("a", "b")])[0] for one in (expected, closed))
    width = first.high - first.low
    assert (second.difference, second.std) == (first.difference, first.std)
    assert (second.low, second.high) == pytest.approx((first.low, first.high), abs=0.06 * width)
    assert closed.interval("a") == pytest.approx(expected.interval("a"), abs=1e-3)
    turned = [rotation(labels, lines["a"], one, lines["b"]) for one in (counted, found)]
    assert turned[1].change == turned[0].change
    assert turned[1].change_low == pytest.approx(turned[0].change_low, abs=0.06 * width)


def test_mean_of_a_large_set_has_the_normal_interval():
    values = np.random.default_rng(0).normal(5, 2, 30_000)
    labels = np.zeros(30_000, int)
    resamples = draw(labels, None, num_resamples=NUM, seed=0)
    found = measure_lines(labels, {"a": values}, resamples, measure=MeanMeasure(name="x"))
    half = 1.959964 * values.std(ddof=1) / np.sqrt(30_000)
    assert found.interval("a") == pytest.approx((values.mean() - half, values.mean() + half))


def test_counts_down_are_by_class():
    cuts, counts = count_down(np.array([0, 2, 1, 2]), np.array([1.0, 3.0, 3.0, 2.0]), 3)
    np.testing.assert_array_equal(cuts, [3, 2, 1])
    np.testing.assert_array_equal(counts, [[0, 0, 1], [1, 1, 1], [1, 2, 2]])
