"""Values of arrays and tables as texts that can be compared, and as numbers, whoever wrote them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lenshpc.prep.rows import TEXT

MAX_TEXT_BYTES = 4096  # a path is no longer
_SLICE_ROWS = 2**18
_FACTOR, _SHIFT = np.uint64(0xC6A4A7935BD1E995), np.uint64(47)
_MASKS = np.array([2 ** (8 * num) - 1 for num in range(9)], np.uint64)  # of so many bytes
_WHOLE = r"^[+-]?[0-9]+\.0+$"
_TRUTH = r"^(?i:true|false)$"


def to_texts(values: Any) -> pa.Array:
    """Return an array of numpy or Arrow as texts, null where it has none; ValueError for others.

    Whole numbers are written without a point, truth values as 0 and 1, and padding is no part of a
    text.
    """
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    if isinstance(values, np.ndarray):
        values = pa.array(_to_native(np.ma.getdata(values)))
    if pa.types.is_dictionary(values.type):
        return to_texts(values.dictionary).take(values.indices)
    texts = _to_texts(values)
    if mask is not None and mask.any():
        texts = pc.if_else(pa.array(~mask), texts, pa.scalar(None, TEXT))
    return texts


def _to_texts(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_boolean(kind):
        return values.cast(pa.int8()).cast(TEXT)
    if pa.types.is_floating(kind):
        return _float_texts(values.cast(pa.float64()))
    if pa.types.is_integer(kind):
        return values.cast(TEXT)
    if pa.types.is_null(kind):
        return values.cast(TEXT)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = values.cast(TEXT)  # ArrowInvalid, a ValueError, where it is not UTF-8
    elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"values of type {kind}, expected texts or numbers")
    longest = pc.max(pc.binary_length(values)).as_py() or 0
    if longest > MAX_TEXT_BYTES:
        raise ValueError(f"a text of {longest} bytes, at most {MAX_TEXT_BYTES} are expected")
    texts = pc.utf8_trim_whitespace(values.cast(TEXT))
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, TEXT), texts)


def _float_texts(values: pa.Array) -> pa.Array:
    numbers = values.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        is_whole = (np.abs(numbers) < 2**53) & (np.trunc(numbers) == numbers)
    whole = pa.array(np.where(is_whole, numbers, 0).astype(np.int64)).cast(TEXT)
    texts = pc.if_else(pa.array(is_whole), whole, values.cast(TEXT))
    return pc.if_else(pa.array(np.isnan(numbers)), pa.scalar(None, TEXT), texts)


def to_words(values: Any) -> pa.DictionaryArray:
    """Return an array as texts in a dictionary, for values that repeat."""
    return to_texts(values).dictionary_encode()


def to_numbers(values: Any) -> pa.Array:
    """Return an array of numbers, or of such texts, as float64; ValueError for others.

    What has none is NaN."""
    if isinstance(values, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(values)
        found = np.asarray(to_numbers(np.ma.getdata(values)), np.float64)
        return pa.array(np.where(mask, np.nan, found))
    if isinstance(values, np.ndarray):
        values = pa.array(_to_native(values))
    kind = values.type
    if pa.types.is_null(kind):
        return pa.array(np.full(len(values), np.nan))
    if pa.types.is_large_string(kind) or pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return pc.fill_null(to_texts(values).cast(pa.float64()), np.nan)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ValueError(f"values of type {kind}, expected numbers")
    return pc.fill_null(values.cast(pa.float64()), np.nan)


def mend_texts(texts: pa.Array) -> pa.Array:
    """Return a column of a table of texts with its whole numbers and truth values as `to_texts`.

    A gap makes floats of whole numbers where a table goes through pandas; so the column is looked
    at as a whole, and names that look like numbers here and there stay.
    """
    if _match_all(texts, _WHOLE):
        return pc.replace_substring_regex(texts, r"\.0+$", "")
    if _match_all(texts, _TRUTH):
        is_true = pc.equal(pc.utf8_lower(texts), "true")
        return is_true.cast(pa.int8()).cast(TEXT)
    return texts


def _match_all(texts: pa.Array, expression: str) -> bool:
    held = texts.drop_null()
    return len(held) > 0 and all(
        pc.all(pc.match_substring_regex(some, expression)).as_py()
        for some in (held.slice(0, 100), held)  # nearly always the first rows tell
    )


def _to_native(values: NDArray[Any]) -> NDArray[Any]:
    """Return values that Arrow takes: one axis, the byte order of this machine."""
    if values.ndim != 1:
        raise ValueError(f"values with {values.ndim} axes, expected one a row")
    if values.dtype.kind not in "biufSUO":
        raise ValueError(f"values of type {values.dtype}, expected texts or numbers")
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def digest_texts(texts: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return 64 bits of each text, by MurmurHash64A; unequal texts may share them."""
    found = np.empty(len(texts), np.uint64)
    for first in range(0, len(texts), _SLICE_ROWS):
        some = texts.slice(first, _SLICE_ROWS)
        some = some.combine_chunks() if isinstance(some, pa.ChunkedArray) else some
        found[first : first + _SLICE_ROWS] = _digest(some)
    return found


def _digest(texts: pa.Array) -> NDArray[np.uint64]:
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    begin, end = int(ends[0]), int(ends[-1])
    data = bytes(memoryview(content)[begin:end]) if content else b""
    starts, lengths = ends[:-1] - begin, np.diff(ends)
    # The eight bytes from any place on, also from the last one.
    words = np.ndarray((len(data) + 1,), "<u8", data + bytes(8), strides=(1,))
    found, rows = lengths.astype(np.uint64) * _FACTOR, np.arange(len(texts))
    for at in range(0, int(lengths.max(initial=0)), 8):
        rows = rows[lengths[rows] > at]
        word = words[starts[rows] + at] & _MASKS[np.minimum(lengths[rows] - at, 8)]
        word *= _FACTOR
        word ^= word >> _SHIFT
        found[rows] = (found[rows] ^ word * _FACTOR) * _FACTOR
    found ^= found >> _SHIFT
    found *= _FACTOR
    return found ^ found >> _SHIFT


def find_repeats(
    texts: pa.Array | pa.ChunkedArray, hashes: NDArray[np.uint64], order: NDArray[np.int64]
) -> list[str]:
    """Return the texts that stand more than once, sorted; `order` sorts their hashes."""
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    rows = np.unique(np.concatenate([order[same], order[same + 1]]))
    counts = texts.take(pa.array(rows)).value_counts()
    repeats = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    return sorted(repeats.to_pylist())
