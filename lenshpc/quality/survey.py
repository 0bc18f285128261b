"""Survey a store in one pass: a few numbers for each image, and the mean image of each class.

Shape suffixes: n images of a block, C channels, H by W pixels, P = H * W pixels, B radial bins.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lenshpc.store import Store

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]
Flags = NDArray[np.bool_]

BIN_PX = 5  # width of a radial bin
DESCRIPTOR_SIDE = 16
BORDER_PX = 2
BLOCK_BYTES = 2**24
MAX_SAMPLES = 2**22  # pixels kept for the quantiles, 16 MB
MIN_SAMPLES = 64  # of each image and channel


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageStatistics:
    """What one pass found, in the order of the store's N rows.

    `minimum`, `maximum` and `at_maximum` (the share of pixels that are equal to the maximum) are
    (N,C); `samples` (N,C,s) are pixels drawn from each image; `profiles` (N,C,B) are means over
    rings of 5 pixels; `ellipticity` (N,2) has e1 and e2 of the flux-weighted second moments, y
    pointing up when row 0 is drawn at the top; `descriptors` (N,C,16,16) are block means;
    `features` has a column a statistic; `mean_images` is (K,C,H,W).
    """

    finite: Flags
    minimum: Pixels
    maximum: Pixels
    at_maximum: Pixels
    samples: Pixels
    profiles: Floats
    ellipticity: Floats
    descriptors: Pixels
    pixel_hash: NDArray[np.object_]
    features: pd.DataFrame
    mean_images: Floats

    @property
    def constant(self) -> Flags:
        """Return which images have one value only in every channel."""
        flat: Flags = (self.minimum == self.maximum).all(axis=1)
        return self.finite & flat

    @property
    def usable(self) -> Flags:
        """Return which images say something: finite, not constant."""
        return self.finite & ~self.constant


def survey(store: Store, progress: Callable[[int, int], None]) -> ImageStatistics:
    """Read every image once, in blocks, and return what there is to know of them."""
    view = _View(*store.image_shape, num_samples=_num_samples(store))
    labels = store.column("label")
    sums = np.zeros((len(store.classes), *store.image_shape))
    parts = []
    for block in list_blocks(store):
        images = store.read(block)
        finite = np.isfinite(images).all(axis=(1, 2, 3))
        images[~finite] = 0
        parts.append({"finite": finite, **view.measure(images)})
        for label in range(len(sums)):
            sums[label] += images[labels[block] == label].sum(axis=0, dtype=np.float64)
        progress(block.stop, store.num_rows)
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    counts = np.bincount(labels[found["finite"] & (labels >= 0)], minlength=len(sums))
    return ImageStatistics(
        mean_images=sums / np.maximum(counts, 1)[:, None, None, None],
        features=_features(store, found),
        **{name: found[name] for name in ImageStatistics.__dataclass_fields__ if name in found},
    )


def _num_samples(store: Store) -> int:
    channels, height, width = store.image_shape
    wanted = max(MIN_SAMPLES, MAX_SAMPLES // (store.num_rows * channels))
    return min(height * width, wanted)


def list_blocks(store: Store) -> Iterator[slice]:
    """Yield the rows of a store in blocks of whole chunks that fit into some megabytes."""
    image_bytes = 4 * int(np.prod(store.image_shape))
    rows = max(1, BLOCK_BYTES // image_bytes // store.chunk_rows) * store.chunk_rows
    for start in range(0, store.num_rows, rows):
        yield slice(start, min(start + rows, store.num_rows))


def _features(store: Store, found: dict[str, Any]) -> pd.DataFrame:
    """Return the statistics that could give a class away, a column each."""
    several = len(store.channels) > 1
    columns = {
        f"{name} of {channel}" if several else name: found[name][:, at]
        for name in ("mean", "median", "maximum", "std", "corner mean")
        for at, channel in enumerate(store.channels)
    }
    shapes = {
        "concentration": found["concentration"],
        "ellipticity": np.hypot(*found["ellipticity"].T),
        "elongation along x against y": found["ellipticity"][:, 0],
        "elongation along the diagonals": found["ellipticity"][:, 1],
    }
    return pd.DataFrame(columns | shapes)


@dataclass(frozen=True)
class _View:
    """Where pixels lie in an image of C by H by W, and what is measured there."""

    channels: int
    height: int
    width: int
    num_samples: int

    def measure(self, images: Pixels) -> dict[str, NDArray[Any]]:
        """Return name → values of each of the images (n,C,H,W)."""
        pixels = images.reshape(*images.shape[:2], -1)
        highest = pixels.max(axis=2)
        signal = self._signal(pixels.mean(axis=1))
        moments = signal @ self._powers
        return {
            "minimum": pixels.min(axis=2),
            "maximum": highest,
            "at_maximum": (pixels == highest[..., None]).mean(axis=2, dtype=np.float32),
            "samples": pixels[..., self._sampled],
            "mean": pixels.mean(axis=2, dtype=np.float64),
            "median": np.median(pixels, axis=2),
            "std": pixels.std(axis=2, dtype=np.float64),
            "corner mean": pixels[..., self._corners].mean(axis=2),
            "profiles": (pixels @ self._rings).astype(np.float64),
            "ellipticity": _ellipticity(moments),
            "concentration": _share(signal[:, self._inner].sum(axis=1), moments[:, 0]),
            "descriptors": block_means(images),
            "pixel_hash": np.array([_hash(image) for image in images], dtype=object),
        }

    def _signal(self, flux: Pixels) -> Floats:
        """Return flux (n,P) above the border's median by three deviations, in the inner circle."""
        low, background, high = np.percentile(flux[:, self._border], [16, 50, 84], axis=1)
        above = flux - background[:, None]
        clear = above > 1.5 * (high - low)[:, None]  # high - low is two deviations
        return np.where(clear & (self._radius < min(self.height, self.width) / 2), above, 0.0)

    @cached_property
    def _grid(self) -> Floats:
        row, column = np.mgrid[: self.height, : self.width].reshape(2, -1)
        return np.stack([column - (self.width - 1) / 2, (self.height - 1) / 2 - row])

    @cached_property
    def _radius(self) -> Floats:
        return np.asarray(np.hypot(*self._grid))

    @cached_property
    def _powers(self) -> Floats:
        x, y = self._grid
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    @cached_property
    def _rings(self) -> Pixels:
        """Return the matrix (P,B) that takes the mean over each ring."""
        ring = (self._radius / BIN_PX).astype(int)
        num_rings = max(1, min(self.height, self.width) // 2 // BIN_PX)
        member = ring[:, None] == np.arange(num_rings)
        return np.asarray(member / np.maximum(member.sum(axis=0), 1), dtype=np.float32)

    @cached_property
    def _inner(self) -> Flags:
        return np.asarray(self._radius < min(self.height, self.width) / 8)

    @cached_property
    def _border(self) -> Flags:
        return self._within(BORDER_PX, BORDER_PX, any_side=True)

    @cached_property
    def _corners(self) -> Flags:
        return self._within(max(1, self.height // 10), max(1, self.width // 10), any_side=False)

    def _within(self, rows: int, columns: int, *, any_side: bool) -> Flags:
        row, column = np.arange(self.height), np.arange(self.width)
        near_row = (row < rows) | (row >= self.height - rows)
        near_column = (column < columns) | (column >= self.width - columns)
        join = np.logical_or if any_side else np.logical_and
        return np.asarray(join.outer(near_row, near_column).ravel())

    @cached_property
    def _sampled(self) -> NDArray[np.intp]:
        num_pixels = self.height * self.width
        drawn = np.random.default_rng(0).permutation(num_pixels)[: self.num_samples]
        return np.sort(drawn)


def block_means(images: Pixels, side: int = DESCRIPTOR_SIDE) -> Pixels:
    """Return images (n,C,H,W) at `side` by `side` pixels, or at their own if that is less.

    Each pixel is the mean over its area, so that turning before or after makes no difference.
    """
    down, across = (_area_weights(length, side) for length in images.shape[2:])
    return np.asarray(down @ images @ across.T)


def _area_weights(length: int, side: int) -> Pixels:
    side = min(side, length)
    edges = np.linspace(0, length, side + 1)
    start = np.arange(length)
    overlap = np.minimum(edges[1:, None], start + 1) - np.maximum(edges[:-1, None], start)
    return np.asarray(np.maximum(overlap, 0) * side / length, dtype=np.float32)


def _ellipticity(moments: Floats) -> Floats:
    """Return e1 = (xx - yy) / (xx + yy) and e2 = 2 xy / (xx + yy) about the centroid: (n,2)."""
    total, *raw = moments.T
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y, xx, yy, xy = (one / total for one in raw)
        xx, yy, xy = xx - x * x, yy - y * y, xy - x * y
        return np.asarray(np.stack([xx - yy, 2 * xy], axis=1) / (xx + yy)[:, None])


def _share(part: Floats, whole: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return part / whole


def _hash(image: Pixels) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
