"""Write all of a store but its pixels: metadata, columns, attributes, hashes; the seal, last."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from lenshpc.files import flush_tree, sha256, write_text
from lenshpc.store.buffers import Column, join_columns
from lenshpc.store.identity import RowTally, seal
from lenshpc.store.layout import StoreSpec, compressors
from lenshpc.store.schema import array_metadata, channel_names, consolidate
from lenshpc.store.texts import TEXT_CODEC, encode_texts

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class FoundRows:
    """The columns of some rows that follow each other, and the sum of their sources."""

    columns: Mapping[str, Column]
    sources: int


def write_around(
    path: Path,
    spec: StoreSpec,
    num_rows: int,
    found: Iterable[FoundRows],
    of_shards: Mapping[str, NDArray[Any]],
) -> None:
    """Make the folder of shards at `path` a whole store, in the memory of some chunks of columns.

    `found` comes shard by shard. All is flushed before the store is marked: one that says it is
    complete has all its bytes on the disk, also after a power cut.
    """
    _clear(path, spec)
    group = zarr.create_group(path, zarr_format=3)
    _create_pixels(group, spec, num_rows)
    tally = RowTally(spec.classes)
    writers: dict[str, _ColumnWriter] = {}
    chunk_rows = spec.rows_a_column_chunk(num_rows)
    num_parts = -(-chunk_rows // spec.rows_a_shard(num_rows))
    for part in _join_parts(found, num_parts):
        tally.add(part.columns, part.sources)
        for name, column in part.columns.items():
            if name not in writers:
                told = array_metadata(name, spec)
                writers[name] = _ColumnWriter(path / name, column, num_rows, chunk_rows, told)
            writers[name].append(column)
    others = {**of_shards, **channel_names(spec)}
    for name, whole in others.items():
        told = array_metadata(name, spec)
        _ColumnWriter(path / name, whole, len(whole), len(whole), told).append(whole)
    attributes = spec.attributes() | tally.summary()
    attributes["content_hash"] = tally.content_hash(attributes)
    small = [
        *(path / name / "zarr.json" for name in spec.arrays),
        *(file for name in (*writers, *others) for file in _files_in(path / name)),
    ]
    attributes["files"] = {str(file.relative_to(path)): sha256(file) for file in sorted(small)}
    flush_tree(path)
    _mark(path, attributes, sorted([*spec.arrays, *writers, *others]))


def _files_in(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file())


def _join_parts(found: Iterable[FoundRows], num_parts: int) -> Iterator[FoundRows]:
    """Yield so many parts as one; fewer at the end."""
    for parts in _batch(found, num_parts):
        names = parts[0].columns
        columns = {name: join_columns([part.columns[name] for part in parts]) for name in names}
        yield FoundRows(columns=columns, sources=sum(part.sources for part in parts))


def _batch(items: Iterable[Item], num: int) -> Iterator[list[Item]]:
    """Yield so many items at a time."""
    remaining = iter(items)
    while some := list(islice(remaining, num)):
        yield some


def _clear(path: Path, spec: StoreSpec) -> None:
    """Remove what a call that was killed in writing left: all but the shards."""
    for child in path.iterdir():
        if child.name in spec.arrays:
            (child / "zarr.json").unlink(missing_ok=True)
        elif child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()


def _create_pixels(group: zarr.Group, spec: StoreSpec, num_rows: int) -> None:
    for name, pixels in spec.arrays.items():
        group.create_array(
            name,
            shape=(num_rows, *pixels.shape),
            dtype=pixels.dtype,
            chunks=(spec.chunk_rows, *pixels.shape),
            shards=(spec.rows_a_shard(num_rows), *pixels.shape),
            compressors=compressors(spec.codec),
            **array_metadata(name, spec),
        )


class _ColumnWriter:
    """An array of the store that is written chunk by chunk."""

    def __init__(
        self, folder: Path, first: Column, num_rows: int, chunk_rows: int, told: Mapping[str, Any]
    ) -> None:
        """Make the array whose first rows are these; `told` is what zarr is told besides."""
        is_array = isinstance(first, np.ndarray)
        more = first.shape[1:] if is_array else ()
        self._texts, self._chunk_rows, self._num_written = folder / "c", chunk_rows, 0
        self._array = zarr.create_array(
            folder,
            zarr_format=3,
            shape=(num_rows, *more),
            dtype=first.dtype if is_array else str,
            chunks=(chunk_rows, *more),
            compressors="auto" if is_array else TEXT_CODEC,
            # Else zarr leaves out a chunk of zeros, which could not be told from one that is lost.
            config={"write_empty_chunks": True},
            **told,
        )

    def append(self, chunk: Column) -> None:
        """Write the next chunk."""
        start = self._num_written
        self._num_written += len(chunk)
        if isinstance(chunk, np.ndarray):
            self._array[start : self._num_written] = chunk
        else:
            self._texts.mkdir(exist_ok=True)
            file = self._texts / str(start // self._chunk_rows)
            file.write_bytes(encode_texts(chunk, self._chunk_rows))


def _mark(path: Path, attributes: dict[str, Any], names: Sequence[str]) -> None:
    """Put the attributes into the group's document, sealed, and the metadata of its arrays."""
    file = path / "zarr.json"
    document = json.loads(file.read_bytes()) | {"consolidated_metadata": consolidate(path, names)}
    # `complete` itself is under the seal.
    document["attributes"] = {**attributes, "complete": True}
    sealed = {**attributes, "seal": seal(document), "complete": True}
    write_text(file, json.dumps({**document, "attributes": sealed}, indent=2))
