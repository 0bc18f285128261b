"""One class against the rest, its rows counted down by falling score.

Of tied scores none counts before all do. Shapes: N rows, K classes, D distinct scores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer]
Scores = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]


def count_down(
    labels: Labels | Flags, scores: Scores, num_classes: int = 2
) -> tuple[Scores, Labels]:
    """Return distinct scores (D,), falling, and the rows of each class (K, D) from the top to each.

    Scores are one a row.
    """
    order = np.argsort(scores)[::-1]
    falling, found = scores[order], labels[order]
    stops = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)
    counts = [np.cumsum(found == label)[stops] for label in range(num_classes)]
    return falling[stops], np.stack(counts)


@dataclass(frozen=True, eq=False)
class RankedClass:
    """Which rows are of a class, `positive` (N,), and their scores (N,); there are both kinds."""

    positive: Flags
    scores: Scores

    @classmethod
    def of(cls, positive: Flags, scores: Scores) -> Self | None:
        """Return the ranking; None where rows of a kind are absent."""
        return cls(positive, scores) if 0 < positive.sum() < len(positive) else None

    @cached_property
    def _counted(self) -> tuple[Scores, Labels, Labels]:
        cuts, (false, true) = count_down(self.positive, self.scores)
        return cuts, false, true

    @property
    def cuts(self) -> Scores:
        """Return the distinct scores (D,), falling."""
        return self._counted[0]

    @property
    def false(self) -> Labels:
        """Return the negatives (D,) from the top down to each score."""
        return self._counted[1]

    @property
    def true(self) -> Labels:
        """Return the positives (D,) from the top down to each score."""
        return self._counted[2]

    @property
    def precision(self) -> Scores:
        """Return the precision (D,) down to each score."""
        return np.asarray(self.true / (self.true + self.false))

    @property
    def recall(self) -> Scores:
        """Return the recall (D,) down to each score."""
        return np.asarray(self.true / self.true[-1])

    def auc(self) -> float:
        """Return the area under the ROC curve: the Mann-Whitney statistic by ranks."""
        num_true, num_false = int(self.true[-1]), int(self.false[-1])
        above = self.false + np.append(0, self.false[:-1])  # doubled, so that ties count half
        lost = int((np.diff(self.true, prepend=0) * above).sum())
        pairs = 2 * num_true * num_false
        return (pairs - lost) / pairs

    def average_precision(self) -> float:
        """Return the average precision."""
        return float(np.sum(np.diff(self.recall, prepend=0) * self.precision))

    def recall_within(self, num_false: int) -> float:
        """Return the highest recall with at most so many false positives."""
        within = int(np.searchsorted(self.false, num_false, "right"))
        # None of a tied score before all of them: so a constant score has a recall of 0.
        return float(self.true[within - 1] / self.true[-1]) if within else 0.0

    def recall_at_rate(self, rate: float) -> float:
        """Return the highest recall with at most this share of the negatives."""
        # 0.001 of 3,000 rows is 2.9999… in floating point, and means 3.
        return self.recall_within(int(rate * int(self.false[-1]) + 1e-9))

    def precision_at(self, recall: float) -> float:
        """Return the highest precision with a recall of at least this."""
        return float(self.precision[self.recall >= recall].max())

    def best_f1_threshold(self) -> float:
        """Return the threshold of largest F1, half-way to the score below; if tied the lowest."""
        cuts, precision, recall = (one[::-1] for one in (self.cuts, self.precision, self.recall))
        total = precision + recall
        f1 = 2 * precision * recall / np.where(total > 0, total, 1)
        best = int(f1.argmax())
        lower, cut = float(cuts[max(best - 1, 0)]), float(cuts[best])
        # Half-way, so that test scores next to the cut fall to either side alike; of neighbouring
        # floats the middle may be the lower one.
        middle = (lower + cut) / 2
        return middle if middle > lower else cut

    def roc_curve(self) -> tuple[Scores, Scores]:
        """Return false- and true-positive rates from 0 to 1, without points on straight lines."""
        counts = np.stack([self.false, self.true])
        bends = (np.diff(counts, 2) != 0).any(axis=0)
        kept = np.concatenate([[True], bends, [True]])[-counts.shape[1] :]
        rates = np.concatenate([np.zeros((2, 1)), counts[:, kept] / counts[:, -1:]], axis=1)
        return rates[0], rates[1]

    def precision_recall_curve(self) -> tuple[Scores, Scores]:
        """Return precision and recall from recall 1 to 0; of equal recall the ends alone."""
        rises = np.diff(self.true) > 0
        kept = np.concatenate([[True], rises[1:] | rises[:-1], [True]])[-len(self.true) :]
        return (
            np.append(self.precision[kept][::-1], 1.0),
            np.append(self.recall[kept][::-1], 0.0),
        )


def measure_class(one: RankedClass | None, measure: Callable[[RankedClass], float]) -> float:
    """Return a measure of a class; NaN where rows of a kind are absent."""
    return float("nan") if one is None else measure(one)
