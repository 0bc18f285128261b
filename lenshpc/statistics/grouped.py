"""Resamples of large sets of groups: each resample counts rows in bins of scores, not one by one.

How often each group was drawn is known; a sparse product adds this up for the rows of each bin. The
bins are those of `statistics/large.py`, with a bin for each distinct score where there are few.
Within a wider bin a curve is a straight line in counts. Shapes: N rows, G groups, Q bins, b
resamples, P points of a curve.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lenshpc.statistics.large import Cuts, ScoreBins, measure_areas
from lenshpc.statistics.ranking import RankedClass
from lenshpc.statistics.resamples import FEW_FALSE, RARE_FALSE, Judged
from lenshpc.statistics.results import Floats, Labels

CHUNK_LINES = 64  # resamples at a time

Counts = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class GroupedBins:
    """A class's rows in bins of scores: `matrix` (2 Q, G) has positive, then negative rows."""

    bins: ScoreBins
    matrix: Any

    @classmethod
    def of(cls, ranked: RankedClass, group: Labels, num_groups: int) -> "GroupedBins":
        """Return the bins of ranked rows whose groups (N,) are numbered."""
        from scipy.sparse import csr_array

        bins = ScoreBins.of(Cuts(ranked.true, ranked.false[None]))
        lowest = ranked.cuts[bins.stops]
        at = np.searchsorted(-lowest, -ranked.scores) + np.where(ranked.positive, 0, len(lowest))
        ones = np.ones(len(at), np.int32)
        return cls(bins, csr_array((ones, (at, group)), shape=(2 * len(lowest), num_groups)))

    def count(self, counts: Counts) -> Iterator["CountedBins"]:
        """Yield the rows of a few resamples at a time, drawn by their groups' counts (B, G)."""
        num_bins = len(self.bins.stops)
        for start in range(0, len(counts), CHUNK_LINES):
            chunk = counts[start : start + CHUNK_LINES].T.astype(np.int32)
            true, false = (self.matrix @ chunk).T.reshape(-1, 2, num_bins).swapaxes(0, 1)
            yield CountedBins(self.bins, true, false)


@dataclass(frozen=True, eq=False)
class CountedBins:
    """The positive and negative rows (b, Q) that a few resamples have in each bin."""

    bins: ScoreBins
    true: Labels
    false: Labels

    def measure(self) -> Floats:
        """Return AUC, average precision and recalls at few false positives (4, b)."""
        num_false = self.false.sum(axis=1)
        allowed = [np.full(len(num_false), FEW_FALSE), np.floor(num_false * RARE_FALSE + 1e-9)]
        recalls = self.find_recalls(np.stack(allowed, axis=1)).T
        return np.concatenate([measure_areas(self.bins, self.true, self.false), recalls])

    def find_recalls(self, allowed: Floats) -> Floats:
        """Return the highest recall (b, P) with at most so many false positives (b, P)."""
        reached = self._cross(self.false, self.true, allowed, "right", otherwise=0.0)
        return np.asarray(reached / np.maximum(self.true.sum(axis=1, keepdims=True), 1))

    def find_precisions(self, recalls: Floats) -> Floats:
        """Return the precision (b, P) at the first score that reaches each recall (P,)."""
        wanted = np.ceil(self.true.sum(axis=1, keepdims=True) * recalls - 1e-9)
        false = self._cross(self.true, self.false, wanted, "left", otherwise=1.0)
        true = self._cross(self.true, self.true, wanted, "left", otherwise=1.0)
        return true / np.maximum(true + false, 1)

    def _cross(
        self, along: Labels, asked: Labels, limits: Floats, side: Any, *, otherwise: float
    ) -> Floats:
        """Return the `asked` rows (b, P) down to where those `along` reach their limits (b, P).

        A bin of one score is counted to this part of it.
        """
        lines = np.empty(limits.shape)
        depth = self.bins.depth < 1
        for at, line in enumerate(lines):
            down = np.append(0, np.cumsum(along[at]))
            crossed = np.minimum(np.searchsorted(down[1:], limits[at], side), along.shape[1] - 1)
            inside = (limits[at] - down[crossed]) / np.maximum(along[at, crossed], 1)
            part = np.where(depth[crossed], np.clip(inside, 0, 1), otherwise)
            part = np.where(limits[at] >= down[-1], 1.0, part)
            before = np.append(0, np.cumsum(asked[at]))[crossed]
            line[:] = before + part * asked[at, crossed]
        return lines


def draw_binned_rankings(judged: Judged, counts: Counts, group: Labels) -> Floats:
    """Return the means over classes (4, B) of AUC, average precision, recalls at few false."""
    each = []
    for one in judged:
        binned = GroupedBins.of(one, group, counts.shape[1])
        each.append(np.concatenate([some.measure() for some in binned.count(counts)], axis=1))
    return np.asarray(np.mean(each, axis=0))


def draw_binned_bands(
    ranked: RankedClass, counts: Counts, group: Labels, rates: Floats, recalls: Floats
) -> tuple[Floats, Floats]:
    """Return the recall (B, P) at each false-positive rate, the precision at each recall."""
    found, precisions = [], []
    for some in GroupedBins.of(ranked, group, counts.shape[1]).count(counts):
        allowed = np.floor(some.false.sum(axis=1, keepdims=True) * rates + 1e-9)
        found.append(some.find_recalls(allowed))
        precisions.append(some.find_precisions(recalls))
    return np.concatenate(found), np.concatenate(precisions)
