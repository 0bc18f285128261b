"""Resamples of large sets: figures are drawn from their own distributions, not row by row.

All hold for rows that are drawn one by one within their classes. What a threshold leaves above it,
where a curve is crossed and a confusion matrix are exact for the scores that occur: the row that
comes out k-th of n draws has a beta distribution, and how many of n draws lie in a part of the rows
a binomial one. Areas rest on counts in bins of neighbouring scores, exact where there are at most
`NUM_BINS` of these. Of more, a bin keeps the order that its rows have; that this order varies too
is left out. Of the same resample, an area so differs from that of the rows by less than 5 % of its
standard error (root mean square), which changes the width of its interval by less than 0.2 %.
Shapes: N rows, K classes, D distinct scores, Q bins, B resamples, b of them at a time, P points.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lenshpc.statistics.influence import influence_auc, influence_precision, sum_scatter
from lenshpc.statistics.ranking import RankedClass, count_down
from lenshpc.statistics.resamples import FEW_FALSE, RARE_FALSE, Flags, Judged, Resamples
from lenshpc.statistics.results import Floats, Labels

NUM_BINS = 1024
NUM_VALUE_BINS, NUM_TAIL = 128, 64  # of numbers that are added up; the outermost stand alone
CHUNK_LINES = 64  # resamples at a time, so that their counts stay in the cache

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LargeResamples(Resamples):
    """Resamples of rows of some classes, `labels` (N,), as many of each class as there are."""

    labels: Labels
    num_resamples: int
    seed: int

    @property
    def counted(self) -> bool:
        """Return that no row's number of draws is known."""
        return False

    def of(self, rows: Labels | Flags) -> "LargeResamples":
        """Return resamples of some of the rows, as many of each class as are among them."""
        return LargeResamples(self.labels[rows], self.num_resamples, self.seed)

    @cached_property
    def _strata(self) -> list[Labels]:
        return [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]

    def _rng(self) -> np.random.Generator:
        # Begun anew for each figure: none depends on what was asked before it.
        return np.random.default_rng(self.seed)

    def sum_values(self, values: Floats) -> Floats:
        """Return the sums (B, V) over each resample's rows of values (N, V)."""
        rng = self._rng()
        drawn = np.zeros((values.shape[1], self.num_resamples))
        for rows in self._strata:
            drawn += [draw_sums(column[rows], self.num_resamples, rng) for column in values.T]
        return couple(drawn, sum_scatter(values.T, self._strata), rng).T

    def count_cells(self, cells: Labels, num_cells: int) -> Floats:
        """Return how many rows (B, num_cells) of each resample lie in each of the `cells` (N,)."""
        rng, drawn = self._rng(), np.zeros((self.num_resamples, num_cells))
        for rows in self._strata:
            counts = np.bincount(cells[rows], minlength=num_cells)
            drawn += rng.multinomial(len(rows), counts / len(rows), size=self.num_resamples)
        return drawn

    def draw_aucs(self, judged: Judged) -> Floats:
        """Return the mean AUC (B,) of the judged classes."""
        return np.asarray(self._draw_areas(judged)[0])

    def draw_rankings(self, judged: Judged) -> Floats:
        """Return the mean over the judged classes (4, B): the areas, and recalls at few false."""
        rng = self._rng()
        # Draws of one class do not know those of another. That a row is a false positive of one
        # and no true one of another hardly counts where false positives are this rare.
        recalls = [
            draw_recalls(cuts, np.array([FEW_FALSE, cuts.count_allowed(RARE_FALSE)]), self, rng)
            for cuts in self._count(judged)
        ]
        return np.concatenate([self._draw_areas(judged), np.mean(recalls, axis=0).T])

    def draw_bands(
        self, ranked: RankedClass, rates: Floats, recalls: Floats
    ) -> tuple[Floats, Floats]:
        """Return the recall (B, F) at each false-positive rate, the precision (B, R) at recalls."""
        rng = self._rng()
        (cuts,) = self._count([ranked])
        allowed = np.array([cuts.count_allowed(rate) for rate in rates])
        return draw_recalls(cuts, allowed, self, rng), draw_precisions(cuts, recalls, self, rng)

    def _count(self, judged: Judged) -> Iterator["Cuts"]:
        """Yield the rows down to each score, of each judged class."""
        for one in judged:
            if len(self._strata) == 2:
                yield Cuts(one.true, one.false[None])
                continue
            kinds = np.where(one.positive, 0, self.labels + 1)
            found = count_down(kinds, one.scores, int(kinds.max()) + 1)[1]
            yield Cuts(found[0], found[1:][found[1:, -1] > 0])

    def _draw_areas(self, judged: Judged) -> Floats:
        """Return AUC and average precision (2, B), means over the judged classes."""
        rng = self._rng()
        drawn = [draw_areas(ScoreBins.of(cuts), self, rng) for cuts in self._count(judged)]
        if len(drawn) == 1:
            return drawn[0]
        means = []
        for areas, influence in zip(
            np.swapaxes(drawn, 0, 1), (influence_auc, influence_precision), strict=True
        ):
            moved = [influence(one.positive, one.scores) for one in judged]
            means.append(couple(areas, sum_scatter(moved, self._strata), rng).mean(axis=0))
        return np.array(means)


def draw_sums(values: Floats, num_resamples: int, rng: np.random.Generator) -> Floats:
    """Return the sum (B,) of as many values (n,) as there are, drawn with replacement.

    Counts of bins of neighbouring values are drawn, and what varies within them as normal.
    """
    ascending = np.sort(values.astype(np.float64, copy=False))
    num = len(ascending)
    if ascending[0] == ascending[-1]:
        return np.full(num_resamples, num * ascending[0])
    tail = min(NUM_TAIL, num // 2)
    between = np.linspace(tail, num - tail, NUM_VALUE_BINS + 1).astype(np.intp)[:-1]
    starts = np.unique(np.concatenate([np.arange(tail), between, np.arange(num - tail, num)]))
    counts = np.diff(starts, append=num)
    means = np.add.reduceat(ascending, starts) / counts
    spread = np.add.reduceat((ascending - np.repeat(means, counts)) ** 2, starts) / counts
    drawn = rng.multinomial(num, counts / num, size=num_resamples)
    return np.asarray(drawn @ means + np.sqrt(drawn @ spread) * rng.normal(size=num_resamples))


def couple(drawn: Floats, covariance: Floats, rng: np.random.Generator) -> Floats:
    """Return draws (M, B) in another order each, so that their ranks correlate as normal ones.

    Iman & Conover 1982; each line keeps its own values.
    """
    if len(drawn) == 1:
        return drawn
    spread = np.sqrt(np.diag(covariance))
    spread[spread == 0] = 1
    likeness = covariance / np.outer(spread, spread)
    normal = rng.multivariate_normal(
        np.zeros(len(drawn)), likeness, size=drawn.shape[1], method="eigh", check_valid="ignore"
    )
    ranks = np.argsort(np.argsort(normal, axis=0), axis=0).T
    return np.take_along_axis(np.sort(drawn, axis=1), ranks, axis=1)


@dataclass(frozen=True, eq=False)
class Cuts:
    """Rows down to each distinct score, the highest first: `true` (D,), `false` (J, D) by class."""

    true: Labels
    false: Labels

    @cached_property
    def all_false(self) -> Labels:
        """Return all that is not positive (D,)."""
        return np.asarray(self.false.sum(axis=0))

    def count_allowed(self, rate: float) -> int:
        """Return how many false positives a rate stands for."""
        # A product that falls short of a whole number by rounding still counts as it.
        return int(np.floor(rate * self.all_false[-1] + 1e-9))


def draw_recalls(
    cuts: Cuts, allowed: Labels, resamples: LargeResamples, rng: np.random.Generator
) -> Floats:
    """Return the highest recall (B, P) with at most so many false positives, `allowed` (P,)."""
    num, num_true = int(cuts.all_false[-1]), int(cuts.true[-1])
    size = (resamples.num_resamples, len(allowed))
    few = np.minimum(allowed, num - 1)
    # Which row is the first false positive too many: an order statistic of uniform draws.
    narrow = _find_narrowness(cuts, few)
    first = rng.beta((few + 1) * narrow, (num - few) * narrow, size=size)
    cut = np.searchsorted(
        cuts.all_false, np.minimum((first * num).astype(np.intp), num - 1), "right"
    )
    above = np.append(0, cuts.true)[cut]
    return np.asarray(
        np.where(allowed < num, rng.binomial(num_true, above / num_true) / num_true, 1.0)
    )


def _find_narrowness(cuts: Cuts, places: Labels) -> Floats:
    """Return by how much (P,) drawing within classes narrows the scatter of a count of negatives.

    It is the ratio of a binomial variance to that of the sum over classes; 1 of a single class.
    """
    cut = np.searchsorted(cuts.all_false, places, "right")
    totals = cuts.false[:, -1:].astype(np.float64)
    share = cuts.false[:, cut] / totals
    whole = cuts.all_false[cut] / totals.sum()
    within = (totals * share * (1 - share)).sum(axis=0)
    plain = totals.sum() * whole * (1 - whole)
    return np.asarray(np.divide(plain, within, out=np.ones(len(places)), where=within > 0))


def draw_precisions(
    cuts: Cuts, recalls: Floats, resamples: LargeResamples, rng: np.random.Generator
) -> Floats:
    """Return the precision (B, P) at the first score that reaches each recall."""
    num = int(cuts.true[-1])
    wanted = np.clip(np.ceil(recalls * num - 1e-9), 1, num).astype(np.intp)
    size = (resamples.num_resamples, len(wanted))
    # Where the last positive row that is wanted lies among those at hand, 0 to 1 from above.
    last = rng.beta(wanted, num - wanted + 1, size=size)
    cut = np.searchsorted(cuts.true, np.minimum((last * num).astype(np.intp), num - 1), "right")
    # Positive rows of the same score count with it.
    tied = np.clip((cuts.true[cut] / num - last) / np.maximum(1 - last, 1e-300), 0, 1)
    true = wanted + rng.binomial(num - wanted, tied)
    false = np.zeros(size)
    for counts in cuts.false:
        false += rng.binomial(counts[-1], counts[cut] / counts[-1])
    return np.asarray(true / (true + false))


@dataclass(frozen=True, eq=False)
class ScoreBins:
    """Neighbouring scores in bins, the highest first; `true` (Q,) and `false` (J, Q) rows of each.

    `stops` (Q,) has each bin's last place among the falling scores. Within a bin `lost` (Q,) is the
    share of pairs in the wrong order. A positive row of it has, on average, `height` (Q,) times the
    precision `depth` of the way through the bin; that is all of it for a single score.
    """

    stops: Labels
    true: Labels
    false: Labels
    lost: Floats
    depth: Floats
    height: Floats

    @classmethod
    def of(cls, cuts: Cuts) -> "ScoreBins":
        """Return the bins of rows counted down to each score."""
        true, false, total = cuts.true, cuts.all_false, cuts.true + cuts.all_false
        stops = _choose_stops(true, false)
        starts = np.append(0, stops[:-1] + 1)
        gained = np.diff(true, prepend=0)
        above = false - np.diff(false, prepend=0) / 2  # negatives above, ties counted half
        own, others = np.diff(true[stops], prepend=0), np.diff(false[stops], prepend=0)
        before = np.append(0, false[stops[:-1]])
        pairs = np.add.reduceat(gained * above, starts) - own * before
        depth = np.where(starts == stops, 1.0, 0.5)
        reached = np.append(0, true[stops[:-1]]) + depth * own
        precision = reached / np.maximum(reached + before + depth * others, 1e-300)
        heights = np.add.reduceat(gained * (true / total), starts)
        return cls(
            stops=stops,
            true=own,
            false=np.diff(cuts.false[:, stops], prepend=0),
            lost=_divide(pairs, own * others.astype(np.float64), 0.5),
            depth=depth,
            height=_divide(heights, own * precision, 1.0),
        )


def _choose_stops(true: Labels, false: Labels) -> Labels:
    """Return the last score of each bin.

    Bins part rows of either kind evenly, the pairs in the wrong order as either kind sees them, and
    what the average precision lacks; and they are finer the nearer the top.
    """
    if len(true) <= NUM_BINS:
        return np.arange(len(true))
    total = true + false
    own, others = np.diff(true, prepend=0), np.diff(false, prepend=0)
    shares = (
        (true, NUM_BINS // 16),
        (false, NUM_BINS // 16),
        (np.cumsum(own * (false - others / 2)), NUM_BINS // 8),
        (np.cumsum(others * (true[-1] - true + own / 2)), NUM_BINS // 8),
        (np.cumsum(own * (false / total)), NUM_BINS // 4),
    )
    found = [np.searchsorted(sums, np.arange(1, num + 1) / num * sums[-1]) for sums, num in shares]
    top = np.searchsorted(total, np.geomspace(1, total[-1], 3 * NUM_BINS // 8))
    stops = np.unique(np.concatenate([*found, top]))
    return np.append(stops[stops < len(true) - 1], len(true) - 1)


def _divide(above: Floats, below: Floats, otherwise: float) -> Floats:
    return np.asarray(np.divide(above, below, out=np.full(len(above), otherwise), where=below > 0))


def draw_areas(bins: ScoreBins, resamples: LargeResamples, rng: np.random.Generator) -> Floats:
    """Return AUC and average precision (2, B)."""
    found = []
    for start in range(0, resamples.num_resamples, CHUNK_LINES):
        lines = min(CHUNK_LINES, resamples.num_resamples - start)
        true = _draw_counts(bins.true, lines, rng)
        false = sum(_draw_counts(one, lines, rng) for one in bins.false)
        found.append(measure_areas(bins, true, np.asarray(false)))
    return np.concatenate(found, axis=1)


def _draw_counts(counts: Labels, lines: int, rng: np.random.Generator) -> Counts:
    total = int(counts.sum())
    return rng.multinomial(total, counts / total, size=lines)


def measure_areas(bins: ScoreBins, true: Labels, false: Labels) -> Floats:
    """Return AUC and average precision (2, b) of counts (b, Q) of positive and negative rows."""
    true_down, false_down = np.cumsum(true, axis=1), np.cumsum(false, axis=1)
    worse = (false_down - false) + false * bins.lost
    num_true, num_false = true_down[:, -1], false_down[:, -1].astype(np.float64)
    auc = 1 - np.einsum("ij,ij->i", true, worse) / (num_true * num_false)
    taken = (true_down - true) + true * bins.depth
    precision = taken / np.maximum(taken + (false_down - false) + false * bins.depth, 1e-300)
    gained = np.einsum("ij,ij,j->i", true, precision, bins.height)
    return np.array([auc, gained / num_true])
