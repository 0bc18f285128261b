"""A column of rows as bytes: what is hashed of it, however it lies in memory or on the disk.

Numbers are arrays of numpy with a row an image, texts are Arrow's.
"""

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Texts: TypeAlias = "pa.LargeStringArray | pa.ChunkedArray"
Column: TypeAlias = "NDArray[Any] | pa.LargeStringArray | pa.ChunkedArray"


def column_buffers(column: Column) -> tuple[memoryview, ...]:
    """Return a column's values as bytes: of numbers one buffer, of texts their lengths, then all.

    The same values give the same bytes, whether sliced, chunked or encoded as a dictionary.
    """
    if isinstance(column, np.ndarray):
        return (number_bytes(column),)
    if not is_text(column):
        return (number_bytes(column.to_numpy(zero_copy_only=False)),)
    whole = as_text(column)
    lengths = pc.binary_length(whole).to_numpy(zero_copy_only=False)
    return number_bytes(lengths.astype(np.uint32)), text_buffers(whole)[1].data


def is_text(column: Column) -> bool:
    """Return whether a column holds texts, maybe as a dictionary."""
    if isinstance(column, np.ndarray):
        return False
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_large_string(kind) or pa.types.is_string(kind))


def as_text(column: Texts) -> pa.LargeStringArray:
    """Return a column of texts in one piece."""
    plain = column.cast(pa.large_string())
    return plain.combine_chunks() if isinstance(plain, pa.ChunkedArray) else plain


def text_buffers(texts: pa.LargeStringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return where texts begin and end (n+1,) in the bytes that are them one after the other."""
    _, places, content = texts.buffers()
    # A slice has the buffers of what it was cut from.
    ends = np.frombuffer(places, np.int64)[texts.offset :][: len(texts) + 1]
    whole = np.frombuffer(content or b"", np.uint8)
    return ends - ends[0], whole[ends[0] : ends[-1]]


def number_bytes(values: NDArray[Any]) -> memoryview:
    """Return the bytes of numbers, little-endian whatever the machine."""
    plain = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data


def join_columns(parts: list[Column]) -> Column:
    """Return the columns one after the other."""
    if isinstance(parts[0], np.ndarray):
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
    return pa.concat_arrays([as_text(part) for part in parts])


def take_rows(column: Column, rows: NDArray[np.integer]) -> Column:
    """Return some rows of a column, in the order asked for."""
    return column[rows] if isinstance(column, np.ndarray) else column.take(rows)


def invert(order: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the permutation that undoes another one."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return back
