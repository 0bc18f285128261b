"""Match the rows of several runs: by their numbers in one store, else by what the images are.

Shapes: N rows that all runs have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.errors import ConfigError
from lenshpc.run.results import RunResults
from lenshpc.statistics.measures import RowValues
from lenshpc.statistics.results import Labels


@dataclass(frozen=True, kw_only=True)
class MatchedRows:
    """Where each run has the rows of a split that all have: places (N,) in its `RowValues.rows`.

    `counts` are each run's own rows of the split.
    """

    places: tuple[Labels, ...]
    counts: tuple[int, ...]

    @property
    def num_common(self) -> int:
        """Return how many rows all runs have."""
        return len(self.places[0])

    @property
    def are_equal(self) -> bool:
        """Return whether no run has a row that another lacks."""
        return set(self.counts) == {self.num_common}


def match_rows(found: Sequence[tuple[RunResults, RowValues]], split: str) -> MatchedRows:
    """Return the rows of a split that all runs have, in the order of the first run."""
    stores = {results.plan.store_hash for results, _ in found}
    own = [np.flatnonzero(values.rows["split"] == split) for _, values in found]
    keys = [
        _identify(results, values.rows.iloc[mine], by_content=len(stores) > 1)
        for (results, values), mine in zip(found, own, strict=True)
    ]
    shared = keys[0]
    for other in keys[1:]:
        shared = shared[shared.isin(other)]
    return MatchedRows(
        places=tuple(
            mine[index.get_indexer(shared)] for index, mine in zip(keys, own, strict=True)
        ),
        counts=tuple(map(len, own)),
    )


def _identify(results: RunResults, rows: pd.DataFrame, *, by_content: bool) -> pd.MultiIndex:
    """Return what tells rows apart: number and label, or id, label and content."""
    if not by_content:
        return pd.MultiIndex.from_arrays([rows["row"], rows["label"]])
    return pd.MultiIndex.from_arrays([rows["id"], rows["label"], _hash_content(results, rows)])


def _hash_content(results: RunResults, rows: pd.DataFrame) -> npt.NDArray[Any]:
    """Return the hash of each row's source, or of its pixels where these are what is measured."""
    store, places = results.store, rows["row"].to_numpy()
    name = "pixel_sha256" if results.plan.recipe.method.measures_pixels else "sha256"
    return np.array([line.tobytes().hex() for line in store.column(name, places)], dtype=object)


def check_rows(letters: Sequence[str], rows: MatchedRows, *, common: bool) -> None:
    """Refuse runs whose test rows differ, unless those that they have in common were asked for."""
    counts = ", ".join(
        f"{letter} has {count:,}" for letter, count in zip(letters, rows.counts, strict=True)
    )
    told = f"{counts}; {rows.num_common:,} with the same image and label are in all"
    if not rows.num_common:
        raise ConfigError(f"the runs have no test row in common: {told}; compare other runs")
    if not (common or rows.are_equal):
        raise ConfigError(f"the test rows differ: {told}; compare the runs on these with --common")
