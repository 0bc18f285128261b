"""The rows of a store to be, as an Arrow table: no Python object a row, however many there are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.store.layout import SPLITS, UNLABELLED

TEXT = pa.large_string()
FILES = pa.dictionary(pa.int32(), TEXT)


def file_rows(
    files: pa.Array,
    partners: pa.Array | None = None,
    *,
    ids: pa.Array | None = None,
    label: int = UNLABELLED,
    split: str = "test",
) -> pa.Table:
    """Return a row for each file that is one image; its id is the file unless `ids` are given."""
    places = pa.array(np.arange(len(files), dtype=np.int32))
    columns = {
        "file": pa.DictionaryArray.from_arrays(places, files),
        "at": _repeat(-1, len(files), pa.int64()),
        "partner": _no_partner(len(files))
        if partners is None
        else pa.DictionaryArray.from_arrays(places, partners),
    }
    return _table(files if ids is None else ids, label, split, columns)


def stack_rows(
    file: str, num_rows: int, partner: str = "", *, label: int = UNLABELLED, split: str = "test"
) -> pa.Table:
    """Return a row for each image of a stack, for `join_rows`, which calls it `file#row`."""
    at = pa.array(np.arange(num_rows))
    columns = {"file": _one_file(file, num_rows), "at": at, "partner": _one_file(partner, num_rows)}
    return _table(pa.nulls(num_rows), label, split, columns)


def cutout_rows(
    ids: pa.Array, files: pa.Array, places: NDArray[np.int32], at: NDArray[np.int64], label: int
) -> pa.Table:
    """Return a row for each image of several stacks: the place of its file, and its row in it."""
    columns = {
        "file": pa.DictionaryArray.from_arrays(pa.array(places), files),
        "at": pa.array(at),
        "partner": _one_file("", len(ids)),
    }
    return _table(ids, label, "train", columns)


def join_rows(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of several tables in one piece, with ids where they have none.

    The list is emptied: a column is freed piece by piece as it is joined, for the memory of one.
    """
    names = tables[0].column_names
    pieces = {name: [table[name].combine_chunks() for table in tables] for name in names}
    tables.clear()
    files = [piece.dictionary[0].as_py() if len(piece) else "" for piece in pieces["file"]]
    joined = {"id": _join_ids(pieces.pop("id"), files)}
    for name in names[1:]:
        whole = pa.chunked_array(pieces.pop(name)).unify_dictionaries()
        joined[name] = whole.combine_chunks()
    return pa.table(joined)


def set_columns(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return a table with these columns, in the place of those of their names."""
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = (
            table.append_column(name, values)
            if place < 0
            else table.set_column(place, name, values)
        )
    return table


def number_columns(rows: pa.Table, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return columns of numbers as (n,K); what a table lacks is NaN."""
    values = np.full((rows.num_rows, len(names)), np.nan)
    for place, name in enumerate(names):
        if name in rows.column_names:
            values[:, place] = rows[name].to_numpy()
    return values


def _table(ids: pa.Array, label: int, split: str, columns: dict[str, pa.Array]) -> pa.Table:
    labels = _repeat(label, len(ids), pa.int16())
    splits = _repeat(SPLITS.index(split), len(ids), pa.uint8())
    return pa.table({"id": ids, "label": labels, "split": splits, **columns})


def text_buffers(texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the ends of texts (n+1,), from that before the first on, and their bytes."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(content, np.uint8) if content else np.empty(0, np.uint8)
    return ends, data[int(ends[0]) : int(ends[-1])]


def _join_ids(pieces: list[pa.Array], files: Sequence[str]) -> pa.Array:
    """Return ids in one piece; rows without one are all rows of the stack of their place."""
    prefixes = [f"{file}#".encode() for file in files]
    ends = np.zeros(sum(map(len, pieces)) + 1, np.int64)
    sizes = [_num_bytes(*piece) for piece in zip(pieces, prefixes, strict=True)]
    content = np.empty(sum(sizes), np.uint8)
    row = start = 0
    for prefix, size in zip(prefixes, sizes, strict=True):
        piece = pieces.pop(0)
        after = slice(row + 1, row + 1 + len(piece))
        if pa.types.is_null(piece.type):
            ends[after] = start + _write_numbers(content[start : start + size], prefix, len(piece))
        else:
            offsets, texts = text_buffers(piece)
            content[start : start + size], ends[after] = texts, start + offsets[1:] - offsets[0]
        row, start = row + len(piece), start + size
    return pa.LargeStringArray.from_buffers(row, pa.py_buffer(ends), pa.py_buffer(content))


def _num_bytes(piece: pa.Array, prefix: bytes) -> int:
    if pa.types.is_null(piece.type):
        spans = _spans(len(piece))
        return sum((stop - first) * (len(prefix) + width) for first, stop, width in spans)
    return len(text_buffers(piece)[1])


def _spans(num: int) -> Iterator[tuple[int, int, int]]:
    """Yield the numbers below `num` that have one number of digits, and this."""
    for width in range(1, len(str(num)) + 1):
        first, stop = 10 ** (width - 1) if width > 1 else 0, min(10**width, num)
        if first < stop:
            yield first, stop, width


def _write_numbers(content: NDArray[np.uint8], prefix: bytes, num: int) -> NDArray[np.int64]:
    """Write the numbers from 0 on, each after a prefix; return where each ends.

    Arrow's own join of texts would take thrice the memory.
    """
    ends, start = np.empty(num, np.int64), 0
    for first, stop, width in _spans(num):
        side = len(prefix) + width
        block = content[start : start + (stop - first) * side].reshape(-1, side)
        block[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
        left = np.arange(first, stop, dtype=np.uint32)
        for place in range(side - 1, len(prefix) - 1, -1):
            left, digits = np.divmod(left, 10)
            block[:, place] = digits + ord("0")
        ends[first:stop] = start + side * np.arange(1, stop - first + 1)
        start += block.size
    return ends


def _repeat(value: Any, num: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), num)


def _no_partner(num: int) -> pa.Array:
    return _one_file("", num)


def _one_file(file: str, num: int) -> pa.Array:
    places = pa.array(np.zeros(num, np.int32))
    return pa.DictionaryArray.from_arrays(places, pa.array([file], TEXT))
