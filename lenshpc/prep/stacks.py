"""Rows of a stack: an array in a .npz or HDF5 file, a row an image; read row by row."""

import fcntl
import hashlib
import math
import shutil
import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.files import replacing
from lenshpc.prep.content import check_content, first_line, naming_defects
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.npy import HEADER_BYTES, Header, npy_header
from lenshpc.prep.pixels import check_dtype, format_shape
from lenshpc.run.extras import require

CHUNK_BYTES = 2**28  # a larger HDF5 chunk would have to be unpacked whole for one row
_MAX_GAIN_BYTES = 2**16  # packed chunks may be this much longer than their pixels


class Rows(Protocol):
    """An open stack."""

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Return the pixels of one row in the order and dtype of the file."""


def count_rows(path: str, image: ImageFormat) -> int:
    """Return the number of images in a stack; only its header is read."""
    check_content(path, image.format)
    with naming_defects(path):
        if image.format == "hdf5":
            return len(_hdf5_dataset(path, image))
        with zipfile.ZipFile(path) as archive:
            return _npz_member(path, archive, image)[1].shape[0]


def open_rows(path: str, image: ImageFormat, scratch: Path | None) -> Rows:
    """Return a stack for reading rows in any order; `scratch` receives unpacked .npz arrays."""
    check_content(path, image.format)
    with naming_defects(path):
        if image.format == "hdf5":
            rows: Rows = _hdf5_dataset(path, image)
            return rows
        if scratch is None:
            raise TypeError("a .npz stack is unpacked to `scratch`")
        return _map_rows(_unpack_once(path, image, scratch))


def _map_rows(path: Path) -> Rows:
    """Return the array of an unpacked .npy file, whose rows are read when they are asked for."""
    with path.open("rb") as stream:
        header = npy_header(str(path), stream.read(HEADER_BYTES))
    return np.memmap(
        path, header.dtype, mode="r", offset=header.start, shape=header.shape, order=header.order
    )


def _check_stack(
    path: str, shape: tuple[int, ...], dtype: np.dtype[Any], image: ImageFormat
) -> None:
    if len(shape) != len(image.stored_shape) + 1 or shape[1:] != image.stored_shape:
        expected = format_shape(image.stored_shape).replace("(", "(rows, ")
        raise DataError(
            f"{path}: {image.key} has shape {format_shape(shape)}, expected {expected}; "
            "set image.shape and image.axes in DATASET as the files are, or move it away"
        )
    if shape[0] == 0:
        raise DataError(f"{path}: {image.key} holds no rows; move the file away")
    check_dtype(path, dtype, image.dtype)


def _check_packed(path: str, image: ImageFormat, num_rows: int, num_bytes: int) -> None:
    """Raise where rows are promised that the bytes kept of them cannot give."""
    # A byte a row is less than any packing of an image leaves.
    if num_rows > num_bytes:
        raise DataError(
            f"{path}: {image.key} promises {num_rows} rows, but only {num_bytes} bytes of them are "
            "there; copy it again, or write it anew"
        )


def _no_array(path: str, image: ImageFormat, found: list[str]) -> DataError:
    names = ", ".join(ascii(name) for name in sorted(found)[:8]) or "nothing"
    return DataError(f"{path} lacks the array {image.key!r}; it holds {names}; set `image.key`")


def _npz_member(
    path: str, archive: zipfile.ZipFile, image: ImageFormat
) -> tuple[zipfile.ZipInfo, Header]:
    """Return the member that holds the array, and its header; both agree on the size."""
    members = [one for one in archive.infolist() if one.filename == f"{image.key}.npy"]
    if not members:
        raise _no_array(path, image, [name.removesuffix(".npy") for name in archive.namelist()])
    if len(members) > 1:
        raise DataError(f"{path} holds {image.key} {len(members)} times; write it anew with one")
    member = members[0]
    # The two that numpy writes; the others unpack without a limit.
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise DataError(
            f"{path} is packed by zip's method {member.compress_type}; write it with numpy's savez"
        )
    with archive.open(member) as stream:
        header = npy_header(path, stream.read(HEADER_BYTES))
    if header.dtype.hasobject:
        raise DataError(f"{path} holds pickled objects, which are refused; save plain arrays")
    _check_stack(path, header.shape, header.dtype, image)
    promised = header.start + header.promised_bytes
    if promised != member.file_size:
        raise DataError(
            f"{path}: {image.key} promises {promised} bytes, the archive holds {member.file_size}; "
            "copy it again"
        )
    _check_packed(path, image, header.shape[0], member.compress_size)
    return member, header


def _unpack_once(path: str, image: ImageFormat, scratch: Path) -> Path:
    """Return the array as a .npy file in `scratch`, unpacked by the first process that asks."""
    status = Path(path).stat()
    # The time of change too, which no program sets: another file under this name is unpacked anew.
    changed = f"{status.st_ino}/{status.st_size}/{status.st_mtime_ns}/{status.st_ctime_ns}"
    text = f"{path}/{image.key}/{changed}"
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
    _check_filters(path, found)
    _refuse_large_chunks(path, found)
    _check_packed(path, image, len(found), found.id.get_storage_size())
    if not _is_whole(path, found):
        raise DataError(
            f"{path}: some of the {len(found)} rows of {image.key} were never written; "
            "write the file anew"
        )
    return found


def _elsewhere(path: str, name: str | None) -> DataError:
    return DataError(
        f"{path}: {name} is a link to other data, which is refused; copy the data into the file"
    )


def _check_filters(path: str, dataset: Any) -> None:
    """Raise where the rows are packed in a way that this HDF5 cannot unpack."""
    import h5py

    settings = dataset.id.get_create_plist()
    for place in range(settings.get_nfilters()):
        number, _, _, name = settings.get_filter(place)
        if not h5py.h5z.filter_avail(number):
            raise DataError(
                f"{path} is packed by the HDF5 filter {number} ({first_line(ValueError(name))}), "
                "which is not installed; set HDF5_PLUGIN_PATH to its folder, or write the file "
                "again with: h5repack -f GZIP=4"
            )


def _refuse_large_chunks(path: str, dataset: Any) -> None:
    num_bytes = _chunk_bytes(dataset)
    if num_bytes > CHUNK_BYTES:
        raise DataError(
            f"{path} has chunks of {num_bytes} bytes, at most {CHUNK_BYTES} can be read row by "
            "row; write it again with a chunk a row"
        )


def _chunk_bytes(dataset: Any) -> int:
    num_bytes: int = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    return num_bytes


def _is_whole(path: str, dataset: Any) -> bool:
    """Tell whether all bytes are there.

    For others HDF5 gives its fill value, or what the memory held before: neither is a pixel.
    """
    import h5py

    if not dataset.chunks:
        # Compact data lie in the header, all others at a place of their own.
        compact = dataset.id.get_create_plist().get_layout() == h5py.h5d.COMPACT
        placed = compact or dataset.id.get_offset() is not None
        return placed and bool(dataset.id.get_storage_size() == dataset.nbytes)
    found: list[Any] = []
    dataset.id.chunk_iter(found.append)
    largest = max((chunk.size for chunk in found), default=0)
    if largest > _chunk_bytes(dataset) + _MAX_GAIN_BYTES:  # what it unpacks to has no limit
        raise DataError(f"{path} is damaged: a chunk of {largest} bytes; copy it again")
    sides: list[tuple[int, int]] = list(zip(dataset.shape, dataset.chunks, strict=True))
    inside = {
        chunk.chunk_offset
        for chunk in found
        if chunk.byte_offset is not None and _is_inside(chunk.chunk_offset, sides)
    }
    return len(inside) == math.prod(-(-side // step) for side, step in sides)


def _is_inside(offset: tuple[int, ...], sides: list[tuple[int, int]]) -> bool:
    """Tell whether a chunk begins where an array of these sides and steps has one."""
    return all(at < side and at % step == 0 for at, (side, step) in zip(offset, sides, strict=True))
