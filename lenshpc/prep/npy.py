"""Read the array in the bytes of a .npy file; nothing in it is trusted before it is checked."""

import io
import math
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.content import first_line, truncation_error
from lenshpc.prep.pixels import format_shape

HEADER_BYTES = 2**16
MAGIC = npy.MAGIC_PREFIX
_MAX_PIXELS = 2**63
# numpy's parsers of headers read a literal and run nothing. Version 3 is not needed for plain
# numbers, and refused.
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


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
    if content[:6] != MAGIC:
        kind = "a Python pickle" if content[:1] == b"\x80" else f"not .npy: starts {content[:6]!r}"
        raise DataError(f"{path} is {kind}; save it again with np.save", cause="another format")
    width = 2 if content[6:7] == b"\x01" else 4
    start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    if start > len(content):
        raise truncation_error(path, "within its header")
    try:
        return Header(start, *_parse(content[:start]))
    except Exception as error:
        raise DataError(
            f"{path} has a broken .npy header: {first_line(error)}; copy it again", cause="damaged"
        ) from error


@lru_cache(maxsize=64)  # all files of a set share their header, whose parsing costs most of a read
def _parse(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(header)
    version = npy.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"version {version}, expected (1, 0) or (2, 0)")
    with warnings.catch_warnings():
        # That Python 2 wrote a header, or that a name in it has an odd escape, changes nothing.
        warnings.simplefilter("ignore")
        shape, fortran_order, dtype = _READERS[version](stream)
    # Sizes without bytes, and those that no file has, would break the sums that follow.
    if not dtype.itemsize or math.prod(map(abs, shape)) > _MAX_PIXELS:
        raise ValueError(f"shape {format_shape(shape)} of dtype {dtype}")
    return shape, fortran_order, dtype


def npy_pixels(path: str, content: bytes, header: Header) -> NDArray[Any]:
    """Return the pixels in the order of the file's axes, as a view of `content`."""
    promised, held = header.promised_bytes, len(content) - header.start
    if promised != held:
        raise DataError(
            f"{path} is {'truncated' if held < promised else 'too long'}: its header declares "
            f"{promised} bytes of pixels, the file holds {held}; copy it again",
            cause="truncated" if held < promised else "damaged",
        )
    flat = np.frombuffer(content, header.dtype, offset=header.start)
    return flat.reshape(header.shape, order=header.order)
