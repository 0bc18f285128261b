"""Curves of a few letters, for a column of a table."""

from collections.abc import Sequence
from itertools import pairwise

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"  # from low to high


def draw_curve(values: Sequence[float], width: int, *, ascii_only: bool = False) -> str:
    """Return finite values in at most `width` letters, which are means of neighbours if need be.

    The least is at the bottom and the largest on top, whatever they are.
    """
    length = min(len(values), width)
    bounds = [len(values) * at // length for at in range(length + 1)] if length else [0]
    parts = [values[start:end] for start, end in pairwise(bounds)]
    means = [sum(part) / len(part) for part in parts]
    letters = ASCII if ascii_only else BLOCKS
    low, high = min(means, default=0.0), max(means, default=0.0)
    if low == high:
        return letters[len(letters) // 2 - 1] * length
    step = (high - low) / (len(letters) - 1)
    return "".join(letters[round((mean - low) / step)] for mean in means)
