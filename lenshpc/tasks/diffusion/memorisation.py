"""Has a generator learnt its training images by heart? Distances to the nearest of them.

Shapes: n generated or held-out images, N training images, P pixels of a small image.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lenshpc.data.decoded import Decoded
from lenshpc.statistics.frechet import Floats

Rows = npt.NDArray[np.int64]

MAX_SIDE_PX = 32
NUM_QUERIES = 512
BLOCK_ROWS = 2048
QUANTILE = 0.05


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Of each image the nearest training row, in any of the eight turns, and how far it is (n,).

    Distances are root mean squares over the pixels of images of at most 32 px, in store's units.
    """

    distance: Floats
    row: Rows


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Generated images beside held-out real ones, both against the training rows."""

    num_training: int
    generated: Nearest
    held_out: Nearest

    @property
    def ratio(self) -> float:
        """Return the generated images' median distance over the held-out ones'."""
        return float(np.median(self.generated.distance) / np.median(self.held_out.distance))

    @property
    def share_close(self) -> float:
        """Return the part of generated images closer than 5 % of held-out ones are."""
        bound = np.quantile(self.held_out.distance, QUANTILE)
        return float((self.generated.distance < bound).mean())


def measure_memorisation(
    generated: Floats, held_out: Floats, training: Rows, images: Decoded
) -> Memorisation:
    """Return the nearest training rows of the first images (n, C, H, W) of both sets."""
    num = min(NUM_QUERIES, len(generated), len(held_out))
    small = np.concatenate([_small(one[:num]) for one in (generated, held_out)])
    found = _nearest(small, training, images)
    return Memorisation(
        num_training=len(training),
        generated=Nearest(distance=found.distance[:num], row=found.row[:num]),
        held_out=Nearest(distance=found.distance[num:], row=found.row[num:]),
    )


def _nearest(small: Floats, training: Rows, images: Decoded) -> Nearest:
    """Return the nearest of the training rows, which are read block by block."""
    turned = [one.reshape(len(small), -1) for one in _turns(small)]
    best = np.full(len(small), np.inf)
    rows = np.full(len(small), -1)
    for start in range(0, len(training), BLOCK_ROWS):
        block = np.sort(training)[start : start + BLOCK_ROWS]
        there = _small(images.images(block)).reshape(len(block), -1)
        norms = (there**2).sum(axis=1)
        for queries in turned:
            # float64, since near copies are differences of large equal numbers; rounding below 0 is
            # cut at the end.
            square = (queries**2).sum(axis=1)[:, None] + norms - 2 * queries @ there.T
            at = square.argmin(axis=1)
            least = square[np.arange(len(at)), at]
            closer = least < best
            best[closer], rows[closer] = least[closer], block[at[closer]]
    distance = np.sqrt(best.clip(min=0) / turned[0].shape[1])
    return Nearest(distance=distance, row=rows)


def _small(images: Floats) -> Floats:
    """Return the mean over channels (n, h, w), averaged down to 32 px a side at most."""
    grey = images.mean(axis=1, dtype=np.float32)
    height, width = (min(side, MAX_SIDE_PX) for side in grey.shape[1:])
    resized = [cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in grey]
    return np.stack(resized).astype(np.float64)


def _turns(small: Floats) -> list[Floats]:
    """Return the images in their eight turns; those that are not square in their four flips."""
    flips = [small, small[:, ::-1], small[:, :, ::-1], small[:, ::-1, ::-1]]
    square = small.shape[1] == small.shape[2]
    return [*flips, *(one.swapaxes(1, 2) for one in flips)] if square else flips
