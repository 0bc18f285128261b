"""Tables of a survey: value ranges, orientation of each class, and what gives a class away."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from lenshpc.quality.survey import Flags, Floats, ImageStatistics
from lenshpc.store import Store

WINDOW_DEG = 15.0
ROUND = 0.02  # an ellipticity below this has no direction
MAX_PAIRED_CLASSES = 10


def class_rows(store: Store, survey: ImageStatistics, label: int) -> Flags:
    """Return which usable rows are of a class."""
    return np.asarray(survey.usable & (store.column("label") == label))


def value_ranges(store: Store, survey: ImageStatistics) -> list[dict[str, Any]]:
    """Return minimum, quantiles and maximum of the scaled pixels of each class and channel."""
    table = []
    for label, name in enumerate(store.classes):
        rows = survey.finite & (store.column("label") == label)
        for at, channel in enumerate(store.channels):
            if rows.any():
                low, middle, high = np.quantile(survey.samples[rows, at], [0.01, 0.5, 0.99])
                table.append(
                    {
                        "class": name,
                        "channel": channel,
                        "minimum": float(survey.minimum[rows, at].min()),
                        "low": float(low),
                        "median": float(middle),
                        "high": float(high),
                        "maximum": float(survey.maximum[rows, at].max()),
                    }
                )
    return table


def position_angles(ellipticity: Floats) -> Floats:
    """Return position angles in degrees, [0, 180), of ellipticities (n,2); round ones drop out."""
    known = ellipticity[np.hypot(*ellipticity.T) > ROUND]
    return np.asarray(np.degrees(np.arctan2(known[:, 1], known[:, 0]) / 2) % 180)


def orientation(angles_deg: Floats) -> dict[str, Any]:
    """Return the preferred axis of axial angles and how strongly they keep to it.

    `strength` is the length of the mean vector of the doubled angles; `p` is Rayleigh's test of
    uniformity (Zar 1999, equation 27.4).
    """
    num = len(angles_deg)
    if num == 0:
        absent = ("axis_deg", "strength", "near_axis", "near_x", "p")
        return {"num": 0, **dict.fromkeys(absent)}
    mean = np.exp(2j * np.radians(angles_deg)).mean()
    axis = float(np.degrees(np.angle(mean)) / 2 % 180)
    strength = float(np.abs(mean))
    return {
        "num": num,
        "axis_deg": axis,
        "strength": strength,
        "near_axis": _share_near(angles_deg, axis),
        "near_x": _share_near(angles_deg, 0.0),
        "p": rayleigh_p(num, strength),
    }


def rayleigh_p(num: int, strength: float) -> float:
    """Return the probability that `num` uniform directions have a mean vector this long."""
    total = num * strength
    root = np.sqrt(1 + 4 * num + 4 * (num**2 - total**2))
    return float(min(1.0, np.exp(root - (1 + 2 * num))))


def _share_near(angles_deg: Floats, axis_deg: float) -> float:
    apart = np.abs((angles_deg - axis_deg + 90) % 180 - 90)
    return float((apart <= WINDOW_DEG).mean())


def shortcuts(
    store: Store, survey: ImageStatistics, features: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return how well one of an image's features tells two classes apart, the best first.

    Training rows only. `auc` is that of the class in which the number is higher; `p` is that of
    Mann and Whitney's test, times the number of tests made.
    """
    training = store.in_split("train")
    rows = [training & class_rows(store, survey, label) for label in range(len(store.classes))]
    present = [label for label, flags in enumerate(rows) if flags.any()]
    if len(present) > MAX_PAIRED_CLASSES:
        return []
    pairs = list(combinations(present, 2))
    table: list[dict[str, Any]] = []
    for first, second in pairs:
        for name, values in features.items():
            one, other = (_finite_values(values[rows[label]]) for label in (first, second))
            if not len(one) or not len(other):
                continue
            test = mannwhitneyu(one, other)
            auc = float(test.statistic / (len(one) * len(other)))
            high, low = (first, second) if auc >= 0.5 else (second, first)
            table.append(
                {
                    "statistic": name,
                    "higher": store.classes[high],
                    "lower": store.classes[low],
                    "auc": max(auc, 1 - auc),
                    "p": min(1.0, float(test.pvalue) * len(pairs) * features.shape[1]),
                }
            )
    return sorted(table, key=lambda line: -line["auc"])


def _finite_values(values: "pd.Series[Any]") -> Floats:
    return np.asarray(values[np.isfinite(values)])
