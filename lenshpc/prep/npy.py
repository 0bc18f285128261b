"""Read the array in the bytes of a .npy file; nothing in it is trusted before it is checked."""

import io
import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.pixels import first_line

HEADER_BYTES = 2**16


class Header(NamedTuple):
    """What stands before the pixels, and the byte at which they start."""

    start: int
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def promised_bytes(self) -> int:
        """Return the number of bytes that must follow."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def order(self) -> Any:
        """Return numpy's letter for the order of the pixels."""
        return "F" if self.fortran_order else "C"


def npy_header(path: str, content: bytes) -> Header:
    """Return the header that `content`, the file's beginning at least, starts with."""
    if content[:6] != npy.MAGIC_PREFIX:
        kind = "a Python pickle" if content[:1] == b"\x80" else f"not .npy: starts {content[:6]!r}"
        raise DataError(f"{path} is {kind}; save it again with np.save, or remove it")
    width = 2 if content[6:7] == b"\x01" else 4
    start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    if start > len(content):
        raise DataError(f"{path} is truncated within its header; copy it again or remove it")
    try:
        return Header(start, *_parse(content[:start]))
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError) as error:
        reason = first_line(error)
        raise DataError(f"{path} has a broken .npy header: {reason}; remove it") from error


@lru_cache(maxsize=64)  # all files of a set share their header, whose parsing costs most of a read
def _parse(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(header)
    version = npy.read_magic(stream)
    # numpy's parser of headers reads a literal and runs nothing. Version 3 is not needed for plain
    # numbers, and refused.
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise ValueError(f"version {version}, expected (1, 0) or (2, 0)")


def npy_pixels(path: str, content: bytes, header: Header) -> NDArray[Any]:
    """Return the pixels in the order of the file's axes, as a view of `content`."""
    promised, held = header.promised_bytes, len(content) - header.start
    if promised != held:
        raise DataError(
            f"{path} is {'truncated' if held < promised else 'too long'}: its header promises "
            f"{promised} bytes of pixels, it holds {held}; copy it again or remove it"
        )
    flat = np.frombuffer(content, header.dtype, offset=header.start)
    return flat.reshape(header.shape, order=header.order)
