"""How far an image lies from those that a network has learnt from, by its features.

The distance to the k-th nearest of some training rows, of normalised features (Sun et al. 2022,
"Out-of-distribution detection with deep nearest neighbors", ICML). Shapes: n images, R reference
rows, D features.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lenshpc.run.completion import hashes_of
from lenshpc.run.plan import Member
from lenshpc.run.predictions import list_scored, read_array
from lenshpc.run.results import RunResults

EMBEDDING = "embedding"
Floats = npt.NDArray[np.floating]

NEIGHBOUR = 10  # which one's distance counts
MAX_REFERENCE = 1000
USUAL = 0.99  # the share of reference rows that are not unusual


class Reference:
    """Features (R, D) of rows of the training set, none of which the network was trained on."""

    def __init__(self, features: npt.NDArray[np.floating]) -> None:
        self._unit = _normalise(features)
        self._rank = min(NEIGHBOUR, len(features) - 1)

    def distance(self, features: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return (n,): 1 is the distance beyond which 1 % of the reference rows lie."""
        return np.asarray(self._kth(features, self._rank - 1) / self._usual, np.float32)

    def nearest(
        self, features: npt.NDArray[np.floating], num: int
    ) -> tuple[npt.NDArray[np.intp], Floats]:
        """Return the `num` nearest reference rows (n, num), nearest first, and their distances."""
        distances = self._distances(features)
        order = np.argsort(distances, axis=1, kind="stable")[:, :num]
        return order, np.take_along_axis(distances, order, axis=1)

    @cached_property
    def _usual(self) -> float:
        # One further: the nearest of a reference row is the row itself.
        own = self._kth(self._unit, self._rank)
        return max(float(np.quantile(own, USUAL)), float(np.finfo(np.float32).eps))

    def _kth(self, features: Floats, rank: int) -> Floats:
        return np.asarray(np.partition(self._distances(features), rank, axis=1)[:, rank])

    def _distances(self, features: Floats) -> Floats:
        likeness = _normalise(features) @ self._unit.T
        # Of unit vectors |a - b|² = 2 - 2 a·b, which rounding takes below 0.
        return np.sqrt(np.maximum(2 - 2 * likeness, 0))


def read_reference(
    results: RunResults, member: Member
) -> tuple[npt.NDArray[Any], list[str]] | None:
    """Return a member's features of rows it validated on, and their ids; None where it kept none.

    Of its validation fold: features of rows that it was trained on lie closer together.
    """
    kept = hashes_of(results.run, member)
    if not any(f"/{EMBEDDING}/" in name for name in kept):
        return None
    rows = list_scored(results.plan, results.splits, member)
    own = rows[rows["split"] == "oof"]
    some = own.iloc[select_reference(len(own))]
    if len(some) < 2:
        return None
    features = read_array(results.run, member, EMBEDDING, some["row"].to_numpy())
    return features, some["id"].tolist()


def read_references(results: RunResults) -> dict[str, npt.NDArray[Any]]:
    """Return what is fitted of all members for `measure_novelty`: features (R, D) by name."""
    members = results.plan.members
    found = {f"{EMBEDDING}/{one.index}": read_reference(results, one) for one in members}
    return {name: pair[0] for name, pair in found.items() if pair is not None}


class Novelty:
    """The references of an ensemble's members, by their index."""

    def __init__(self, indices: Sequence[int], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._references = [
            Reference(arrays[name]) if (name := f"{EMBEDDING}/{index}") in arrays else None
            for index in indices
        ]

    def measure(self, outputs: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Return `ood_distance` (n,), the mean over members; nothing where none has a reference."""
        found = [
            reference.distance(output[EMBEDDING])
            for reference, output in zip(self._references, outputs, strict=True)
            if reference is not None
        ]
        return {"ood_distance": np.mean(found, axis=0)} if found else {}


def select_reference(num_rows: int) -> npt.NDArray[np.intp]:
    """Return the places of at most 1000 of some rows, evenly spread over them."""
    num = min(num_rows, MAX_REFERENCE)
    return np.linspace(0, num_rows - 1, num).round().astype(np.intp)


def _normalise(features: npt.NDArray[np.floating]) -> Floats:
    values = features.astype(np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, np.finfo(np.float32).tiny))
