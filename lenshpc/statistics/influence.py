"""What each row contributes to a measure, to first order, and how far that scatters.

Influences of the rows of a kind add up to 0; a resample's measure is to first order that of the
rows and the sum of the influences of the rows drawn. Shapes: M measures, N rows, G groups, D
distinct scores.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lenshpc.statistics.metrics import one_versus_rest
from lenshpc.statistics.results import LEVEL, Floats, Labels

Flags = npt.NDArray[np.bool_]


def influence_mean_auc(labels: Labels, values: Floats) -> Floats:
    """Return each row's influence (N,) on the mean AUC over the classes that are judged."""
    judged = one_versus_rest(labels, values)
    return np.asarray(np.mean([influence_auc(*one) for one in judged], axis=0))


def influence_auc(positive: Flags, scores: Floats) -> Floats:
    """Return each row's placement value (N,) over the number of rows of its kind."""
    place, true, false = _place(positive, scores)
    # Of a positive row the share of negatives below it, of a negative one that of positives above
    # it; ties count half.
    beaten = 1 - (false[1:] + false[:-1]) / (2 * false[-1])
    above = (true[1:] + true[:-1]) / (2 * true[-1])
    return _centre(positive, np.where(positive, beaten[place], above[place]))


def influence_precision(positive: Flags, scores: Floats) -> Floats:
    """Return each row's influence (N,) on the average precision.

    A row drawn once more adds to the counts of its own score and of all lower ones.
    """
    place, true, false = _place(positive, scores)
    taken = true[1:] + false[1:]
    gained = np.diff(true) / taken.astype(np.float64) ** 2
    better, worse = (np.cumsum((gained * counts[1:])[::-1])[::-1] for counts in (false, true))
    precision = true[1:] / taken
    ratio = float(false[-1] / true[-1])
    values = np.where(positive, (precision + better)[place], -worse[place] * ratio)
    return _centre(positive, values)


def _place(positive: Flags, scores: Floats) -> tuple[Labels, Labels, Labels]:
    """Return where each row's score (N,) stands among the falling ones, true and false down to it.

    The counts are (D + 1,) and begin with 0.
    """
    order = np.argsort(scores)[::-1]
    falling = scores[order]
    begins = np.append(True, falling[1:] != falling[:-1])
    place = np.empty(len(order), np.intp)
    place[order] = np.cumsum(begins) - 1
    stops = np.append(np.flatnonzero(begins)[1:], len(order))
    true = np.append(0, np.cumsum(positive[order])[stops - 1])
    return place, true, np.append(0, stops) - true


def _centre(positive: Flags, values: Floats) -> Floats:
    """Return values less the mean of their kind, over the number of rows of their kind."""
    result = np.empty(len(values))
    for kind in (positive, ~positive):
        some = values[kind]
        result[kind] = (some - some.mean()) / len(some)
    return result


def sum_scatter(
    influences: Sequence[npt.NDArray[np.number]] | Floats, strata: Sequence[Labels]
) -> Floats:
    """Return the covariance (M, M) of measures whose influences (M, G) are drawn within strata."""
    sums = np.asarray(influences)
    total = np.zeros((len(sums), len(sums)))
    for members in strata:
        if len(members) > 1:
            total += len(members) * np.cov(sums[:, members])
    return total


def normal_interval(value: float, variance: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a normal value."""
    from scipy.stats import norm

    half = float(norm.ppf((1 + level) / 2) * np.sqrt(max(variance, 0.0)))
    return value - half, value + half
