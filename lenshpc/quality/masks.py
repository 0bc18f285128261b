"""Whether the pixels that were filled tell the classes apart: by how many they are, and where."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from lenshpc.quality.statistics import MAX_PAIRED_CLASSES, shortcuts
from lenshpc.quality.survey import ImageStatistics, list_blocks
from lenshpc.store import Store

Counts = NDArray[np.int64]


def mask_shortcuts(store: Store, survey: ImageStatistics) -> list[dict[str, Any]]:
    """Return how well masks tell two classes apart, the best first, as `shortcuts` does.

    Beside the share of each channel that is filled, this is the one place of a mask by which two
    classes differ most; its `p` is that of Fisher's exact test, times the number of places.
    """
    if store.masks is None:
        return []
    shares, places, num_training = _survey_masks(store)
    lines = [*shortcuts(store, survey, shares), *_compare_places(store, places, num_training)]
    return sorted(lines, key=lambda line: -line["auc"])


def _survey_masks(store: Store) -> tuple[pd.DataFrame, Counts, Counts]:
    """Return the filled share of each image, a column a channel, and of training images per class:

    how many are filled at each place (K,C,H,W), and how many there are (K,).
    """
    labels, training = store.column("label"), store.in_split("train")
    places = np.zeros((len(store.classes), *store.image_shape), np.int64)
    for block in list_blocks(store):
        masks = store.read_masks(block)
        for label in range(len(places)):
            mine = (labels[block] == label) & training[block]
            places[label] += masks[mine].sum(axis=0, dtype=np.int64)
    names = [f"filled share of {channel}" for channel in store.channels]
    totals = np.bincount(labels[training & (labels >= 0)], minlength=len(places))
    shares = store.column("num_filled") / math.prod(store.image_shape[1:])
    return pd.DataFrame(shares, columns=names), places, totals


def _compare_places(store: Store, places: Counts, totals: Counts) -> list[dict[str, Any]]:
    present = np.flatnonzero(totals).tolist()
    pairs = list(combinations(present, 2)) if len(present) <= MAX_PAIRED_CLASSES else []
    table: list[dict[str, Any]] = []
    for first, second in pairs:
        apart = places[first] / totals[first] - places[second] / totals[second]
        at = np.unravel_index(np.abs(apart).argmax(), apart.shape)
        high, low = (first, second) if apart[at] >= 0 else (second, first)
        filled = [int(places[label][at]) for label in (high, low)]
        whole = [int(totals[label]) - num for label, num in zip((high, low), filled, strict=True)]
        channel, row, column = map(int, at)
        table.append(
            {
                "statistic": f"mask of {store.channels[channel]} in row {row}, column {column}",
                "higher": store.classes[high],
                "lower": store.classes[low],
                # Of a number that is 0 or 1: by half of what the shares differ above chance.
                "auc": float(0.5 + np.abs(apart[at]) / 2),
                "p": min(
                    1.0, float(fisher_exact([filled, whole]).pvalue) * len(pairs) * apart.size
                ),
            }
        )
    return table
