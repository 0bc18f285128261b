"""A store's images, targets or masks as they are held in memory, cropped and resized."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import zarr

from lenshpc.run.sections import Data
from lenshpc.store import Store, pixel_scale

Images = npt.NDArray[np.generic]
Array = Literal["images", "targets", "masks"]


@dataclass(frozen=True)
class Decoded:
    """What all ways of loading agree on: shape, dtype and pixels of every row.

    Images are held as whole bytes or float32; masks are bytes that are 0 or 1, cropped and resized
    as their images are.
    """

    store: Store
    settings: Data
    array: Array = "images"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return one image's (C, H, W)."""
        return self._held[0]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Return uint8, or float32."""
        return np.dtype(self._held[1])

    @property
    def scale(self) -> float:
        """Return the factor that turns the pixels into the floats that models see."""
        return self._stored_scale if self.dtype == np.uint8 else 1.0

    @property
    def _stored(self) -> zarr.Array[Any]:
        return self.store.chunks[self.array].array

    @property
    def _stored_scale(self) -> float:
        return pixel_scale(self._stored.dtype.name)

    @property
    def _held(self) -> tuple[tuple[int, int, int], str]:
        _, channels, height, width = self._stored.shape
        settings = Data() if self.array == "targets" else self.settings
        shape, dtype = settings.in_memory((channels, height, width), self._stored.dtype.name)
        return shape, "uint8" if self.array == "masks" else dtype

    @property
    def image_bytes(self) -> int:
        """Return the bytes of one image."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Return the bytes of all images."""
        return self.store.num_rows * self.image_bytes

    @property
    def num_chunks(self) -> int:
        """Return how many chunks hold the images."""
        return -(-self.store.num_rows // self.store.chunk_rows)

    def images(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return images (n, C, H, W), cropped and resized, in the store's units."""
        held = self.as_held(self.store.read_raw(rows)).astype(np.float32)
        return np.asarray(held * np.float32(self.scale))

    def read_chunks(
        self, chunks: Iterable[int], places: Iterable[Images | None] = repeat(None)
    ) -> Iterator[Images]:
        """Yield the images (n, C, H, W) of each chunk, to be used before the next is asked for.

        A whole chunk that is held `as_stored` may be decoded right into its place.
        """
        stored = self.store.chunks[self.array]
        scratch = stored.scratch()
        for chunk, place in zip(chunks, places, strict=False):
            yield self.as_held(stored.read(chunk, scratch, place))

    @property
    def as_stored(self) -> bool:
        """Return whether the images are held in memory as they lie in the store."""
        return (self.shape, self.dtype) == (self._stored.shape[1:], self._stored.dtype)

    def as_held(self, stored: npt.NDArray[Any]) -> Images:
        """Return stored images (n, C, H, W) cropped and resized, bytes or float32."""
        crop = None if self.array == "targets" else self.settings.crop
        # Cropped before it is resized: the crop is in pixels of the store, and what lies outside
        # must not be averaged into the edge.
        part = stored if crop is None else middle(stored, crop)
        if self.array == "masks":
            return _resize_masks(part, self.shape[1:])
        if self.dtype == np.uint8:
            return part
        # Brought to floats before resizing: OpenCV would round bytes again.
        pixels = part.astype(np.float32, copy=False)
        if self._stored_scale != 1:
            pixels = pixels * np.float32(self._stored_scale)
        return _resize(pixels, self.shape[1:])


def middle(block: Any, side: int) -> Any:
    """Return the middle (n, C, side, side) of (n, C, H, W) images, numpy's or torch's alike."""
    top, left = ((length - side) // 2 for length in block.shape[2:])
    return block[:, :, top : top + side, left : left + side]


def choose_interpolation(before: int, after: int) -> int:
    """Return OpenCV's way from one height to another: area means down, cubic splines up."""
    # Area means keep the flux when an image shrinks; cubic splines would alias.
    return cv2.INTER_AREA if after < before else cv2.INTER_CUBIC


def choose_mask_interpolation(before: int, after: int) -> int:
    """Return OpenCV's way to masks: area means down, whose parts count all, the nearest up."""
    return cv2.INTER_AREA if after < before else cv2.INTER_NEAREST_EXACT


def resizing_matrix(before: int, after: int, how: int) -> npt.NDArray[np.float32]:
    """Return what takes (before,) pixels to (after,): OpenCV's own answers to unit images."""
    # One axis at a time: the other keeps its length, and so its pixels.
    unit = np.eye(before, dtype=np.float32)
    return np.ascontiguousarray(cv2.resize(unit, (after, before), interpolation=how).T)


def _resize_masks(block: Images, sides: tuple[int, ...]) -> Images:
    """Return masks (n, C, *sides), 1 where any filled pixel has a part in the new one."""
    before = block.shape[2:]
    if before == sides:
        return block
    # Products with matrices, as in a network's program: the two must agree on every pixel.
    how = choose_mask_interpolation(before[0], sides[0])
    rows, columns = (resizing_matrix(*pair, how) for pair in zip(before, sides, strict=True))
    return (rows @ block.astype(np.float32) @ columns.T > 0).astype(np.uint8)


def _resize(block: npt.NDArray[np.float32], sides: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return (n, C, *sides) images: area means down, cubic splines up."""
    if block.shape[2:] == sides:
        return block
    height, width = sides
    how = choose_interpolation(block.shape[2], height)
    planes = [cv2.resize(p, (width, height), interpolation=how) for p in np.concatenate(block)]
    return np.stack(planes).reshape(*block.shape[:2], height, width)
