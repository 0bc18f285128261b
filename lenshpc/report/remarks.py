"""What must stand beside an AUC that misleads alone: of 1, and of one score for all rows."""

from collections.abc import Mapping
from math import ceil, floor, log10

import numpy as np
import numpy.typing as npt

from lenshpc.report.evidence import Groups, JudgedAuc
from lenshpc.statistics.results import LEVEL

BOOSTED_ROWS = 40  # scikit-learn's histogram boosting splits no fewer: a leaf has 20 or more
ALIKE = "what it is told of the images is alike in all"
NO_BOUND = (
    "The test AUC is 1, and resampling rows of which none is out of order gives an interval of no "
    "width. The true AUC may be lower."
)
ON_BOUND = (
    "The test AUC is 1, and resampling rows of which none is out of order gives an interval of no "
    "width. The bound beneath the headline takes as many pairs of a positive and a negative as "
    "share no image and no group: each is in order with the probability that the AUC is, so it is "
    "the exact bound of a share that was 1 (Clopper & Pearson 1934)."
)


def is_perfect(found: JudgedAuc) -> bool:
    """Say whether no row is out of order."""
    return found.auc_low == 1


def describe_perfect(positive: npt.NDArray[np.bool_], groups: Groups) -> str:
    """Return what an AUC of 1 rests on, and how low the true one may be; of rows (N,)."""
    num = int(positive.sum())
    names = np.arange(len(positive)) if groups is None else groups
    some, others = set(names[positive]), set(names[~positive])
    # A group with rows of both kinds gives one pair, not two.
    pairs = max(1, min(len(some), len(others), len(some | others) // 2))
    bound = (1 - LEVEL) ** (1 / pairs)
    digits = max(3, ceil(-log10(1 - bound)) + 1)
    low = floor(bound * 10**digits) / 10**digits  # never above what is shown
    return (
        f"No test image is out of order among {num:,} positives and {len(positive) - num:,} "
        f"negatives: with {LEVEL:.0%} confidence the true AUC is above {low:.{digits}f}."
    )


def note_constant(lines: Mapping[str, JudgedAuc], reasons: Mapping[str, str]) -> str:
    """Return which lines have one score for all rows, and why where that is known."""
    told = [
        f"{name}, as {reasons[name]}" if name in reasons else name
        for name, found in lines.items()
        if found.auc_low == found.auc == found.auc_high == 0.5
    ]
    return f"One score for all rows, and so an AUC of 0.5: {'; '.join(told)}." if told else ""


def explain_boosting(num_rows: int) -> str:
    """Return why boosting gave one score for all rows, fitted on so many."""
    if num_rows < BOOSTED_ROWS:
        return f"boosting needs {BOOSTED_ROWS} training images and has {num_rows}"
    return ALIKE
