"""What all methods share."""

from collections.abc import Mapping
from typing import Literal

# Metric of the validation rows → 1 if the largest is best, -1 if the smallest; the first is the
# default of `train.monitor`.
Monitors = Mapping[str, int]
# What a member predicts: some of its training rows, its validation fold, rows that nobody trains on
# and nothing is chosen by, the test rows.
Scored = tuple[Literal["train", "oof", "aside", "test"], ...]
