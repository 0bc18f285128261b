"""The heaps in which HDF5 keeps texts of any length: checked before HDF5 walks through them.

On a damaged heap, one of whose objects has no length, the library walks for ever.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError

_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("number", "<u4")])
_OBJECT = struct.Struct("<HHIQ")  # number, count of references, nothing, bytes
_HEAD_BYTES = 16  # of a heap, and of each object in it
_DEFLATE, _SHUFFLE = 1, 2


def check_heaps(path: str, dataset: Any) -> None:
    """Raise unless all heaps that hold the texts of a dataset of such texts are well formed."""
    import h5py

    address_bytes, _ = dataset.file.id.get_create_plist().get_sizes()
    if not h5py.check_string_dtype(dataset.dtype) or address_bytes != 8:
        raise DataError(
            f"{path}: {dataset.name} has texts of variable length mixed with other values, which "
            "are not read; write them with a fixed width, as numpy's S"
        )
    base = dataset.file.userblock_size
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = [
            np.unique(np.frombuffer(content, _REFERENCE)["address"])
            for content in _contents(path, dataset, descriptor)
        ]
        for address in np.unique(np.concatenate(found)).tolist():
            if address and not _is_sound(descriptor, base + address):
                raise _damage(path, dataset)
    finally:
        os.close(descriptor)


def _damage(path: str, dataset: Any) -> DataError:
    return DataError(
        f"{path} is damaged: the heap with the texts of {dataset.name} cannot be read; copy it "
        "again",
        cause="damaged",
    )


def _contents(path: str, dataset: Any, descriptor: int) -> Iterator[bytes]:
    """Yield the references of a dataset as they lie in the file, unpacked."""
    import h5py

    plan = dataset.id.get_create_plist()
    if not dataset.chunks:
        if plan.get_layout() == h5py.h5d.COMPACT:
            raise DataError(
                f"{path}: {dataset.name} has texts of variable length in its header, which are "
                "not read; write them with a fixed width, as numpy's S"
            )
        yield os.pread(descriptor, dataset.size * _REFERENCE.itemsize, dataset.id.get_offset() or 0)
        return
    filters = [plan.get_filter(place)[0] for place in range(plan.get_nfilters())]
    num_bytes = math.prod(dataset.chunks) * _REFERENCE.itemsize
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    for chunk in chunks:
        content = os.pread(descriptor, chunk.size, chunk.byte_offset or 0)
        for place, number in reversed(list(enumerate(filters))):
            if not chunk.filter_mask >> place & 1:
                content = _unfilter(path, dataset, number, content, num_bytes)
        if len(content) != num_bytes:
            raise _damage(path, dataset)
        yield content


def _unfilter(path: str, dataset: Any, number: int, content: bytes, num_bytes: int) -> bytes:
    if number == _DEFLATE:
        return zlib.decompressobj().decompress(content, num_bytes + 1)
    if number == _SHUFFLE:
        mixed: NDArray[np.uint8] = np.frombuffer(content, np.uint8)
        return mixed.reshape(_REFERENCE.itemsize, -1).T.tobytes()
    raise DataError(
        f"{path}: {dataset.name} has texts of variable length, compressed with the HDF5 filter "
        f"{number}, which are not read; write them with a fixed width, as numpy's S"
    )


def _is_sound(descriptor: int, place: int) -> bool:
    """Tell whether the objects of a heap follow each other to its end."""
    head = os.pread(descriptor, _HEAD_BYTES, place)
    if len(head) < _HEAD_BYTES or head[:5] != b"GCOL\x01":
        return False
    size = int.from_bytes(head[8:], "little")
    if not _HEAD_BYTES <= size <= os.fstat(descriptor).st_size - place:
        return False
    content = os.pread(descriptor, size, place)
    at = _HEAD_BYTES
    while at + _HEAD_BYTES <= len(content):
        number, _, _, num_bytes = _OBJECT.unpack_from(content, at)
        # The last one is the free space, whose length counts its own head.
        step = _HEAD_BYTES + (num_bytes + 7) // 8 * 8 if number else num_bytes
        if step < _HEAD_BYTES or at + step > size:
            return False
        at += step
    return True
