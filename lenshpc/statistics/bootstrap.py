"""Bootstrap figures of a classification: resamples drawn once, shared by all that is judged.

Shapes: N rows, G groups of rows, B resamples, P positive rows, S scores that a positive row has.
A resample is drawn group by group, within groups of the same classes; without groups, row by row.
Since all models see the same resamples, differences between them are paired.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.statistics.grouped import draw_binned_bands, draw_binned_rankings
from lenshpc.statistics.large import NUM_BINS, LargeResamples
from lenshpc.statistics.ranking import RankedClass
from lenshpc.statistics.resamples import FEW_FALSE, RARE_FALSE, Flags, Judged, Resamples
from lenshpc.statistics.results import LEVEL, Floats, Labels

LARGE_ROWS = 20_000  # beyond, rows that are no groups are not drawn one by one
LARGE_NOTE = (
    f"With more than {LARGE_ROWS:,} rows without groups, rows are not drawn one by one: the value "
    "of a score over resamples is drawn from its distribution. This is exact for decisions, "
    f"recalls and curves; areas use the counts of at most {NUM_BINS:,} bins of scores, which "
    "changes the width of an interval by less than 0.2 %. Differences of lines and the change on "
    "turned images have normal intervals with DeLong's variance."
)
GROUPED_NOTE = (
    f"With more than {LARGE_ROWS:,} rows in groups, whole groups are drawn and their rows counted "
    f"in at most {NUM_BINS:,} bins of scores. With more than 134,217 groups there are fewer than "
    "2,000 resamples: as many as 256 MiB hold, and at least 200."
)
MAX_COUNTS, LEAST_RESAMPLES = 2**28, 200  # of groups that are counted
CHUNK_VALUES = 100_000  # counts worked on at a time, so that they stay in the cache
PRODUCT_LINES = 16

Counts = npt.NDArray[np.uint8]
Whole = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class CountedResamples(Resamples):
    """How often each group was drawn, `counts` (B, G), and the `group` (N,) of each row."""

    counts: Counts
    group: Labels

    @property
    def counted(self) -> bool:
        """Return that the number of draws of each row is known."""
        return True

    def of(self, rows: Labels | Flags) -> "CountedResamples":
        """Return the resamples of some of the rows."""
        return CountedResamples(self.counts, self.group[rows])

    def chunks(self, least: int = 1) -> Iterator[Counts]:
        """Yield the counts of a few resamples at a time, of `least` or more."""
        step = max(least, CHUNK_VALUES // max(1, len(self.group)))
        for start in range(0, len(self.counts), step):
            yield self.counts[start : start + step]

    def sum_values(self, values: Floats) -> Floats:
        """Return the sums (B, V) over each resample's rows of values (N, V)."""
        by_group = np.zeros((self.counts.shape[1], values.shape[1]))
        np.add.at(by_group, self.group, values)
        # A product of two matrices reads `by_group` once for all lines of a chunk.
        chunks = self.chunks(least=PRODUCT_LINES)
        return np.concatenate([chunk.astype(np.float64) @ by_group for chunk in chunks])

    def count_cells(self, cells: Labels, num_cells: int) -> Floats:
        """Return how many rows (B, num_cells) of each resample lie in each of the `cells` (N,)."""
        return self.sum_values(np.eye(num_cells)[cells])

    def draw_aucs(self, judged: Judged) -> Floats:
        """Return the mean AUC (B,) of the judged classes."""
        if len(self.group) > LARGE_ROWS:
            return np.asarray(self.draw_rankings(judged)[0])
        return np.concatenate(
            [np.mean([one.auc() for one in found], axis=0) for found in self._points(judged)]
        )

    def draw_rankings(self, judged: Judged) -> Floats:
        """Return the mean over the judged classes (4, B) of what needs no threshold."""
        if len(self.group) > LARGE_ROWS:
            return draw_binned_rankings(judged, self.counts, self.group)
        return np.concatenate(
            [np.mean([_measure(one) for one in found], axis=0) for found in self._points(judged)],
            axis=1,
        )

    def draw_bands(
        self, ranked: RankedClass, rates: Floats, recalls: Floats
    ) -> tuple[Floats, Floats]:
        """Return the recall (B, F) at each false-positive rate, the precision (B, R) at recalls."""
        if len(self.group) > LARGE_ROWS:
            return draw_binned_bands(ranked, self.counts, self.group, rates, recalls)
        drawn = [found for (found,) in self._points([ranked])]
        return (
            np.concatenate([roc_at(found, rates) for found in drawn]),
            np.concatenate([precision_at(found, recalls) for found in drawn]),
        )

    def _points(self, judged: Judged) -> Iterator[list["RocPoints"]]:
        """Yield the ROC points of each judged class, a chunk of resamples at a time."""
        rankings = [rank(one.positive, one.scores) for one in judged]
        for counts in self.chunks():
            yield [points(one, counts, self.group) for one in rankings]


def stratify(labels: Labels, groups: npt.NDArray[np.object_] | None) -> tuple[Labels, list[Labels]]:
    """Return each row's group (N,), and the groups of each stratum: those of the same classes."""
    if groups is None:
        group = np.arange(len(labels))
    else:
        codes, known = pd.factorize(groups, use_na_sentinel=False)
        group = np.unique(known.astype(str), return_inverse=True)[1][codes]
    # Groups with the same classes are drawn among themselves, so every resample has all classes,
    # and as many groups of each kind. The last class comes first: the order of the strata, and so
    # the draws, are those of numbers with a bit a class.
    present = np.zeros((group.max(initial=-1) + 1, labels.max(initial=0) + 1), dtype=bool)
    present[group, labels] = True
    kinds = np.unique(present[:, ::-1], axis=0, return_inverse=True)[1].reshape(-1)
    return group, [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]


def is_grouped(groups: npt.NDArray[np.object_] | None) -> bool:
    """Return whether any row shares its group with another."""
    return groups is not None and len(pd.unique(groups)) < len(groups)


def find_notes(splits: Iterable[npt.NDArray[np.object_] | None], sizes: Iterable[int]) -> list[str]:
    """Return how large splits of these groups, or None, and numbers of rows are resampled."""
    notes = [
        GROUPED_NOTE if is_grouped(groups) else LARGE_NOTE
        for groups, num_rows in zip(splits, sizes, strict=True)
        if num_rows > LARGE_ROWS
    ]
    return list(dict.fromkeys(notes))


def draw(
    labels: Labels, groups: npt.NDArray[np.object_] | None, *, num_resamples: int, seed: int
) -> Resamples:
    """Return resamples of the rows; each stratum keeps its number of groups."""
    if len(labels) > LARGE_ROWS and not is_grouped(groups):
        return LargeResamples(labels, num_resamples, seed)
    group, strata = stratify(labels, groups)
    if len(labels) > LARGE_ROWS:
        fewer = max(LEAST_RESAMPLES, MAX_COUNTS // (group.max() + 1))
        num_resamples = min(num_resamples, fewer)
    rng = np.random.default_rng(seed)
    # A group is drawn once on average, and more than 255 times practically never; eight bits keep
    # 2,000 resamples of a large set in memory.
    counts = np.zeros((num_resamples, group.max(initial=-1) + 1), dtype=np.uint8)
    # Groups of a stratum get columns side by side, which are written three times as fast.
    column = np.argsort(np.concatenate([np.empty(0, np.intp), *strata]))
    start_column = 0
    for members in strata:
        # The generator goes on from chunk to chunk: the size of a chunk changes no draw.
        step = max(1, CHUNK_VALUES // len(members))
        for start in range(0, num_resamples, step):
            lines = min(step, num_resamples - start)
            columns = slice(start_column, start_column + len(members))
            counts[start : start + lines, columns] = _resample_counts(len(members), lines, rng)
        start_column += len(members)
    return CountedResamples(counts, column[group])


def _resample_counts(num_groups: int, num_resamples: int, rng: np.random.Generator) -> Labels:
    """Return how often each group is drawn, (B, G): `num_groups` draws with replacement a line."""
    draws = rng.integers(num_groups, size=(num_resamples, num_groups))
    draws += np.arange(num_resamples)[:, None] * num_groups
    counts = np.bincount(draws.ravel(), minlength=num_resamples * num_groups)
    return counts.reshape(num_resamples, num_groups)


@dataclass(frozen=True, eq=False)
class Ranking:
    """One class against the rest, by falling score; `start`, `stop` bound the ties of positives.

    `order` (N,) and `positives` (P,) are rows; of the S scores that positive rows have, `start` and
    `stop` (S,) count the rows above and down to each, `hits` (S,) the positive rows down to it.
    """

    order: Labels
    positives: Labels
    start: Labels
    stop: Labels
    hits: Labels


def rank(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> Ranking:
    """Return the ranking of scores (N,)."""
    # Stable: equal scores keep the order of rows, the same for all that is judged.
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    stop = np.append(np.flatnonzero(np.diff(sorted_scores)) + 1, len(order))
    start = np.append(0, stop[:-1])
    hits = np.cumsum(positive[order])[stop - 1]
    kept = np.diff(hits, prepend=0) > 0
    return Ranking(order, order[positive[order]], start[kept], stop[kept], hits[kept])


@dataclass(frozen=True, eq=False)
class RocPoints:
    """ROC points of b resamples: true and false positives (b, S) above and down to each score."""

    true_above: Whole
    true: Whole
    false_above: Whole
    false: Whole
    num_positives: Whole
    num_negatives: Whole

    def auc(self) -> Floats:
        """Return the area under the ROC curve (b,), ties counted half."""
        # Doubled counts stay whole numbers, of which halves are exact: ties count half.
        beaten = 2 * self.num_negatives[:, None] - self.false_above - self.false
        # float64: counts fit into int32, their products and sums do not.
        won = np.einsum("ij,ij->i", self._increments(), beaten, dtype=np.float64) / 2
        return _divide(won, self.num_positives * self.num_negatives.astype(np.float64))

    def _increments(self) -> Whole:
        return self.true - self.true_above

    def precision(self) -> Floats:
        """Return the precision (b, S) at each score."""
        return np.asarray(self.true / np.maximum(self.true + self.false, 1))

    def pr_auc(self) -> Floats:
        """Return the average precision (b,)."""
        gained = np.einsum("ij,ij->i", self._increments(), self.precision())
        return _divide(gained, self.num_positives)

    def recall_before(self, num_false: Floats) -> Floats:
        """Return the highest recall (b,) with at most `num_false` (b,) false positives."""
        # Counted down to all rows of a tied score: none of them is taken before all are.
        within = (self.false <= num_false[:, None]).sum(axis=1)
        reached = self.true[np.arange(len(within)), np.maximum(within - 1, 0)]
        return _divide(np.where(within > 0, reached, 0), self.num_positives)


def _divide(above: npt.NDArray[np.number], below: npt.NDArray[np.number]) -> Floats:
    parts: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return parts


def points(ranking: Ranking, counts: Counts, group: Labels) -> RocPoints:
    """Return the ROC points of a chunk of resamples (b, G)."""
    drawn = _running_sum(counts, group[ranking.order])
    true = _running_sum(counts, group[ranking.positives])
    hits_above = np.append(0, ranking.hits[:-1])
    found, found_above = _columns(true, ranking.hits), _columns(true, hits_above)
    return RocPoints(
        true_above=found_above,
        true=found,
        false_above=_columns(drawn, ranking.start) - found_above,
        false=_columns(drawn, ranking.stop) - found,
        num_positives=true[:, -1],
        num_negatives=drawn[:, -1] - true[:, -1],
    )


def _columns(values: Whole, columns: Labels) -> Whole:
    """Return columns of `values`; as a view where they lie side by side."""
    if columns[-1] - columns[0] + 1 == len(columns):
        return values[:, columns[0] : columns[-1] + 1]
    return np.take(values, columns, axis=1)


def _running_sum(counts: Counts, columns: Labels) -> Whole:
    total = np.zeros((len(counts), len(columns) + 1), dtype=np.int32)
    np.cumsum(np.take(counts, columns, axis=1), axis=1, dtype=np.int32, out=total[:, 1:])
    return total


def _measure(found: RocPoints) -> Floats:
    """Return AUC, average precision and recalls at few false positives (4, b)."""
    rate = np.floor(found.num_negatives * RARE_FALSE + 1e-9)
    return np.stack(
        [
            found.auc(),
            found.pr_auc(),
            found.recall_before(np.full(len(rate), float(FEW_FALSE))),
            found.recall_before(rate),
        ]
    )


def roc_at(found: RocPoints, grid: Floats) -> Floats:
    """Return the highest true-positive rate (b, len(grid)) up to each false-positive rate."""
    lines = np.empty((len(found.true), len(grid)))
    for at, line in enumerate(lines):
        # A product that falls short of a whole number by rounding still counts as it.
        allowed = grid * found.num_negatives[at] + 1e-9
        within = np.searchsorted(found.false[at], allowed, side="right")
        line[:] = np.append(0, found.true[at])[within] / max(found.num_positives[at], 1)
    return lines


def precision_at(found: RocPoints, grid: Floats) -> Floats:
    """Return the precision (b, len(grid)) at the first score that reaches each recall."""
    precision = found.precision()
    last = precision.shape[1] - 1
    lines = np.empty((len(precision), len(grid)))
    for at, line in enumerate(lines):
        wanted = grid * found.num_positives[at] - 1e-9
        line[:] = precision[at, np.minimum(np.searchsorted(found.true[at], wanted), last)]
    return lines


def interval(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of the draws that are defined."""
    # A resample without a class has no figure; as 0 it would widen the interval downwards.
    defined = values[np.isfinite(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
