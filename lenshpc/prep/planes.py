"""A large FITS image of two axes, read a strip of rows at a time."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.content import check_content, naming_defects, truncation_error
from lenshpc.prep.fits import check_packing, find_image, reading_strictly
from lenshpc.prep.fits_sums import check_sums
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.pixels import check_dtype, format_shape
from lenshpc.prep.skygrid import SkyGrid, read_grid
from lenshpc.run.extras import require

_MAX_GAIN = 2**11  # of any packing that is read here: a file may promise no more pixels


class Plane:
    """An open image (H,W)."""

    def __init__(self, path: str, units: Any, unit: Any, image: ImageFormat) -> None:
        from astropy.io import fits

        self.path, self._units, self._unit, self._image = path, units, unit, image
        self.is_packed = isinstance(unit, fits.CompImageHDU)
        # The rows of the tiles that it is packed in, each of which is unpacked once.
        self._step = unit.tile_shape[0] if self.is_packed else 1
        self._is_checked = False
        self._first, self._held = 0, np.empty((0, unit.shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Return (H,W)."""
        height, width = self._unit.shape
        return height, width

    def grid(self) -> SkyGrid:
        """Return how the pixels lie on the sky."""
        return read_grid(self.path, self._unit.header, self._units, self.shape)

    def rows(self, first: int, stop: int) -> NDArray[Any]:
        """Return some rows in the byte order of the file.

        Asked for from the top to the bottom, none is read twice; the last ones are held.
        """
        end = self._first + len(self._held)
        if first < self._first or stop > end:
            kept = self._held[max(first - self._first, 0) :]
            if first < self._first or not len(kept):
                kept, end = self._held[:0], first // self._step * self._step
            reach = min(-(-stop // self._step) * self._step, self.shape[0])
            more = self._read(end, reach)
            self._held = np.concatenate([kept, more]) if len(kept) else more
            self._first = reach - len(self._held)
        return self._held[first - self._first : stop - self._first]

    def _read(self, first: int, stop: int) -> NDArray[Any]:
        with naming_defects(self.path), reading_strictly():
            if not self._is_checked:
                self._check()
            found = np.asarray(self._unit.section[first:stop])
        check_dtype(self.path, found.dtype, self._image.dtype)
        return found

    def _check(self) -> None:
        """Raise on sums that do not fit, and parts that unpack to more than the image, once."""
        check_sums(self.path, self._unit, self._unit.fileinfo()["file"])
        if self.is_packed:
            with Path(self.path).open("rb") as stream:
                # Closed with its last view, which an error keeps.
                content = mmap(stream.fileno(), 0, access=ACCESS_READ)
            check_packing(self.path, self._unit, memoryview(content))
        self._is_checked = True


@contextmanager
def open_plane(path: str, image: ImageFormat) -> Iterator[Plane]:
    """Open the image of a FITS file that a dataset names; DataError where it is not of two axes."""
    require("fits", "FITS")
    from astropy.io import fits

    size = check_content(path, "fits")
    # By a stream, which is closed whatever astropy raises.
    with Path(path).open("rb") as stream:
        with naming_defects(path), reading_strictly():
            # Not mapped: what a file system fails to hand out would end the process by a signal.
            units = fits.open(stream, memmap=False)
            unit = find_image(path, list(units), image)
        _check_promise(path, unit, size)
        stream.seek(0)
        if stream.read(1) == b"S":  # of a file that is packed as a whole its own size tells nothing
            _check_size(path, unit, size)
        yield Plane(path, units, unit, image)


def _check_size(path: str, unit: Any, size: int) -> None:
    """Raise on a file that ends before its image does."""
    from astropy.io import fits

    place = unit.fileinfo()
    promised = place["datSpan"] if isinstance(unit, fits.CompImageHDU) else unit.size
    held = size - place["datLoc"]
    if promised > held:
        raise truncation_error(
            path, f": its header declares {promised} bytes, the file holds {held}"
        )


def _check_promise(path: str, unit: Any, size: int) -> None:
    """Raise on an image of other than two axes, and on one that its file cannot hold."""
    if len(unit.shape) != 2 or not math.prod(unit.shape):
        raise DataError(
            f"{path} has shape {format_shape(unit.shape)}, expected an image of two axes; "
            "set `image.hdu` to the HDU that holds one",
            cause="not an image of two axes",
        )
    if math.prod(unit.shape) > _MAX_GAIN * size:
        raise DataError(
            f"{path} declares {format_shape(unit.shape)} pixels in {size} bytes; copy it again",
            cause="damaged",
        )
