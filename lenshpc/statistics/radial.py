"""Few numbers of an image that need no network: its median pixel, and seven of its radial profile.

Shapes: n images, C channels, H by W pixels, P = H * W, R radial bins of one pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lenshpc.statistics.results import Floats, Labels
from lenshpc.store import Store

RADIAL_NUMBERS = (
    "centre",
    "ring_radius_px",
    "ring_height",
    "ring_width_px",
    "inner_slope",
    "outer_slope",
    "total",
)
RING_RADIUS = RADIAL_NUMBERS.index("ring_radius_px")
CENTRE_PX = 3  # radius of what counts as the centre
BLOCK_VALUES = 4_000_000  # pixels held at a time
MAX_IMAGES = 100_000  # that baselines see of a store
SAMPLE_NOTE = (
    f"Baselines use {MAX_IMAGES:,} images of the store, in whole chunks chosen at random, for "
    "both fitting and scoring."
)

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ImageNumbers:
    """The median of all pixels (n,) and the radial numbers (n, 7) of some rows of a store."""

    median: Floats
    radial: Floats


def read_image_numbers(
    store: Store, rows: Labels, progress: Progress = lambda _: None
) -> ImageNumbers:
    """Return the numbers of the images of some rows of a store (n,), read block by block."""
    values_per_row = int(np.prod(store.image_shape))
    step = store.chunk_rows * max(1, BLOCK_VALUES // (values_per_row * store.chunk_rows))
    median, radial = np.empty(len(rows)), np.empty((len(rows), len(RADIAL_NUMBERS)))
    for start in range(0, len(rows), step):
        block = slice(start, min(start + step, len(rows)))
        images = store.read(rows[block])
        median[block] = np.median(images.reshape(len(images), -1), axis=1)
        radial[block] = radial_numbers(images)
        progress(f"measured {block.stop} of {len(rows)} images for the baselines")
    return ImageNumbers(median=median, radial=radial)


def choose_rows(store: Store) -> Labels:
    """Return the rows (n,), ascending, that baselines see: all, or `MAX_IMAGES` in whole chunks.

    The chunks are chosen at random, so that no image is read which is not asked for.
    """
    rows = np.arange(store.num_rows)
    if len(rows) <= MAX_IMAGES:
        return rows
    num_chunks = -(-len(rows) // store.chunk_rows)
    order = np.random.default_rng(0).permutation(num_chunks)
    chosen = np.zeros(num_chunks, bool)
    chosen[order[: MAX_IMAGES // store.chunk_rows]] = True
    return rows[chosen[rows // store.chunk_rows]]


def radial_numbers(images_NCHW: npt.NDArray[np.floating]) -> Floats:
    """Return the `RADIAL_NUMBERS` (n, 7) of the channels' mean.

    They are of the azimuthal mean p(r) above the sky, which is the median of the outermost tenth of
    radii. The ring is the peak of the flux a unit of radius, r p(r): for an image without light in
    the centre the peak of the profile, but not drowned by a bright lens. Its height is p there; its
    width the deviation of r from it, weighted by the flux within half its radius; the slopes are
    those of the chords from half to once and from once to one and a half times its radius. The
    centre is the mean p within 3 px, the total the mean pixel.
    """
    # float64: slopes are small differences of means over many pixels.
    mean = images_NCHW.mean(axis=1, dtype=np.float64)
    profile = radial_profile(mean)
    num_bins = profile.shape[1]
    sky = np.median(profile[:, -max(1, num_bins // 10) :], axis=1, keepdims=True)
    above, radii = profile - sky, np.arange(num_bins) + 0.5
    peak = np.argmax(radii * above, axis=1)
    ring = radii[peak]
    height = above[np.arange(len(above)), peak]
    inner, outer = (_at(above, ring * factor) for factor in (0.5, 1.5))
    near = np.abs(radii - ring[:, None]) <= ring[:, None] / 2
    flux = np.where(near, radii * np.maximum(above, 0), 0)
    square = (flux * (radii - ring[:, None]) ** 2).sum(axis=1)
    width = np.sqrt(square / np.maximum(flux.sum(axis=1), np.finfo(float).tiny))
    centre = above[:, :CENTRE_PX].mean(axis=1)
    slopes = (height - inner) / (ring / 2), (outer - height) / (ring / 2)
    return np.stack([centre, ring, height, width, *slopes, mean.mean(axis=(1, 2))], axis=1)


def radial_profile(images_NHW: npt.NDArray[np.floating]) -> Floats:
    """Return the azimuthal mean (n, R) in rings of one pixel, out to the nearer edge."""
    height, width = images_NHW.shape[1:]
    y, x = np.indices((height, width))
    radius = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2).astype(int).ravel()
    # Sorted by ring once, for one pass of reduceat over all images.
    order = np.argsort(radius, kind="stable")
    counts = np.bincount(radius)[: max(1, min(height, width) // 2)]
    starts = np.append(0, np.cumsum(counts)[:-1])
    pixels = images_NHW.reshape(len(images_NHW), -1)[:, order[: counts.sum()]]
    return np.asarray(np.add.reduceat(pixels, starts, axis=1) / counts)


def _at(profile: Floats, radii: Floats) -> Floats:
    """Return the profile (n, R) at a radius an image (n,), linear between the bins' middles."""
    place = np.clip(radii - 0.5, 0, profile.shape[1] - 1)
    lower = np.minimum(place.astype(int), max(profile.shape[1] - 2, 0))
    upper = np.minimum(lower + 1, profile.shape[1] - 1)
    rows, part = np.arange(len(profile)), place - lower
    return np.asarray(profile[rows, lower] * (1 - part) + profile[rows, upper] * part)
