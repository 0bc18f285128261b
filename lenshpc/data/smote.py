"""Synthetic rows of rare classes (SMOTE, Chawla et al. 2002, doi:10.1613/jair.953).

A synthetic row is a pair of training rows of one class and a weight, drawn once a member; its
pixels are mixed batch by batch, so none are stored. Its number is N or larger: no such row is in
the store, hence none can be validated, predicted or tested.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lenshpc.data.order import Labels, Rows
from lenshpc.run.extras import require
from lenshpc.run.sampling import Smote

Floats = npt.NDArray[np.float32]
NUM_COMPONENTS = 64  # in which neighbours are sought: distances in thousands of pixels are noise


@dataclass(frozen=True, kw_only=True)
class SyntheticPairs:
    """What each synthetic row is made of: row N + s is first + weight * (second - first)."""

    num_rows: int
    firsts: Rows
    seconds: Rows
    weights: Floats

    def __len__(self) -> int:
        """Return the number of synthetic rows."""
        return len(self.firsts)

    def first(self, rows: Rows) -> Rows:
        """Return the genuine rows themselves, and the first parents of the synthetic ones."""
        return self._parents(rows, self.firsts)

    def second(self, rows: Rows) -> Rows:
        """Return the genuine rows themselves, and the second parents of the synthetic ones."""
        return self._parents(rows, self.seconds)

    def mix(self, rows: Rows) -> Floats:
        """Return the second parents' weights; 0 for genuine rows."""
        # 0 for genuine rows, so that mixing leaves their pixels bit for bit.
        weights = np.zeros(len(rows), np.float32)
        made = self._is_synthetic(rows)
        weights[made] = self.weights[rows[made] - self.num_rows]
        return weights

    def _parents(self, rows: Rows, parents: Rows) -> Rows:
        made = self._is_synthetic(rows)
        if not made.any():
            return rows
        found = rows.copy()
        found[made] = parents[rows[made] - self.num_rows]
        return found

    def _is_synthetic(self, rows: Rows) -> npt.NDArray[np.bool_]:
        return rows >= self.num_rows if len(self) else np.zeros(len(rows), bool)


_NO_ROWS = np.zeros(0, np.int64)
NO_PAIRS = SyntheticPairs(
    num_rows=0, firsts=_NO_ROWS, seconds=_NO_ROWS, weights=np.zeros(0, np.float32)
)


def synthesise(
    rows: Rows,
    labels: Labels,
    read: Callable[[Rows], Floats],
    settings: Smote,
    *,
    num_rows: int,
    seed: int,
) -> tuple[SyntheticPairs, Labels]:
    """Return the synthetic rows of a fold's training rows (n,) of `labels` (n,), and their labels.

    `read` gives the images (m, …) of rows; `num_rows` is the store's. Neighbours are sought by
    imbalanced-learn among principal components. The identity matrix beside these adds the same to
    all distances, so it changes no neighbour, and shows who the parents are.
    """
    require("smote", "method.smote")
    from imblearn.over_sampling import SMOTE
    from scipy.sparse import csr_array, diags_array, hstack, vstack

    wanted = _target_counts(labels, settings.ratio)
    if not wanted:
        return replace(NO_PAIRS, num_rows=num_rows), np.zeros(0, np.int64)
    # Only rare rows have components: the others take part as empty lines, for SMOTE to know how
    # many they are.
    rare = np.isin(labels, list(wanted))
    order = np.argsort(~rare, kind="stable")  # rare rows first: the others' lines stay empty
    components = csr_array(_components(read(rows[rare]).reshape(rare.sum(), -1), seed))
    told = hstack([diags_array(np.ones(rare.sum())), components], format="csr")
    lines = vstack([told, csr_array(((~rare).sum(), told.shape[1]))], format="csr")
    fewest = min(int((labels == label).sum()) for label in wanted)
    sampler = SMOTE(
        sampling_strategy=wanted,
        k_neighbors=min(settings.neighbours, fewest - 1),
        # The member's: the pairs are equal on all ranks and in every attempt, and need no file.
        random_state=seed,
    )
    mixed, mixed_labels = sampler.fit_resample(lines, labels[order])
    parents = mixed[len(rows) :, : rare.sum()]
    return _pairs(parents, rows[rare], num_rows), mixed_labels[len(rows) :].astype(np.int64)


def _target_counts(labels: Labels, ratio: float) -> dict[int, int]:
    """Return each rare class's number of rows afterwards."""
    counts = np.bincount(labels)
    wanted = int(ratio * counts.max())
    return {label: wanted for label, count in enumerate(counts) if 1 < count < wanted}


def _components(pixels: Floats, seed: int) -> Floats:
    """Return the leading principal components of the images."""
    from sklearn.decomposition import PCA

    num = min(NUM_COMPONENTS, *pixels.shape)
    found: Floats = PCA(num, svd_solver="randomized", random_state=seed).fit_transform(pixels)
    return found


def _pairs(mixtures: Any, rows: Rows, num_rows: int) -> SyntheticPairs:
    """Read the parents and their weights from lines with one or two entries."""
    lines = mixtures.tocsr()
    # A weight of exactly 0 leaves one entry: first and second parent are then the same line.
    lines.eliminate_zeros()
    starts, ends = lines.indptr[:-1], lines.indptr[1:] - 1
    return SyntheticPairs(
        num_rows=num_rows,
        firsts=rows[lines.indices[starts]],
        seconds=rows[lines.indices[ends]],
        weights=np.where(ends > starts, lines.data[ends], 0).astype(np.float32),
    )
