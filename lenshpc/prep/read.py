"""Read sources to pixels and hashes, a block of rows at a time; every defect names its file."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.alike import AlikeFiles
from lenshpc.prep.content import naming_defects
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.decode import Pickles, decode, read_files
from lenshpc.prep.defects import Defect, collecting
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.pixels import clean, is_good, orient
from lenshpc.prep.rows import TEXT, number_columns
from lenshpc.prep.stacks import Rows, open_rows
from lenshpc.prep.stamps import CHANGED, Stamps, check_stamps

BLOCK_BYTES = 2**24  # so much is read at once, where a chunk is not more
_MAX_OPEN_STACKS = 64


class _Row(NamedTuple):
    """Where one row is read from, and its label; as in the table of a scan."""

    label: int
    file: str
    partner: str


class _Stack(NamedTuple):
    """The rows `at` of one stack, ascending, and their `places` in the block."""

    file: str
    partner: str
    at: NDArray[np.int64]
    places: NDArray[np.intp]

    def split(self) -> Iterator["_Stack"]:
        """Yield each row by itself."""
        for one in range(len(self.at)):
            some = slice(one, one + 1)
            yield self._replace(at=self.at[some], places=self.places[some])


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

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of pixels that there are, by their names in a store."""
        arrays = {"images": self.pixels, "targets": self.targets, "masks": self.masks}
        return {name: array for name, array in arrays.items() if array is not None}

    def put(
        self, name: str, rows: Any, pixels: NDArray[Any], mask: NDArray[np.uint8] | None
    ) -> None:
        """Set some rows of images or targets, and of the masks of images."""
        self.arrays[name][rows] = pixels
        if self.masks is not None and mask is not None and name == "images":
            self.masks[rows] = mask

    def clear(self, rows: list[int]) -> None:
        """Set all of some rows to zero."""
        for part in (*self.arrays.values(), self.sha256, self.size, self.values):
            part[rows] = 0


class SourceReader:
    """Reads the sources of a dataset; picklable, for use in worker processes."""

    def __init__(
        self,
        dataset: Dataset,
        root: Path,
        *,
        allow_pickle: bool = False,
        scratch: Path | None = None,
        stamps: Stamps | None = None,
    ) -> None:
        self._dataset, self._root = dataset, str(root)
        self._allow_pickle, self._scratch, self._stamps = allow_pickle, scratch, stamps or {}
        self._stacks: dict[tuple[str, str | None], Rows] = {}
        images = {"images": dataset.image, "targets": dataset.target or dataset.image}
        self._alike = {name: AlikeFiles(image) for name, image in images.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the open files, which stay in their process."""
        return {**self.__dict__, "_stacks": {}}

    def read(self, rows: pa.Table) -> SourceBlock:
        """Return some rows of the table of a scan, whatever is wrong with any of them."""
        block, defects = self._make_room(rows), list[Defect]()
        if self._dataset.image.is_stack:
            for stack in _stacks(rows):
                with collecting(defects, stack.file, stack.places.tolist()):
                    self._fill_from_stack(block, stack, defects)
        else:
            for at, row in enumerate(_records(rows)):
                with collecting(defects, row.file, [at]):
                    self._fill_from_files(block, at, row)
        block.clear([defect.at for defect in defects])
        return replace(block, defects=tuple(sorted(defects, key=attrgetter("at"))))

    def digest(self, rows: pa.Table) -> NDArray[np.uint8]:
        """Return the `sha256` (n,32) that `read` gives; a file of its own is not decoded for it."""
        found = np.zeros((rows.num_rows, 32), np.uint8)
        if self._dataset.image.is_stack:
            for stack in _stacks(rows):
                with suppress(DataError):  # `read` says what is wrong
                    raw = [self._take(*part, stack.at) for part in self._parts(stack).values()]
                    found[stack.places] = _hash_rows(raw)
        else:
            for at, row in enumerate(_records(rows)):
                with suppress(DataError):
                    parts = self._parts(row).values()
                    files = [one for part in parts for one in read_files(self._root, *part)]
                    found[at] = _hash([content for _, content in files])
        return found

    def _make_room(self, rows: pa.Table) -> SourceBlock:
        num, image, target = rows.num_rows, self._dataset.image, self._dataset.target
        has_masks = image.bad_pixels != "refuse"
        return SourceBlock(
            pixels=np.zeros((num, *image.shape), image.dtype),
            targets=np.zeros((num, *target.shape), target.dtype) if target else None,
            masks=np.zeros((num, *image.shape), np.uint8) if has_masks else None,
            sha256=np.zeros((num, 32), np.uint8),
            size=np.zeros(num, np.int64),
            values=number_columns(rows, self._dataset.columns),
            defects=(),
        )

    def _parts(self, row: _Row | _Stack) -> dict[str, tuple[str, ImageFormat]]:
        """Return file and format of an image and, of a pair, of its target."""
        parts: dict[str, tuple[str, ImageFormat]] = {"images": (row.file, self._dataset.image)}
        if row.partner and self._dataset.target:
            parts["targets"] = (row.partner, self._dataset.target)
        # Image, then target, always: the order is part of every hash that stores hold.
        return parts

    def _fill_from_files(self, block: SourceBlock, at: int, row: _Row) -> None:
        digest, size = hashlib.sha256(), 0
        for name, (file, _) in self._parts(row).items():
            pixels = block.arrays[name][at]
            room = pixels.reshape(-1).view(np.uint8).data
            header = self._alike[name].read(f"{self._root}/{file}", room)
            if header is not None and is_good(pixels):
                stored: Sequence[bytes | memoryview] = (header, room)
            else:
                stored = self._decode(block, at, row, name)
            for part in stored:
                digest.update(part)
                size += len(part)
        block.sha256[at], block.size[at] = np.frombuffer(digest.digest(), np.uint8), size

    def _decode(self, block: SourceBlock, at: int, row: _Row, name: str) -> list[bytes]:
        """Set the image or target of a row, and numbers in it; return the bytes of its files."""
        file, image = self._parts(row)[name]
        columns = self._dataset.classes[row.label].numbers if name == "images" else ()
        files = read_files(self._root, file, image)
        pixels, numbers = decode(files, image, Pickles(columns, self._allow_pickle))
        block.put(name, at, *clean(f"{self._root}/{file}", pixels, image))
        for column, number in zip(columns, numbers, strict=False):  # none in a plain array
            block.values[at, self._dataset.columns.index(column)] = number
        self._alike[name].learn(files)
        return [content for _, content in files]

    def _fill_from_stack(self, block: SourceBlock, stack: _Stack, defects: list[Defect]) -> None:
        for part in self._parts(stack).values():
            self._open(*part)  # what is wrong with the whole is told once
        try:
            self._fill_rows(block, stack)
        except DataError as error:
            if error.cause == CHANGED:
                raise
            for one in stack.split():
                with collecting(defects, f"{one.file}#{one.at[0]}", one.places.tolist()):
                    self._fill_rows(block, one)

    def _fill_rows(self, block: SourceBlock, stack: _Stack) -> None:
        stored = []
        for name, (file, image) in self._parts(stack).items():
            stored.append(self._take(file, image, stack.at))
            path = f"{self._root}/{file}#{stack.at[0]}"
            block.put(name, stack.places, *clean(path, orient(stored[-1], image), image))
        block.sha256[stack.places] = _hash_rows(stored)
        block.size[stack.places] = sum(rows[0].nbytes for rows in stored)

    def _take(self, file: str, image: ImageFormat, at: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows of a stack as they are stored, C-contiguous."""
        rows = self._open(file, image)
        try:
            with naming_defects(f"{self._root}/{file}"):
                return np.ascontiguousarray(rows.take(at))
        finally:
            # After the bytes: they are those of the file as it was scanned if it is so still. What
            # else is wrong with one that changes says nothing of it.
            check_stamps(self._root, self._stamps, [file])

    def _open(self, file: str, image: ImageFormat) -> Rows:
        """Return an open stack; the one opened first is closed when there are too many."""
        path, key = f"{self._root}/{file}", (file, image.key)
        if key not in self._stacks:
            if len(self._stacks) == _MAX_OPEN_STACKS:
                self._stacks.pop(next(iter(self._stacks)))
            if self._scratch is None:
                raise TypeError("stacks need `scratch`, where some of them are unpacked")
            try:
                self._stacks[key] = open_rows(path, image, self._scratch)
            finally:
                check_stamps(self._root, self._stamps, [file])
        return self._stacks[key]


def block_rows(chunk_rows: int, row_bytes: int) -> int:
    """Return how many rows are read at once: whole chunks."""
    return chunk_rows * max(1, BLOCK_BYTES // (row_bytes * chunk_rows))


def _records(rows: pa.Table) -> Iterator[_Row]:
    columns = (rows[name].to_pylist() for name in _Row._fields)
    return (_Row(*values) for values in zip(*columns, strict=True))


def _stacks(rows: pa.Table) -> Iterator[_Stack]:
    """Yield some rows stack by stack."""
    files = rows["file"].cast(TEXT).combine_chunks().dictionary_encode()
    partners, at = rows["partner"], rows["at"].to_numpy()
    codes = files.indices.to_numpy()
    # By file, then by row: what is read lies in the order of the file.
    order = np.lexsort((at, codes))
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    for code, places in enumerate(np.split(order, starts[1:])):
        partner = partners[int(places[0])].as_py()
        yield _Stack(files.dictionary[code].as_py(), partner, at[places], places)


def _hash(parts: Sequence[bytes]) -> NDArray[np.uint8]:
    digest = hashlib.sha256(parts[0])
    for part in parts[1:]:
        digest.update(part)
    return np.frombuffer(digest.digest(), np.uint8)


def _hash_rows(parts: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the SHA-256 (n,32) of each row's bytes: those of the image, then of the target."""
    digests = [hashlib.sha256(row) for row in _row_bytes(parts[0])]
    for rows in parts[1:]:
        for digest, row in zip(digests, _row_bytes(rows), strict=True):
            digest.update(row)
    whole = b"".join([digest.digest() for digest in digests])
    return np.frombuffer(whole, np.uint8).reshape(-1, 32)


def _row_bytes(rows: NDArray[Any]) -> Iterator[memoryview]:
    content = rows.reshape(-1).view(np.uint8).data
    size = rows[0].nbytes
    return (content[start : start + size] for start in range(0, len(content), size))
