"""What resamples of rows are asked for, however they were drawn.

Shapes: N rows, B resamples, V values a row, F and R points of a curve.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lenshpc.statistics.ranking import RankedClass
from lenshpc.statistics.results import Floats, Labels

FEW_FALSE = 9  # false positives, of TPR10
RARE_FALSE = 1e-3  # share of the negatives

Flags = npt.NDArray[np.bool_]
Judged: TypeAlias = Sequence[RankedClass]  # the classes whose figures are averaged


@dataclass(frozen=True, eq=False)
class Resamples(ABC):
    """Resamples of the rows of a split, drawn once and shared by all that is judged.

    Where they are `counted`, two figures of the same resamples are paired, draw by draw. Else each
    figure has draws of its own, which hold for that figure alone.
    """

    @property
    @abstractmethod
    def counted(self) -> bool:
        """Return whether it is known how often each row was drawn."""

    @abstractmethod
    def of(self, rows: Labels | Flags) -> "Resamples":
        """Return the resamples of some of the rows."""

    @abstractmethod
    def sum_values(self, values: Floats) -> Floats:
        """Return the sums (B, V) over each resample's rows of values (N, V)."""

    @abstractmethod
    def count_cells(self, cells: Labels, num_cells: int) -> Floats:
        """Return how many rows (B, num_cells) of each resample lie in each of the `cells` (N,)."""

    @abstractmethod
    def draw_aucs(self, judged: Judged) -> Floats:
        """Return the mean AUC (B,) of the judged classes."""

    @abstractmethod
    def draw_rankings(self, judged: Judged) -> Floats:
        """Return the mean over the judged classes (4, B) of what needs no threshold.

        They are AUC, average precision, the recall with at most `FEW_FALSE` false positives, and
        that with at most `RARE_FALSE` of the negatives.
        """

    @abstractmethod
    def draw_bands(
        self, ranked: RankedClass, rates: Floats, recalls: Floats
    ) -> tuple[Floats, Floats]:
        """Return the recall (B, F) up to each false-positive rate, the precision (B, R) at recalls.

        The precision is that at the first score which reaches the recall.
        """
