"""Stacks: arrays with a row an image, in .npy, .npz or HDF5 files; rows are read in any order."""

import fcntl
import glob
import hashlib
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.files import read_sealed, write_sealed
from lenshpc.prep.arrays import FileArray, NpzArray, open_npy, open_npz
from lenshpc.prep.content import check_content, naming_defects
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.hdf5 import Hdf5Array, check_whole, open_hdf5
from lenshpc.prep.kept import is_kept, keep_file, state_of
from lenshpc.prep.pixels import check_dtype, format_shape

_Act = Callable[[FileArray, Path], dict[str, Any]]  # makes a file; returns its state


class Rows(Protocol):
    """An open stack."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, in the order asked for, as the file has them."""


def count_rows(path: str, image: ImageFormat) -> int:
    """Return the number of images in a stack; only its header is read."""
    check_content(path, image.format)
    with naming_defects(path):
        return _open_stack(path, image).shape[0]


def open_rows(path: str, image: ImageFormat, scratch: Path) -> Rows:
    """Return a stack for reading; `scratch` receives arrays that must be unpacked for it."""
    check_content(path, image.format)
    with naming_defects(path):
        array = _open_stack(path, image)
        if isinstance(array, Hdf5Array) and array.start is None and array.chunk_rows == 1:
            return _Hdf5Rows(array)
        if array.start is None:
            array = open_npy(str(_do_once(array, scratch, _unpack)))
        elif isinstance(array, NpzArray):
            _do_once(array, scratch, _check)
        return _ColumnRows(array) if array.is_fortran else _PlainRows(array)


def find_stacks(root: Path, pattern: str) -> list[str]:
    """Return the files under `root` that a pattern with * and ? names, sorted."""
    return sorted(glob.glob(pattern.replace("[", "[[]"), root_dir=root))  # noqa: PTH207 - root_dir


def stand_in(file: str, pattern: str, other: str) -> str:
    """Return the file `other` beside a stack, its * and ? filled as the pattern's are by `file`."""
    name, form = file.rpartition("/")[2], pattern.rpartition("/")[2]
    wild = "".join({"*": "(.*)", "?": "(.)"}.get(char, re.escape(char)) for char in form)
    matched = re.fullmatch(wild, name)
    parts = iter(matched.groups() if matched else ())
    filled = re.sub(r"[*?]", lambda found: next(parts, found[0]), other)
    return f"{file[: len(file) - len(name)]}{filled}"


def _open_stack(path: str, image: ImageFormat) -> FileArray:
    """Return the array of images, which is as the dataset declares it."""
    array = open_array(path, image.format, image.key or "", "image.key")
    _check_images(array, image)
    # A byte a row is less than any packing of an image leaves.
    if array.shape[0] > array.num_bytes:
        raise DataError(
            f"{path}: {array.name} should have {array.shape[0]} rows, but only {array.num_bytes} "
            "bytes of them are there; copy it again, or write it again",
            cause="truncated",
        )
    if isinstance(array, Hdf5Array):
        check_whole(array)
    return array


def open_array(path: str, form: str, name: str, key: str) -> FileArray:
    """Return an array of a file of stacks; `key` says where its name is set."""
    if form == "hdf5":
        return open_hdf5(path, name, key)
    return open_npz(path, name, key) if form == "npz" else open_npy(path)


def _check_images(array: FileArray, image: ImageFormat) -> None:
    if array.shape[1:] != image.stored_shape:
        expected = format_shape(image.stored_shape).replace("(", "(rows, ")
        raise DataError(
            f"{array.path}: {array.name} has shape {format_shape(array.shape)}, expected "
            f"{expected}; set image.shape and image.axes in DATASET as the files are",
            cause="wrong shape",
        )
    if array.shape[0] == 0:
        raise DataError(
            f"{array.path}: {array.name} holds no rows; move the file away", cause="empty"
        )
    check_dtype(array.path, array.dtype, image.dtype)


class _PlainRows:
    """Rows that lie one after the other in a file, read in its order.

    They are read, not mapped: what a file system fails to hand out is an error then, no signal.
    """

    def __init__(self, array: FileArray) -> None:
        self._array, self._row_bytes = array, array.row_bytes
        self._descriptor = os.open(array.path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, in the order asked for."""
        ordered, places = np.unique(rows, return_inverse=True)
        found = np.empty((len(ordered), *self._array.shape[1:]), self._array.dtype)
        content: Any = found.reshape(-1).view(np.uint8).data
        for start, stop, first in _list_runs(ordered):
            part = slice(start * self._row_bytes, stop * self._row_bytes)
            self._fill(content[part], (self._array.start or 0) + first * self._row_bytes)
        return found if np.array_equal(rows, ordered) else found[places]

    def _fill(self, content: memoryview, at: int) -> None:
        """Read as many bytes as there is room for."""
        while content:
            num_bytes = os.preadv(self._descriptor, [content], at)
            if not num_bytes:
                raise _short_error(self._array.path)
            content, at = content[num_bytes:], at + num_bytes


def _short_error(path: str | Path) -> DataError:
    return DataError(
        f"{path} became shorter while it was read; repeat the command", cause="changed"
    )


class _Hdf5Rows:
    """Rows of an HDF5 dataset of a chunk a row, or of one so small that it lies in the header."""

    def __init__(self, array: Hdf5Array) -> None:
        self._array, self._dataset = array, array.dataset

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, in the order asked for."""
        ordered, places = np.unique(rows, return_inverse=True)
        found = np.empty((len(ordered), *self._array.shape[1:]), self._array.dtype)
        for start, stop, first in _list_runs(ordered):
            found[start:stop] = self._dataset[first : first + stop - start]
        return found[places]


def _list_runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yield where rows that follow each other start and stop in a list, and the first of them."""
    starts = [0, *(np.flatnonzero(np.diff(rows) > 1) + 1).tolist(), len(rows)]
    firsts = rows[starts[:-1]].tolist()
    return zip(starts[:-1], starts[1:], firsts, strict=True)


class _ColumnRows:
    """Rows of an array whose first axis runs fastest, as the transpose of another is saved."""

    def __init__(self, array: FileArray) -> None:
        start = array.start or 0
        self._path, self._end = Path(array.path), start + array.nbytes
        self._pixels = np.memmap(
            array.path, array.dtype, mode="r", offset=start, shape=array.shape, order="F"
        )

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, in the order asked for."""
        # A page of a mapped file that is no longer there is a signal that ends the process.
        if self._path.stat().st_size < self._end:
            raise _short_error(self._path)
        return np.ascontiguousarray(self._pixels[rows])


def drop_damaged(scratch: Path) -> None:
    """Remove what an earlier command unpacked that is not as it was written: it is made again."""
    for target in scratch.glob("*.npy"):
        with _locking(target):
            if not _is_made(target, by_hash=True):
                target.unlink(missing_ok=True)


def _do_once(array: FileArray, scratch: Path, act: _Act) -> Path:
    """Return a file in `scratch` that `act` makes of an array, for the first process that asks."""
    status = Path(array.path).stat()
    # The time of change too, which no program sets: another file under this name is another.
    changed = f"{status.st_ino}/{status.st_size}/{status.st_mtime_ns}/{status.st_ctime_ns}"
    text = f"{array.path}/{array.name}/{changed}"
    target = scratch / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"
    # Held while it is unpacked, which takes minutes: the others wait instead of filling the disk
    # with copies.
    with _locking(target):
        if not _is_made(target, by_hash=False):
            # Last: a file without it is made anew.
            write_sealed(_seal(target), {"file": act(array, target)})
    return target


@contextmanager
def _locking(target: Path) -> Iterator[None]:
    """Hold the lock of a file that is made once; a process that is killed does not hold it."""
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_made(target: Path, *, by_hash: bool) -> bool:
    try:
        return is_kept(target, read_sealed(_seal(target))["file"], by_hash=by_hash)
    except (FileNotFoundError, DataError):
        return False


def _seal(target: Path) -> Path:
    return target.with_suffix(".json")


def _check(array: FileArray, target: Path) -> dict[str, Any]:
    """Check the sum that a .npz file has of an array, and leave an empty file as a mark."""
    with keep_file(target) as mark, Path(os.devnull).open("wb") as nowhere:
        array.unpack(nowhere)
    return state_of(mark)


def _unpack(array: FileArray, target: Path) -> dict[str, Any]:
    free = shutil.disk_usage(target.parent).free
    if array.nbytes > free:
        raise DataError(
            f"{array.path} unpacks to {array.nbytes / 1e9:.1f} GB, {target.parent} has "
            f"{free / 1e9:.1f} GB free; make room there"
        )
    try:
        with keep_file(target) as stream:
            array.unpack(stream)
    except OSError as error:
        if not error.errno:  # of a library, about the bytes
            raise
        raise DataError(
            f"cannot unpack {array.path} to {target.parent}: {error.strerror}; make room there"
        ) from error
    return state_of(stream)
