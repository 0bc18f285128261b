"""Read sources to pixels and hashes, a block of rows at a time; every defect names its file."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.content import naming_defects, read_content
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import Defect, name_defect
from lenshpc.prep.fits import fits_pixels
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.npy import npy_header, npy_pixels
from lenshpc.prep.picture import picture_pixels
from lenshpc.prep.pixels import check_dtype, check_shape, clean, format_shape, orient
from lenshpc.prep.rows import number_columns
from lenshpc.prep.stacks import Rows, open_rows
from lenshpc.prep.unpickle import unwrap

# A file may be this much larger than its pixels as float128: headers, tables, other images.
_MARGIN_BYTES = 2**20
_MAX_OPEN_STACKS = 64


class _Row(NamedTuple):
    """Where one row is read from, and its label; as in the table of a scan."""

    label: int
    file: str
    at: int
    partner: str

    @property
    def name(self) -> str:
        return self.file if self.at < 0 else f"{self.file}#{self.at}"


@dataclass(frozen=True, kw_only=True)
class SourceBlock:
    """Some rows of a source: pixels (n,C,H,W) in the store's dtype, and what they came from.

    `targets` are the other halves of pairs; `masks` is 1 where a bad pixel was filled. `sha256`
    (n,32) and `size` (n,) are of the file's bytes, of image then target, or of a row's pixels as
    stored; `values` (n,K) are the dataset's columns, NaN where the source has none. All of a row is
    zero where `defects` says what is wrong with it.
    """

    pixels: NDArray[Any]
    targets: NDArray[Any] | None
    masks: NDArray[np.uint8] | None
    sha256: NDArray[np.uint8]
    size: NDArray[np.int64]
    values: NDArray[np.float64]
    defects: tuple[Defect, ...]


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
        self._stacks: dict[tuple[str, str | None], Rows] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the open files, which stay in their process."""
        return {**self.__dict__, "_stacks": {}}

    def read(self, rows: pa.Table) -> SourceBlock:
        """Return some rows of the table of a scan, whatever is wrong with any of them."""
        num, target = rows.num_rows, self._dataset.target
        block = SourceBlock(
            pixels=_room(num, self._dataset.image),
            targets=_room(num, target) if target else None,
            masks=_mask_room(num, self._dataset.image),
            sha256=np.zeros((num, 32), np.uint8),
            size=np.zeros(num, np.int64),
            values=number_columns(rows, self._dataset.columns),
            defects=(),
        )
        defects = []
        for at, row in enumerate(_Row(*found) for found in _records(rows)):
            try:
                self._fill(block, at, row)
            except DataError as error:
                defects.append(name_defect(row.name, error, at))
                found = (block.pixels, block.targets, block.masks, block.sha256, block.size)
                for part in (*found, block.values):
                    if part is not None:
                        part[at] = 0
        return replace(block, defects=tuple(defects))

    def digest(self, rows: pa.Table) -> NDArray[np.uint8]:
        """Return the `sha256` (n,32) that `read` gives; a file of its own is not decoded for it."""
        found = np.zeros((rows.num_rows, 32), np.uint8)
        for at, row in enumerate(_Row(*found) for found in _records(rows)):
            with suppress(DataError):  # `read` says what is wrong
                digest = hashlib.sha256(self._stored(row.file, row.at, self._dataset.image))
                if row.partner and self._dataset.target:
                    digest.update(self._stored(row.partner, row.at, self._dataset.target))
                found[at] = np.frombuffer(digest.digest(), np.uint8)
        return found

    def _fill(self, block: SourceBlock, at: int, row: _Row) -> None:
        column = self._dataset.classes[row.label].pickled
        pixels, mask, stored, number = self._part(row.file, row.at, self._dataset.image, column)
        block.pixels[at] = pixels
        if block.masks is not None and mask is not None:
            block.masks[at] = mask
        digest, size = hashlib.sha256(stored), len(stored)
        if row.partner and self._dataset.target and block.targets is not None:
            pixels, _, stored, _ = self._part(row.partner, row.at, self._dataset.target, None)
            block.targets[at] = pixels
            # Image, then target, always: the order is part of every hash that stores hold.
            digest.update(stored)
            size += len(stored)
        if column:
            block.values[at, self._dataset.columns.index(column)] = number
        block.sha256[at], block.size[at] = np.frombuffer(digest.digest(), np.uint8), size

    def _stored(self, file: str, row: int, image: ImageFormat) -> bytes:
        path = f"{self._root}/{file}"
        if row < 0:
            return _content(path, image)
        stored: bytes = self._rows(path, image)[row].tobytes()
        return stored

    def _part(
        self, file: str, row: int, image: ImageFormat, column: str | None
    ) -> tuple[NDArray[Any], NDArray[np.uint8] | None, bytes, float]:
        """Return pixels and mask as a store keeps them, what they came from, the pickled number."""
        path = f"{self._root}/{file}"
        with naming_defects(path):
            if row < 0:
                stored = _content(path, image)
                pixels, number = self._decode(path, stored, image, column)
            else:
                pixels, number = np.asarray(self._rows(path, image)[row]), math.nan
                path, stored = f"{path}#{row}", pixels.tobytes()
        # Before `orient`, whose cast would hide a loss.
        check_dtype(path, pixels.dtype, image.dtype)
        return *clean(path, orient(pixels, image), image), stored, number

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


def _records(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in _Row._fields), strict=True)


def _mask_room(num: int, image: ImageFormat) -> NDArray[np.uint8] | None:
    return None if image.bad_pixels == "refuse" else np.zeros((num, *image.shape), np.uint8)


def _room(num: int, image: ImageFormat) -> NDArray[Any]:
    return np.zeros((num, *image.shape), image.dtype)
