"""Find copies: for each image the nearest other one, as it is and turned or mirrored."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from lenshpc.errors import DataError
from lenshpc.quality.survey import Floats, ImageStatistics, Pixels
from lenshpc.store import Store
from lenshpc.store.layout import SPLITS

Rows = NDArray[np.intp]

NUM_COMPONENTS = 64
NUM_CHECKED = 500  # candidates that are looked at in full resolution, for each comparison
NUM_CLOSEST = 6
NUM_DRAWN = 4096
PAIRS_READ = 32
NOISE_MARGIN = 1.2
COPY_DISTANCE = 0.02  # a copy saved again at another precision or JPEG quality stays below
COPY_FRACTION = 0.25
TURNS = (
    "as it is",
    "turned by 90°",
    "turned by 180°",
    "turned by 270°",
    "mirrored left to right",
    "mirrored, turned by 90°",
    "mirrored top to bottom",
    "mirrored, turned by 270°",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestNeighbours:
    """The images of one split against those of another, or of the same.

    `distances` (n,) are those of the nearest image as it is; `num_identical` have the same pixels
    as another, `num_near` and `num_turned` copies are confirmed in full resolution. `closest` has a
    line a pair that was looked at, the closest first: row, nearest, turn, distance, residual,
    noise, rms and max_difference (in the pixels' own units), is_copy.
    """

    query: str
    reference: str
    distances: Floats
    num_identical: int
    num_near: int
    num_turned: int
    num_candidates: int
    closest: pd.DataFrame

    @property
    def across(self) -> bool:
        """Return whether two splits are compared, so that a copy is a leak."""
        return self.query != self.reference


@dataclass(frozen=True, kw_only=True, eq=False)
class Copies:
    """All comparisons; distances are relative to the image's own contrast, see `unit_images`."""

    threshold: float
    random_distance: float
    comparisons: tuple[NearestNeighbours, ...]


def find_copies(store: Store, survey: ImageStatistics) -> Copies:
    """Compare every split with itself and the others; constant or NaN images are left out."""
    num_usable = int(survey.usable.sum())
    if num_usable < 2:
        raise DataError(
            f"{store.path} has {num_usable} images that are neither constant nor NaN; "
            "a quality report needs 2"
        )
    rows = {split: np.flatnonzero(survey.usable & store.in_split(split)) for split in SPLITS}
    search = _Search(survey)
    nearest = {
        (query, reference): search.nearest(rows[query], rows[reference])
        for reference, query in combinations_with_replacement(SPLITS, 2)
        if len(rows[query]) and len(rows[reference]) > (query == reference)
    }
    threshold = _threshold(next(iter(nearest.values())))
    return Copies(
        threshold=threshold,
        random_distance=search.random_distance(),
        comparisons=tuple(
            _compare(store, survey, (query, reference), found, threshold)
            for (query, reference), found in nearest.items()
        ),
    )


def _threshold(found: pd.DataFrame) -> float:
    """Return the distance below which two images may be copies.

    In a set of d degrees of freedom, that of unrelated images which come nearer than a fraction f
    of the median nearest distance is about 0.7 f^d: for a quarter and d = 6 one in 6,000.
    """
    plain = found.loc[found["turn"] == 0, "distance"]
    return max(COPY_DISTANCE, COPY_FRACTION * float(plain.median()))


def unit_images(images: Pixels) -> Pixels:
    """Return images (n,C,H,W) flat, of mean 0 and length 1: brightness and contrast drop out.

    The distance of two is sqrt(2 - 2 r) with r their correlation.
    """
    flat = images.reshape(len(images), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(length > 0, length, 1))


def turn_images(images: Pixels, turn: int) -> Pixels:
    """Return images (…,H,W) under one of the eight symmetries of the square, see `TURNS`."""
    mirrored = images[..., ::-1] if turn >= 4 else images
    return np.rot90(mirrored, turn % 4, axes=(-2, -1))


def possible_turns(shape: Sequence[int]) -> list[int]:
    """Return the turns that keep height and width."""
    return [turn for turn in range(len(TURNS)) if turn % 2 == 0 or shape[-1] == shape[-2]]


class _Search:
    """Nearest neighbours in the principal components of the descriptors."""

    def __init__(self, survey: ImageStatistics) -> None:
        self._small = survey.descriptors
        self._unit = unit_images(self._small)
        self._usable = np.flatnonzero(survey.usable)
        known = self._unit[self._usable]
        self._components = PCA(min(NUM_COMPONENTS, *known.shape), svd_solver="covariance_eigh")
        self._components.fit(known)

    def nearest(self, query: Rows, reference: Rows) -> pd.DataFrame:
        """Return row, nearest, turn and distance: a line a query row and possible turn.

        A row is never its own neighbour.
        """
        model = NearestNeighbors(n_neighbors=min(2, len(reference)), algorithm="brute")
        model.fit(self._project(self._unit[reference]))
        found = []
        for turn in possible_turns(self._small.shape):
            turned = unit_images(turn_images(self._small[query], turn))
            near = reference[model.kneighbors(self._project(turned), return_distance=False)]
            other = np.where(near[:, 0] == query, near[:, -1], near[:, 0])
            distance = np.linalg.norm(turned - self._unit[other], axis=1)
            columns = {"row": query, "nearest": other, "turn": turn, "distance": distance}
            found.append(pd.DataFrame(columns))
        return pd.concat(found, ignore_index=True)

    def random_distance(self) -> float:
        """Return the median distance of two images drawn at random."""
        drawn = np.random.default_rng(0).choice(self._usable, (2, NUM_DRAWN))
        first, second = drawn[:, drawn[0] != drawn[1]]
        return float(np.median(np.linalg.norm(self._unit[first] - self._unit[second], axis=1)))

    def _project(self, unit: Pixels) -> Pixels:
        return np.asarray(self._components.transform(unit), dtype=np.float32)


def _compare(
    store: Store,
    survey: ImageStatistics,
    pair: tuple[str, str],
    found: pd.DataFrame,
    threshold: float,
) -> NearestNeighbours:
    hashes = survey.pixel_hash
    best = _best(found, threshold, within=pair[0] == pair[1])
    identical = hashes[best["row"]] == hashes[best["nearest"]]
    near = best[~identical & (best["distance"] <= threshold)]
    others = best[~identical].head(max(NUM_CLOSEST, min(NUM_CHECKED, len(near))))
    closest = _measure(store, pd.concat([best[identical].head(NUM_CLOSEST), others]), threshold)
    other = (closest["max_difference"] > 0) | (closest["turn"] > 0)
    copies = closest[closest["is_copy"] & other]
    return NearestNeighbours(
        query=pair[0],
        reference=pair[1],
        distances=found.loc[found["turn"] == 0, "distance"].to_numpy(),
        num_identical=_num_images(best[identical], pair),
        num_near=_num_images(copies[copies["turn"] == 0], pair),
        num_turned=_num_images(copies[copies["turn"] > 0], pair),
        num_candidates=len(near),
        closest=closest,
    )


def _best(found: pd.DataFrame, threshold: float, *, within: bool) -> pd.DataFrame:
    """Return a line a row: its nearest neighbour; one as it is goes before a turned one."""
    plain = (found["turn"] == 0) & (found["distance"] <= threshold)
    order = found.assign(turned=~plain).sort_values(["turned", "distance"], kind="stable")
    best = order.drop_duplicates("row").drop(columns="turned").sort_values("distance")
    if within:  # a and b, b and a
        ends = np.sort(best[["row", "nearest"]].to_numpy(), axis=1)
        best = best[~pd.DataFrame(ends).duplicated().to_numpy()]
    return best.reset_index(drop=True)


def _num_images(pairs: pd.DataFrame, pair: tuple[str, str]) -> int:
    """Return how many images of the query split are copies: both of a pair within one split."""
    columns = ["row", "nearest"] if pair[0] == pair[1] else ["row"]
    return len(np.unique(pairs[columns].to_numpy()))


def _measure(store: Store, pairs: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return the pairs with what differs in full resolution, in the pixels' own units."""
    columns = ("residual", "noise", "rms", "max_difference")
    values = np.empty((len(pairs), len(columns)))
    for start in range(0, len(pairs), PAIRS_READ):
        part = pairs.iloc[start : start + PAIRS_READ]
        second = store.read(part["nearest"].to_numpy())
        turned = zip(store.read(part["row"].to_numpy()), part["turn"], strict=True)
        first = np.stack([turn_images(image, turn) for image, turn in turned])
        values[start : start + len(part)] = _differences(first, second, store.scale)
    measured = pairs.assign(**dict(zip(columns, values.T, strict=True)))
    limit = np.hypot(threshold, NOISE_MARGIN * measured["noise"])
    copy = (measured["distance"] <= threshold) & (measured["residual"] <= limit)
    return measured.assign(is_copy=copy).sort_values("residual", ignore_index=True)


def _differences(first: Pixels, second: Pixels, scale: float) -> Floats:
    """Return residual, noise, root mean square and maximum of the difference: (n,4)."""
    difference = (first - second).reshape(len(first), -1) / scale
    units = [unit_images(images) for images in (first, second)]
    noises = [noise_level(unit.reshape(first.shape)) * np.sqrt(unit.shape[1]) for unit in units]
    return np.stack(
        [
            np.linalg.norm(units[0] - units[1], axis=1),
            np.hypot(*noises),
            np.sqrt(np.square(difference).mean(axis=1)),
            np.abs(difference).max(axis=1),
        ],
        axis=1,
    )


def noise_level(images: Pixels) -> Floats:
    """Return the noise (n,) of images (n,C,H,W) by their second differences in x and y.

    Immerkaer 1996, CVIU 64, 300: structure on scales of several pixels drops out.
    """
    curvature = np.diff(np.diff(images, n=2, axis=-1), n=2, axis=-2)
    return np.asarray(np.sqrt(np.pi / 2) / 6 * np.abs(curvature).mean(axis=(1, 2, 3)))
