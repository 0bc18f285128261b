"""Read sources to pixels and hashes, a block of rows at a time; every defect names its file."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.content import naming_defects
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.decode import Numbers, Pickles, decode, read_files
from lenshpc.prep.defects import Defect, name_defect
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.pixels import check_dtype, clean, orient
from lenshpc.prep.rows import number_columns
from lenshpc.prep.stacks import Rows, open_rows

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


class _Part(NamedTuple):
    """Pixels and mask as a store keeps them, the bytes they came from, the pickled numbers."""

    pixels: NDArray[Any]
    mask: NDArray[np.uint8] | None
    stored: list[bytes]
    numbers: Numbers


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
                stored = self._stored(row.file, row.at, self._dataset.image)
                if row.partner and self._dataset.target:
                    stored += self._stored(row.partner, row.at, self._dataset.target)
                found[at] = _hash(stored)
        return found

    def _fill(self, block: SourceBlock, at: int, row: _Row) -> None:
        columns = self._dataset.classes[row.label].numbers
        pickles = Pickles(columns, self._allow_pickle)
        part = self._part(row.file, row.at, self._dataset.image, pickles)
        block.pixels[at] = part.pixels
        if block.masks is not None and part.mask is not None:
            block.masks[at] = part.mask
        stored = part.stored
        if row.partner and self._dataset.target and block.targets is not None:
            target = self._part(row.partner, row.at, self._dataset.target, Pickles())
            block.targets[at] = target.pixels
            # Image, then target, always: the order is part of every hash that stores hold.
            stored = [*stored, *target.stored]
        for name, number in zip(columns, part.numbers, strict=False):  # none in a plain array
            block.values[at, self._dataset.columns.index(name)] = number
        block.sha256[at] = _hash(stored)
        block.size[at] = sum(map(len, stored))

    def _stored(self, file: str, row: int, image: ImageFormat) -> list[bytes]:
        if row < 0:
            return [content for _, content in read_files(self._root, file, image)]
        return [self._rows(f"{self._root}/{file}", image).take(np.array([row]))[0].tobytes()]

    def _part(self, file: str, row: int, image: ImageFormat, pickles: Pickles) -> _Part:
        path = f"{self._root}/{file}"
        numbers: Numbers = ()
        if row < 0:
            files = read_files(self._root, file, image)
            pixels, numbers = decode(files, image, pickles)
            stored = [content for _, content in files]
        else:
            with naming_defects(path):
                found = self._rows(path, image).take(np.array([row]))[0]
            path, stored = f"{path}#{row}", [found.tobytes()]
            # Before `orient`, whose cast would hide a loss.
            check_dtype(path, found.dtype, image.dtype)
            pixels = orient(found, image)
        return _Part(*clean(path, pixels, image), stored, numbers)

    def _rows(self, path: str, image: ImageFormat) -> Rows:
        """Return an open stack; the one opened first is closed when there are too many."""
        key = (path, image.key)
        if key not in self._stacks:
            if len(self._stacks) == _MAX_OPEN_STACKS:
                self._stacks.pop(next(iter(self._stacks)))
            if self._scratch is None:
                raise TypeError("stacks need `scratch`, where some of them are unpacked")
            self._stacks[key] = open_rows(path, image, self._scratch)
        return self._stacks[key]


def _hash(stored: list[bytes]) -> NDArray[np.uint8]:
    digest = hashlib.sha256()
    for content in stored:
        digest.update(content)
    return np.frombuffer(digest.digest(), np.uint8)


def _records(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in _Row._fields), strict=True)


def _mask_room(num: int, image: ImageFormat) -> NDArray[np.uint8] | None:
    return None if image.bad_pixels == "refuse" else np.zeros((num, *image.shape), np.uint8)


def _room(num: int, image: ImageFormat) -> NDArray[Any]:
    return np.zeros((num, *image.shape), image.dtype)
