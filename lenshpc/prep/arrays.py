"""Arrays in .npy and .npz files, whose sizes are held against the file before they are believed."""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.content import truncation_error
from lenshpc.prep.npy import HEADER_BYTES, Header, npy_header

BLOCK_BYTES = 2**24


class Writable(Protocol):
    """What an array is unpacked to."""

    def write(self, part: Any, /) -> Any:
        """Write some bytes, or a contiguous array."""


@dataclass(frozen=True, kw_only=True)
class FileArray:
    """An array in a file: `name` is what the file calls it, `num_bytes` what is kept of it.

    `start` is the byte from which its elements lie one after the other in this order of axes; None
    where they are packed.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    num_bytes: int
    start: int | None = None
    is_fortran: bool = False

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Return the bytes of all rows, unpacked."""
        return self.shape[0] * self.row_bytes

    def blocks(self, field: str | None = None) -> Iterator[NDArray[Any]]:
        """Yield all rows in their order, some at a time, or one field of them."""
        raise NotImplementedError

    def unpack(self, target: Writable) -> None:
        """Write the array as .npy, which checks the sums that the file has of it."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NpyArray(FileArray):
    """The array of a .npy file."""

    def blocks(self, field: str | None = None) -> Iterator[NDArray[Any]]:
        """Yield all rows of an array of one axis."""
        with Path(self.path).open("rb") as stream:
            stream.seek(self.start or 0)
            yield from _read_blocks(self, stream, field)


@dataclass(frozen=True, kw_only=True)
class NpzArray(FileArray):
    """One array of a .npz file."""

    member: zipfile.ZipInfo
    header_bytes: int

    def blocks(self, field: str | None = None) -> Iterator[NDArray[Any]]:
        """Yield all rows of an array of one axis."""
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            stream.read(self.header_bytes)
            yield from _read_blocks(self, stream, field)
            stream.read(1)  # at the end the archive's sum of the bytes is checked

    def unpack(self, target: Writable) -> None:
        """Write the array as .npy, which checks the archive's sum of its bytes."""
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            while part := stream.read(2**20):
                target.write(part)


def open_npy(path: str) -> NpyArray:
    """Return the array of a .npy file, of which only the header is read."""
    with Path(path).open("rb") as stream:
        header = npy_header(path, stream.read(HEADER_BYTES))
        held = stream.seek(0, 2) - header.start
    _refuse_objects(path, header)
    promised = header.promised_bytes
    if promised != held:
        raise DataError(
            f"{path} is {'truncated' if held < promised else 'too long'}: its header declares "
            f"{promised} bytes, the file holds {held}; copy it again",
            cause="truncated" if held < promised else "damaged",
        )
    return NpyArray(
        path=path,
        name="the array",
        shape=header.shape,
        dtype=header.dtype,
        num_bytes=held,
        start=header.start,
        is_fortran=header.fortran_order,
    )


def open_npz(path: str, name: str, key: str) -> NpzArray:
    """Return an array of a .npz file, of which only headers are read; `key` says where it is set.

    Raise where the name stands twice, is packed in a way without a bound, or promises other bytes
    than the archive holds.
    """
    with zipfile.ZipFile(path) as archive:
        member = _find_member(path, archive, name, key)
        with archive.open(member) as stream:
            header = npy_header(path, stream.read(HEADER_BYTES))
        start = _find_start(archive, member) + header.start
    _refuse_objects(path, header)
    promised = header.start + header.promised_bytes
    if promised != member.file_size:
        raise DataError(
            f"{path}: {name} should have {promised} bytes, the archive holds {member.file_size}; "
            "copy it again",
            cause="damaged",
        )
    return NpzArray(
        path=path,
        name=name,
        shape=header.shape,
        dtype=header.dtype,
        num_bytes=member.compress_size,
        start=start if member.compress_type == zipfile.ZIP_STORED else None,
        is_fortran=header.fortran_order,
        member=member,
        header_bytes=header.start,
    )


def absent_array_error(path: str, name: str, found: list[str], key: str) -> DataError:
    """Return the error of an array that a file lacks; `key` of the dataset file names it."""
    names = ", ".join(ascii(one) for one in sorted(found)[:8]) or "nothing"
    return DataError(
        f"{path} lacks the array {name!r}; it holds {names}; set `{key}`", cause="another array"
    )


def _find_member(path: str, archive: zipfile.ZipFile, name: str, key: str) -> zipfile.ZipInfo:
    members = [one for one in archive.infolist() if one.filename == f"{name}.npy"]
    if not members:
        found = [one.removesuffix(".npy") for one in archive.namelist()]
        raise absent_array_error(path, name, found, key)
    if len(members) > 1:
        raise DataError(
            f"{path} holds {name} {len(members)} times; save it again with only one",
            cause="array that stands twice",
        )
    # The two that numpy writes; the others unpack without a limit.
    if members[0].compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise DataError(
            f"{path} is compressed with zip method {members[0].compress_type}; save it with "
            "numpy's savez",
            cause="another packing",
        )
    return members[0]


def _find_start(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return the byte at which a member's content begins: after its name and extra fields."""
    stream: Any = archive.fp
    stream.seek(member.header_offset + 26)
    lengths = stream.read(4)
    return (
        member.header_offset
        + 30
        + int.from_bytes(lengths[:2], "little")
        + int.from_bytes(lengths[2:], "little")
    )


def _refuse_objects(path: str, header: Header) -> None:
    if header.dtype.hasobject:
        raise DataError(
            f"{path} holds pickled objects, which are refused; save plain arrays, text as "
            "array.astype(str)",
            cause="pickled",
        )


def _read_blocks(
    array: FileArray, stream: BinaryIO | Any, field: str | None
) -> Iterator[NDArray[Any]]:
    """Yield the elements of an array of one axis that follow in a stream."""
    step = max(1, BLOCK_BYTES // array.dtype.itemsize)
    for first in range(0, array.shape[0], step):
        num_bytes = min(step, array.shape[0] - first) * array.dtype.itemsize
        content = stream.read(num_bytes)
        if len(content) < num_bytes:
            raise truncation_error(array.path, "in its rows")
        block = np.frombuffer(content, array.dtype)
        yield block if field is None else block[field]
