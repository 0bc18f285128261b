"""Rows of a stack: an array in a .npz or HDF5 file, a row an image; read row by row."""

import fcntl
import hashlib
import math
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import ConfigError, DataError
from lenshpc.files import replacing
from lenshpc.prep.dataset import ImageFormat
from lenshpc.prep.npy import HEADER_BYTES, Header, npy_header
from lenshpc.prep.pixels import check_dtype, first_line, format_shape
from lenshpc.run.extras import require

CHUNK_BYTES = 2**28  # a larger HDF5 chunk would have to be unpacked whole for one row
_DAMAGE = (
    *(OSError, ValueError, KeyError, RuntimeError, TypeError, EOFError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


class Rows(Protocol):
    """An open stack."""

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Return the pixels of one row in the order and dtype of the file."""


def count_rows(path: str, image: ImageFormat) -> int:
    """Return the number of images in a stack; only its header is read."""
    with _naming_damage(path):
        if image.format == "hdf5":
            return len(_hdf5_dataset(path, image))
        with zipfile.ZipFile(path) as archive:
            return _npz_member(path, archive, image)[1].shape[0]


def open_rows(path: str, image: ImageFormat, scratch: Path | None) -> Rows:
    """Return a stack for reading rows in any order; `scratch` receives unpacked .npz arrays."""
    with _naming_damage(path):
        if image.format == "hdf5":
            return _Hdf5Rows(path, _hdf5_dataset(path, image))
        if scratch is None:
            raise TypeError("a .npz stack is unpacked to `scratch`")
        rows: Rows = np.load(_unpack_once(path, image, scratch), mmap_mode="r", allow_pickle=False)
        return rows


@contextmanager
def _naming_damage(path: str) -> Iterator[None]:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would never end
            raise OSError("not a regular file")
        yield
    except (DataError, ConfigError):
        raise
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"cannot read {path}: {reason}; copy it again or remove it") from error


def _check_stack(
    path: str, shape: tuple[int, ...], dtype: np.dtype[Any], image: ImageFormat
) -> None:
    if len(shape) != len(image.stored_shape) + 1 or shape[1:] != image.stored_shape:
        expected = format_shape(image.stored_shape).replace("(", "(rows, ")
        raise DataError(
            f"{path}: {image.key} has shape {format_shape(shape)}, expected {expected}; "
            "remove it or check `image` in DATASET"
        )
    if shape[0] == 0:
        raise DataError(f"{path}: {image.key} holds no rows; remove the file")
    check_dtype(path, dtype, image.dtype)


def _no_array(path: str, image: ImageFormat, found: list[str]) -> DataError:
    names = ", ".join(ascii(name) for name in sorted(found)[:8]) or "nothing"
    return DataError(f"{path} lacks the array {image.key!r}; it holds {names}; set `image.key`")


def _npz_member(
    path: str, archive: zipfile.ZipFile, image: ImageFormat
) -> tuple[zipfile.ZipInfo, Header]:
    """Return the member that holds the array, and its header; both agree on the size."""
    if f"{image.key}.npy" not in archive.namelist():
        raise _no_array(path, image, [name.removesuffix(".npy") for name in archive.namelist()])
    member = archive.getinfo(f"{image.key}.npy")
    with archive.open(member) as stream:
        header = npy_header(path, stream.read(HEADER_BYTES))
    if header.dtype.hasobject:
        raise DataError(f"{path} holds pickled objects, which are refused; save plain arrays")
    _check_stack(path, header.shape, header.dtype, image)
    promised = header.start + header.promised_bytes
    if promised != member.file_size:
        raise DataError(
            f"{path}: {image.key} promises {promised} bytes, the archive holds {member.file_size}; "
            "copy it again or remove it"
        )
    return member, header


def _unpack_once(path: str, image: ImageFormat, scratch: Path) -> Path:
    """Return the array as a .npy file in `scratch`, unpacked by the first process that asks."""
    status = Path(path).stat()
    text = f"{path}/{image.key}/{status.st_size}/{status.st_mtime_ns}"
    target = scratch / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"
    with (scratch / f"{target.name}.lock").open("w") as lock:
        # Held while it is unpacked, which takes minutes: the others wait instead of filling the
        # disk with copies. flock, so that a killed process does not hold up the rest.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Asked under the lock; the rename in `replacing` makes an array that is there a whole one.
        if not target.exists():
            with zipfile.ZipFile(path) as archive:
                _unpack(path, archive, _npz_member(path, archive, image)[0], target)
    return target


def _unpack(path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    if member.file_size > free:
        raise DataError(
            f"{path} unpacks to {member.file_size / 1e9:.1f} GB, {target.parent} has "
            f"{free / 1e9:.1f} GB free; make room there"
        )
    try:
        with (
            replacing(target) as temporary,
            archive.open(member) as packed,
            temporary.open("wb") as stream,
        ):
            shutil.copyfileobj(packed, stream, 2**20)
    except OSError as error:
        raise DataError(
            f"cannot unpack {path} to {target.parent}: {error.strerror}; make room there"
        ) from error


class _Hdf5Rows:
    """An HDF5 dataset whose damaged chunks are errors that name the file."""

    def __init__(self, path: str, dataset: Any) -> None:
        self._path, self._dataset = path, dataset

    def __getitem__(self, row: int) -> NDArray[Any]:
        with _naming_damage(self._path):
            return np.asarray(self._dataset[row])


def _hdf5_dataset(path: str, image: ImageFormat) -> Any:
    """Return the dataset, which keeps its file open; all of it must lie in this one file."""
    require("hdf5", "HDF5")
    import h5py

    # Read-only file systems refuse HDF5's own locks, and nobody writes here.
    found: Any = h5py.File(path, "r", locking=False)
    for part in (image.key or "").strip("/").split("/"):
        links = found.id.links if isinstance(found, h5py.Group) else None
        if links is None or not links.exists(part.encode()):
            raise _no_array(path, image, list(found) if links else [])
        # Looked at before it is followed: a soft or external link may lead to any file that the
        # user can read.
        if links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise _elsewhere(path, part)
        found = found[part]
    if not isinstance(found, h5py.Dataset):
        raise _no_array(path, image, list(found))
    if found.is_virtual or found.external:
        raise _elsewhere(path, image.key)
    _check_stack(path, found.shape or (), found.dtype, image)
    _refuse_large_chunks(path, found)
    return found


def _elsewhere(path: str, name: str | None) -> DataError:
    return DataError(
        f"{path}: {name} is a link to other data, which is refused; copy the data into the file"
    )


def _refuse_large_chunks(path: str, dataset: Any) -> None:
    num_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if num_bytes > CHUNK_BYTES:
        raise DataError(
            f"{path} has chunks of {num_bytes} bytes, at most {CHUNK_BYTES} can be read row by "
            "row; write it again with a chunk a row"
        )
