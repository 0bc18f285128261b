"""Deal groups of rows to parts of equal size and equal shares of each class."""

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def deal_groups(table: Counts, parts: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the part of each group; `table` has its rows of each class (groups, classes).

    Groups that are alike, with as many rows of each class, go round in a random order: to all parts
    equally often. The few of each kind that are left over go, the largest first, to the part that
    lacks their classes most.
    """
    kinds = number_kinds(table)
    order = np.lexsort((np.random.default_rng(seed).random(len(table)), kinds))
    # How many of its kind come before a group, and how many of it can be dealt out in whole rounds.
    num_of_kind = np.bincount(kinds)
    place = np.arange(len(table)) - np.repeat(np.cumsum(num_of_kind) - num_of_kind, num_of_kind)
    in_rounds = place < (num_of_kind // parts * parts)[kinds[order]]
    found = np.empty(len(table), np.int64)
    found[order[in_rounds]] = place[in_rounds] % parts
    left = order[~in_rounds]
    largest_first = left[np.argsort(-table[left].sum(axis=1), kind="stable")]
    found[largest_first] = _fill_up(table[largest_first], table.sum(axis=0), parts)
    return found


def number_kinds(table: Counts) -> npt.NDArray[np.int64]:
    """Return the same number for groups of equal counts, from 0 on."""
    kinds = np.zeros(len(table), np.int64)
    for counts in table.T:
        # Made dense each time: the numbers of all classes together would run over.
        kinds = np.unique(kinds * (counts.max() + 1) + counts, return_inverse=True)[1]
    return kinds


def _fill_up(table: Counts, totals: Counts, parts: int) -> npt.NDArray[np.int64]:
    """Return the part of each group, given one after the other to where it is missing most.

    All parts begin with equally many rows of each class.
    """
    # A class counts by its share: by its rows, the parts would differ in the rare ones.
    weights = 1 / np.maximum(totals, 1).astype(np.float64) ** 2
    held = np.zeros((parts, table.shape[1]))
    found = np.empty(len(table), np.int64)
    for at, counts in enumerate(table):
        # By how much the sum of the squares of all shares would grow; where it is the same, to the
        # part with the fewest rows.
        growth = (held * (counts * weights)).sum(axis=1)
        found[at] = np.lexsort((held.sum(axis=1), growth))[0]
        held[found[at]] += counts
    return found
