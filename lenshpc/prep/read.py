"""Read one source to pixels and hash; every defect is one error that names the file."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.content import naming_defects, read_content
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.fits import fits_pixels
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.npy import npy_header, npy_pixels
from lenshpc.prep.picture import picture_pixels
from lenshpc.prep.pixels import check_dtype, check_shape, check_values, format_shape, orient
from lenshpc.prep.scan import ScannedImage
from lenshpc.prep.stacks import Rows, open_rows
from lenshpc.prep.truth import Numbers, read_truth
from lenshpc.prep.unpickle import unwrap

# A file may be this much larger than its pixels as float128: headers, tables, other images.
_MARGIN_BYTES = 2**20
_MAX_OPEN_STACKS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceImage:
    """The pixels (C,H,W) in the store's dtype, and the bytes that they came from.

    `sha256` is of the file's bytes, of image then target, or of a row's pixels as stored; `values`
    has one number for each of the dataset's columns, NaN where the source has none.
    """

    pixels: NDArray[Any]
    target: NDArray[Any] | None
    values: Mapping[str, float]
    sha256: bytes
    num_bytes: int


class SourceReader:
    """Reads the sources of a dataset; picklable, for use in worker processes."""

    def __init__(
        self,
        dataset: Dataset,
        root: Path,
        *,
        allow_pickle: bool = False,
        scratch: Path | None = None,
    ) -> None:
        self._dataset, self._root = dataset, str(root)
        self._allow_pickle, self._scratch = allow_pickle, scratch
        self._blank = dict.fromkeys(dataset.columns, math.nan)
        self._stacks: dict[tuple[str, str | None], Rows] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the open files, which stay in their process."""
        return {**self.__dict__, "_stacks": {}}

    def read(self, source: ScannedImage) -> SourceImage:
        """Return the image of a source, and its target where the dataset has pairs."""
        column = self._dataset.classes[source.label].pickled
        pixels, stored, number = self._part(source.file, source.index, self._dataset.image, column)
        digest, num_bytes, target = hashlib.sha256(stored), len(stored), None
        if source.partner is not None and self._dataset.target is not None:
            target, stored, _ = self._part(source.partner, source.index, self._dataset.target, None)
            # Image, then target, always: the order is part of every hash that stores hold.
            digest.update(stored)
            num_bytes += len(stored)
        return SourceImage(
            pixels=pixels,
            target=target,
            values=self._values(source, column, number),
            sha256=digest.digest(),
            num_bytes=num_bytes,
        )

    def digest(self, source: ScannedImage) -> bytes:
        """Return the `sha256` that `read` gives; a file of its own is not decoded for it."""
        digest = hashlib.sha256(self._read_stored(source.file, source.index, self._dataset.image))
        if source.partner is not None and self._dataset.target is not None:
            digest.update(self._read_stored(source.partner, source.index, self._dataset.target))
        return digest.digest()

    def _read_stored(self, file: str, row: int | None, image: ImageFormat) -> bytes:
        path = f"{self._root}/{file}"
        if row is None:
            return _content(path, image)
        stored: bytes = self._rows(path, image)[row].tobytes()
        return stored

    def _values(
        self, source: ScannedImage, column: str | None, number: float
    ) -> Mapping[str, float]:
        """Return what is known of an image: by the file of truth, and pickled beside its pixels."""
        known = {**self._blank, **self._truth.get(source.id, {})}
        return {**known, column: number} if column else known

    @cached_property
    def _truth(self) -> Numbers:
        return read_truth(Path(self._root), self._dataset.truth)

    def _part(
        self, file: str, row: int | None, image: ImageFormat, column: str | None
    ) -> tuple[NDArray[Any], bytes, float]:
        """Return checked pixels (C,H,W), the bytes that they came from, and the pickled number."""
        path, number = f"{self._root}/{file}", math.nan
        if row is None:
            stored = _content(path, image)
            with naming_defects(path):
                pixels, number = self._decode(path, stored, image, column)
        else:
            with naming_defects(path):
                pixels = np.asarray(self._rows(path, image)[row])
            path, stored = f"{path}#{row}", pixels.tobytes()
        # Before `oriented`, whose cast would hide a loss or an infinity.
        check_dtype(path, pixels.dtype, image.dtype)
        check_values(path, pixels)
        return orient(pixels, image), stored, number

    def _decode(
        self, path: str, content: bytes, image: ImageFormat, column: str | None
    ) -> tuple[NDArray[Any], float]:
        """Return the pixels of a single file in the order of its axes, and the pickled number."""
        if image.format == "image":
            return picture_pixels(path, content, image), math.nan
        if image.format == "fits":
            return fits_pixels(path, content, image), math.nan
        header = npy_header(path, content)
        # Told by the header, before numpy is let at the file: np.load with allow_pickle would run
        # what the pickle names.
        if header.dtype.hasobject:
            self._refuse_pickle(path, column)
            pixels, number = unwrap(path, content[header.start :])
            check_shape(path, pixels.shape, image.stored_shape)
            return pixels, number
        # By the header, before the pixels: a promise of terabytes is refused unread.
        check_shape(path, header.shape, image.stored_shape)
        return npy_pixels(path, content, header), math.nan

    def _refuse_pickle(self, path: str, column: str | None) -> None:
        """Raise unless the class is declared to pickle a number and the user has allowed it."""
        found = f"{path} is a pickled object array; pickles can run code and are refused"
        if column is None:
            raise DataError(f"{found}: save it again as a plain array with np.save")
        if not self._allow_pickle:
            raise DataError(f"{found}; to unwrap [image, {column}] from them add --allow-pickle")

    def _rows(self, path: str, image: ImageFormat) -> Rows:
        """Return an open stack; the one opened first is closed when there are too many."""
        key = (path, image.key)
        if key not in self._stacks:
            if len(self._stacks) == _MAX_OPEN_STACKS:
                self._stacks.pop(next(iter(self._stacks)))
            self._stacks[key] = open_rows(path, image, self._scratch)
        return self._stacks[key]


def _content(path: str, image: ImageFormat) -> bytes:
    """Return the bytes; a file far larger than its image is refused before it fills the memory."""
    # 16 bytes a pixel is float128, the widest that a file may hold.
    most = 16 * math.prod(image.shape) + _MARGIN_BYTES
    content = read_content(path, image.format, most)
    if len(content) > most:
        shape = format_shape(image.shape)
        raise DataError(f"{path} is too large for one {shape} image; check `image` in DATASET")
    return content
