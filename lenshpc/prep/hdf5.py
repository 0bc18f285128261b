"""Arrays in HDF5 files: all of one lies in its file, whole, and packed as this HDF5 can read."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.arrays import BLOCK_BYTES, FileArray, Writable, absent_array_error
from lenshpc.prep.content import damage_error, first_line
from lenshpc.run.extras import require

CHUNK_BYTES = 2**28  # a larger chunk would have to be unpacked whole for one row
_MAX_GAIN_BYTES = 2**16  # packed chunks may be this much longer than their pixels
_TEXT_BYTES = 2**12  # what a text of any length is reckoned with


@dataclass(frozen=True, kw_only=True)
class Hdf5Array(FileArray):
    """A dataset of an HDF5 file, which it keeps open; `chunk_rows` are unpacked together."""

    dataset: Any
    chunk_rows: int

    def blocks(self, field: str | None = None) -> Iterator[NDArray[Any]]:
        """Yield all rows in their order, or one field of them; of an enumeration its names.

        ValueError where a value of it has no name.
        """
        dtype = self.dtype if field is None else self.dtype[field]
        metadata: Any = dtype.metadata or {}
        names = metadata.get("enum")  # as h5py notes it
        for block in self._read(field):
            yield block if names is None else _name_values(block, names)

    def _read(self, field: str | None = None) -> Iterator[NDArray[Any]]:
        """Yield all rows in their order as numbers, whole chunks at a time."""
        row_bytes = _TEXT_BYTES if self.dtype.hasobject else self.row_bytes
        step = max(1, BLOCK_BYTES // (row_bytes * self.chunk_rows)) * self.chunk_rows
        rows = self.dataset if field is None else self.dataset.fields(field)
        for first in range(0, self.shape[0], step):
            yield np.asarray(rows[first : first + step])

    def unpack(self, target: Writable) -> None:
        """Write the array as .npy."""
        npy.write_array_header_2_0(
            target,
            {
                "descr": npy.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": self.shape,
            },
        )
        for block in self._read():
            target.write(np.ascontiguousarray(block).data)


def open_hdf5(path: str, name: str, key: str) -> Hdf5Array:
    """Return a dataset of which no row is read yet; `key` says where its name is set.

    Raise where a link leads to it, some of it was never written, or a filter is missing.
    """
    require("hdf5", "HDF5")
    found = _find_dataset(path, name, key)
    if not found.shape:
        raise DataError(
            f"{path}: {name} is not an array of rows; set `{key}`", cause="another array"
        )
    _check_filters(path, found)
    _refuse_large_chunks(path, found)
    chunks = found.chunks
    return Hdf5Array(
        path=path,
        name=name,
        shape=found.shape,
        dtype=found.dtype,
        num_bytes=found.id.get_storage_size(),
        start=None if chunks or not _is_plain(found) else found.id.get_offset(),
        dataset=found,
        chunk_rows=chunks[0] if chunks else 1,
    )


def _name_values(values: NDArray[Any], numbers: Mapping[str, int]) -> NDArray[Any]:
    names = {number: name for name, number in numbers.items()}
    found, places = np.unique(values, return_inverse=True)
    strange = [number for number in found.tolist() if number not in names]
    if strange:
        raise ValueError(f"the number {strange[0]}, for which its enumeration has no name")
    words = np.array([names[number] for number in found.tolist()], object)
    return np.asarray(words[places.reshape(values.shape)])


def check_whole(array: Hdf5Array) -> None:
    """Raise where rows were never written."""
    if not _is_whole(array.path, array.dataset):
        raise DataError(
            f"{array.path}: some of the {array.shape[0]} rows of {array.name} were never written; "
            "write the file again",
            cause="truncated",
        )


def _find_dataset(path: str, name: str, key: str) -> Any:
    import h5py

    # Read-only file systems refuse HDF5's own locks, and nobody writes here.
    found: Any = h5py.File(path, "r", locking=False)
    for part in name.strip("/").split("/"):
        links = found.id.links if isinstance(found, h5py.Group) else None
        if links is None or not links.exists(part.encode()):
            raise absent_array_error(path, name, list(found) if links else [], key)
        # Looked at before it is followed: a soft or external link may lead to any file that the
        # user can read.
        if links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise _elsewhere(path, part)
        found = found[part]
    if not isinstance(found, h5py.Dataset):
        raise absent_array_error(path, name, list(found), key)
    if found.is_virtual or found.external:
        raise _elsewhere(path, name)
    return found


def _elsewhere(path: str, name: str | None) -> DataError:
    return DataError(
        f"{path}: {name} is a link to other data, which is refused; copy the data into the file",
        cause="data elsewhere",
    )


def _is_plain(dataset: Any) -> bool:
    """Tell whether the bytes in the file are the values as numpy has them."""
    import h5py

    if dataset.dtype.kind not in "uifb":
        return False
    return bool(dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True)))


def _check_filters(path: str, dataset: Any) -> None:
    """Raise where the rows are packed in a way that this HDF5 cannot unpack."""
    import h5py

    settings = dataset.id.get_create_plist()
    for place in range(settings.get_nfilters()):
        number, _, _, name = settings.get_filter(place)
        if not h5py.h5z.filter_avail(number):
            raise DataError(
                f"{path} is compressed with the HDF5 filter {number} "
                f"({first_line(ValueError(name))}), which is not installed; set HDF5_PLUGIN_PATH "
                "to its folder, or on a machine that has it write the file again with: h5repack "
                "-f GZIP=4",
                cause="missing filter",
            )


def _refuse_large_chunks(path: str, dataset: Any) -> None:
    num_bytes = _chunk_bytes(dataset)
    if num_bytes > CHUNK_BYTES:
        raise DataError(
            f"{path} has chunks of {num_bytes} bytes, at most {CHUNK_BYTES} can be read row by "
            "row; write it again with one chunk per row",
            cause="large chunks",
        )


def _chunk_bytes(dataset: Any) -> int:
    # A text of any length has 8 bytes here, and 16 in the file.
    num_bytes: int = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    return 2 * num_bytes if dataset.dtype.hasobject else num_bytes


def _is_whole(path: str, dataset: Any) -> bool:
    """Tell whether all bytes are there.

    For others HDF5 gives its fill value, or what the memory held before: neither is a pixel.
    """
    import h5py

    if not dataset.chunks:
        # Compact data lie in the header, all others at a place of their own.
        compact = dataset.id.get_create_plist().get_layout() == h5py.h5d.COMPACT
        placed = compact or dataset.id.get_offset() is not None
        kept: int = dataset.id.get_storage_size()
        whole = kept >= dataset.nbytes if dataset.dtype.hasobject else kept == dataset.nbytes
        return placed and whole
    counts = [-(-side // step) for side, step in zip(dataset.shape, dataset.chunks, strict=True)]
    if dataset.id.get_num_chunks() < math.prod(counts):
        return False
    there, most = bytearray(math.prod(counts)), _chunk_bytes(dataset) + _MAX_GAIN_BYTES

    def note(chunk: Any) -> None:
        if chunk.size > most:  # what it unpacks to has no limit
            raise damage_error(path, f"a chunk of {chunk.size} bytes")
        place = _place_chunk(chunk.chunk_offset, dataset.chunks, counts)
        if chunk.byte_offset is not None and place is not None:
            there[place] = 1

    dataset.id.chunk_iter(note)
    return all(there)


def _place_chunk(offset: tuple[int, ...], steps: tuple[int, ...], counts: list[int]) -> int | None:
    """Return the number of the chunk that begins there; None where no chunk of an array does."""
    place = 0
    for at, step, count in zip(offset, steps, counts, strict=True):
        if at % step or at >= step * count:
            return None
        place = place * count + at // step
    return place
