"""Make the cut-outs of a tile, a strip of it at a time, and keep them as a stack of images."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.kept import keep_file, state_of
from lenshpc.prep.planes import Plane, open_plane

Corners = NDArray[np.int32]  # (n,2): first column and first row of cut-outs

_BLOCK_BYTES = 2**25
_STRIP_ROWS = 256


@contextmanager
def open_tile(paths: Iterable[str], image: ImageFormat) -> Iterator[list[Plane]]:
    """Open the files of a tile, a channel each."""
    with ExitStack() as stack:
        yield [stack.enter_context(open_plane(path, image)) for path in paths]


def cut(planes: Sequence[Plane], image: ImageFormat, corners: Corners) -> Iterator[NDArray[Any]]:
    """Yield cut-outs (n,C,H,W) of a tile in blocks; `corners` are in the order of their rows.

    Pixels outside of the tile are NaN. Asked for more below the last ones, no row of the tile is
    read twice.
    """
    for block in _blocks(corners[:, 1], image):
        yield _cut_block(planes, image, corners[block])


class TileRows:
    """The cut-outs of a tile as the rows of a stack, cut when they are asked for."""

    def __init__(self, paths: Iterable[str], image: ImageFormat, corners: Corners) -> None:
        self._image, self._corners, stack = image, corners, ExitStack()
        self._planes = stack.enter_context(open_tile(paths, image))
        weakref.finalize(self, stack.close)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, in the order asked for."""
        order = np.argsort(rows, kind="stable")
        cutouts = np.empty((len(rows), *self._image.shape), self._image.dtype)
        start = 0
        for block in cut(self._planes, self._image, self._corners[rows[order]]):
            cutouts[order[start : start + len(block)]] = block
            start += len(block)
        return cutouts


def _blocks(rows: NDArray[np.int32], image: ImageFormat) -> Iterator[slice]:
    """Yield cut-outs that lie in one strip, and together need little memory."""
    most = max(1, _BLOCK_BYTES // (np.dtype(image.dtype).itemsize * int(np.prod(image.shape))))
    start = 0
    while start < len(rows):
        in_strip = int(np.searchsorted(rows, rows[start] + _STRIP_ROWS))
        stop = min(in_strip, start + most)
        yield slice(start, stop)
        start = stop


def _cut_block(planes: Sequence[Plane], image: ImageFormat, corners: Corners) -> NDArray[Any]:
    _, *size = image.shape
    sides = planes[0].shape[::-1]
    first = np.maximum(corners, 0)
    last = np.minimum(corners + size[::-1], sides)
    top, bottom = int(first[0, 1]), int(last[-1, 1])
    cutouts = np.empty((len(corners), *image.shape), image.dtype)
    cutouts[(last - first < size[::-1]).any(axis=1)] = np.nan
    places = np.concatenate([first, last, first - corners, last - corners], axis=1).tolist()
    for channel, plane in enumerate(planes):
        strip = plane.rows(top, bottom)
        for cutout, (x, y, right, low, into_x, into_y, to_x, to_y) in zip(
            cutouts[:, channel], places, strict=True
        ):
            cutout[into_y:to_y, into_x:to_x] = strip[y - top : low - top, x:right]
    return cutouts


def write_stack(
    path: Path, image: ImageFormat, num: int, blocks: Iterable[NDArray[Any]]
) -> dict[str, Any]:
    """Write blocks of images as one .npy file (num,C,H,W), whole or not at all; return its state.

    `is_kept` tells by it whether the file is still as it was written.
    """
    header = {
        "descr": npy.dtype_to_descr(np.dtype(image.dtype)),
        "fortran_order": False,
        "shape": (num, *image.shape),
    }
    with keep_file(path) as stream:
        npy.write_array_header_1_0(stream, header)
        for block in blocks:
            stream.write(block.data)
    return state_of(stream)
