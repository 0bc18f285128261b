"""What finds anomalies without a network: principal components, neighbours, a ring's radius.

All but the last are fitted on normal rows that fold 0 trains on, so its validation fold is unseen.
Boosting is told the classes, as no detector may be: what it finds by seven numbers is no proof of
insight. Shapes: N rows, P pixels.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.report.remarks import ALIKE, explain_boosting
from lenshpc.statistics.radial import (
    RADIAL_NUMBERS,
    RING_RADIUS,
    choose_rows,
    read_image_numbers,
)
from lenshpc.statistics.results import Floats
from lenshpc.store import Store

NUM_COMPONENTS = 96
NUM_WHITENED = 128
MAX_SIDE_PX = 64
MAX_FITTED = 4000  # rows
BLOCK_ROWS = 512

PCA_ERROR = f"PCA-{NUM_COMPONENTS} relative error"
NEIGHBOUR = f"whitened PCA-{NUM_WHITENED} nearest neighbour"
RING = "ring radius"
BOOSTING = "supervised boosting on radial numbers (a warning)"


def score_baselines(
    store: Store, splits: pd.DataFrame, rows: pd.DataFrame, crop: int | None
) -> dict[str, Floats]:
    """Return each baseline's scores (N,) of the merged rows; NaN for rows it was fitted on.

    Of a large store some images are read, and the other rows are NaN.
    """
    dev = (splits["split"] == "dev").to_numpy()
    fitted = splits.loc[dev & (splits["fold"] != 0), "row"].to_numpy()
    places = choose_rows(store)
    numbers = np.full((store.num_rows, len(RADIAL_NUMBERS)), np.nan)
    numbers[places] = read_image_numbers(store, places).radial
    by_row = fit_components(store, fitted, crop, places)
    ring = numbers[:, RING_RADIUS]
    by_row[RING] = np.abs(ring - np.nanmedian(ring[fitted]))
    known = splits[(dev | (splits["split"] == "excluded")) & np.isin(splits["row"], places)]
    by_row[BOOSTING] = _boosting(numbers, known, int(splits.loc[dev, "label"].iloc[0]))
    by_row[BOOSTING][~np.isin(np.arange(store.num_rows), places)] = np.nan
    asked = rows["row"].to_numpy()
    scores = {name: values[asked] for name, values in by_row.items()}
    for name, values in scores.items():
        seen = known["row"] if name == BOOSTING else fitted
        # What a baseline was fitted on it must not be judged by; no network is, either.
        values[np.isin(asked, seen)] = np.nan
    return scores


def explain_constant(splits: pd.DataFrame) -> dict[str, str]:
    """Return why a baseline may have one score for all rows."""
    known = int(splits["split"].isin(["dev", "excluded"]).sum())
    return {PCA_ERROR: ALIKE, NEIGHBOUR: ALIKE, RING: ALIKE, BOOSTING: explain_boosting(known)}


def fit_components(
    store: Store,
    fitted: npt.NDArray[np.integer],
    crop: int | None,
    places: npt.NDArray[np.integer],
) -> dict[str, Floats]:
    """Return relative error and whitened distance of some rows of a store, NaN of the others."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    some = np.sort(np.random.default_rng(0).permutation(fitted)[:MAX_FITTED])
    images = _small(store.read(some), crop)
    num = min(NUM_WHITENED, len(some) // 2, images.shape[1])
    pca = PCA(num, svd_solver="randomized", random_state=0).fit(images)
    scale = np.sqrt(pca.explained_variance_)
    near = NearestNeighbors(n_neighbors=1).fit(pca.transform(images) / scale)
    error, distance = np.full((2, store.num_rows), np.nan)
    for start in range(0, len(places), BLOCK_ROWS):
        block = places[start : start + BLOCK_ROWS]
        images = _small(store.read(block), crop)
        parts = pca.transform(images)
        distance[block] = near.kneighbors(parts / scale)[0][:, 0]
        kept = parts[:, :NUM_COMPONENTS]
        left = images - pca.mean_ - kept @ pca.components_[:NUM_COMPONENTS]
        energy = np.maximum((images**2).sum(axis=1), np.finfo(np.float64).tiny)
        error[block] = (left**2).sum(axis=1) / energy
    return {PCA_ERROR: error, NEIGHBOUR: distance}


def _small(images_NCHW: npt.NDArray[np.floating], crop: int | None) -> Floats:
    """Return the central squares, averaged down to at most MAX_SIDE_PX, as (n, P)."""
    height, width = images_NCHW.shape[2:]
    side = min(height, width, crop or height)
    factor = -(-side // MAX_SIDE_PX)
    side -= side % factor
    top, left = (height - side) // 2, (width - side) // 2
    cut = images_NCHW[:, :, top : top + side, left : left + side].astype(np.float64)
    small = side // factor
    blocks = cut.reshape(*cut.shape[:2], small, factor, small, factor).mean(axis=(3, 5))
    return np.asarray(blocks.reshape(len(blocks), -1))


def _boosting(numbers: Floats, known: pd.DataFrame, normal: int) -> Floats:
    """Return the probability of an anomaly of all rows, learnt from labelled rows."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    anomalous = (known["label"] != normal).to_numpy()
    if anomalous.all() or not anomalous.any():
        return np.full(len(numbers), np.nan)
    model = HistGradientBoostingClassifier(random_state=0)
    model.fit(numbers[known["row"].to_numpy()], anomalous)
    return np.asarray(model.predict_proba(numbers)[:, 1])
