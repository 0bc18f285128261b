"""A column of rows as bytes: what is hashed of it, however it lies in memory or on the disk."""

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Column: TypeAlias = "pa.Array | pa.ChunkedArray"


def column_buffers(column: Column) -> tuple[memoryview, ...]:
    """Return a column's values as bytes: of numbers one buffer, of texts their lengths, then all.

    The same values give the same bytes, whether sliced, chunked or encoded as a dictionary.
    """
    if is_text(column):
        lengths, content = text_buffers(column)
        return number_bytes(lengths), memoryview(content)
    return (number_bytes(column.to_numpy(zero_copy_only=False)),)


def is_text(column: Column) -> bool:
    """Return whether a column holds texts, maybe as a dictionary."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_large_string(kind) or pa.types.is_string(kind))


def as_text(column: Column) -> pa.LargeStringArray:
    """Return a column of texts in one piece, from its first byte on."""
    plain = column.cast(pa.large_string())
    # A copy even of one piece: a slice would bring the bytes of what it was cut from.
    return pa.concat_arrays(plain.chunks if isinstance(plain, pa.ChunkedArray) else [plain])


def text_buffers(column: Column) -> tuple[NDArray[np.uint32], pa.Buffer]:
    """Return the lengths in bytes (n,) of texts, and the texts one after the other."""
    whole = as_text(column)
    lengths = pc.binary_length(whole).to_numpy(zero_copy_only=False).astype(np.uint32)
    _, ends, content = whole.buffers()
    offsets = np.frombuffer(ends, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    first, last = (int(offsets[0]), int(offsets[-1])) if len(whole) else (0, 0)
    return lengths, (content or pa.py_buffer(b"")).slice(first, last - first)


def number_bytes(values: NDArray[Any]) -> memoryview:
    """Return the bytes of numbers, little-endian whatever the machine."""
    plain = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data
