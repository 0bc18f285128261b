"""The columns of a store at rest: read when asked for, each file checked by its hash."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from lenshpc.errors import DataError, read_error
from lenshpc.files import read_bytes
from lenshpc.store.buffers import Column, invert, join_columns, take_rows
from lenshpc.store.layout import DAMAGE, damage_error, file_error
from lenshpc.store.texts import decode_texts

NUM_KEPT = 16  # chunks that were read last, of about 4 MB


class StoredColumns:
    """The arrays of the store at `path` but the pixels; `files` has the hash of each file."""

    def __init__(self, path: Path, files: Mapping[str, str]) -> None:
        self._path, self._files = path, files
        self._whole: dict[str, Column] = {}
        # The cost of a chunk is that of thousands of its rows, which are asked for in blocks.
        self._recent = lru_cache(NUM_KEPT)(self._read_chunk)
        self._array = lru_cache(None)(self._open_array)

    def read(self, name: str) -> Column:
        """Return a whole column, which is kept."""
        if name not in self._whole:
            self._whole[name] = join_columns(list(self.blocks(name)))
        return self._whole[name]

    def blocks(self, name: str) -> Iterator[Column]:
        """Yield a column chunk by chunk; none is kept."""
        with naming_damage(self._path, name):
            for number in range(self._array(name).num_chunks):
                yield self._read_chunk(name, number)

    def take(self, name: str, rows: NDArray[np.integer]) -> Column:
        """Return some rows in the order asked for; only the chunks that hold them are read."""
        if name in self._whole:
            return take_rows(self._whole[name], rows)
        # By chunk, so that each is read once, however the rows are asked for.
        order = np.argsort(rows, kind="stable")
        with naming_damage(self._path, name):
            chunk_rows = self._array(name).chunk_rows
            numbers, starts = np.unique(rows[order] // chunk_rows, return_index=True)
            parts = [
                take_rows(self._recent(name, number), rows[places] - number * chunk_rows)
                for number, places in zip(numbers, np.split(order, starts)[1:], strict=True)
            ]
            return take_rows(join_columns(parts or [self._recent(name, 0)[:0]]), invert(order))

    def are_equal(self, one: str, other: str) -> bool:
        """Return whether two columns of texts are the same, as the hashes of their files say."""
        return self._chunks_of(one) == self._chunks_of(other)

    def check_files(self) -> None:
        """Raise if any file, also of what nobody has asked for, is not what was written."""
        for file in self._files:
            self.check_file(file)

    def check_file(self, file: str) -> bytes:
        """Return the bytes of a file of the store, which must have the hash that it was given."""
        try:
            content = read_bytes(self._path / file)
        except OSError as error:
            raise file_error(self._path, file, error) from error
        if hashlib.sha256(content).hexdigest() != self._files[file]:
            raise damage_error(self._path, f"{file} does not match its hash")
        return content

    def _chunks_of(self, name: str) -> dict[str, str]:
        start = f"{name}/c/"
        named = self._files.items()
        return {file.removeprefix(start): one for file, one in named if file.startswith(start)}

    def _open_array(self, name: str) -> "StoredArray":
        return StoredArray(name, self.check_file(f"{name}/zarr.json"))

    def _read_chunk(self, name: str, number: int) -> Column:
        array = self._array(name)
        return array.decode(number, self.check_file(array.file_of(number)))


class StoredArray:
    """How a column's chunks lie on the disk, by the document that says so."""

    def __init__(self, name: str, document: bytes) -> None:
        self._name, self._document = name, document
        self._array = self._open({})

    @property
    def chunk_rows(self) -> int:
        """Return how many rows lie in one file."""
        return int(self._array.chunks[0])

    @property
    def num_chunks(self) -> int:
        """Return the number of files."""
        return -(-int(self._array.shape[0]) // self.chunk_rows)

    def file_of(self, number: int) -> str:
        """Return the file of a chunk, in the store's folder."""
        place = (number, *[0] * (self._array.ndim - 1))
        return f"{self._name}/{self._array.metadata.encode_chunk_key(place)}"

    def decode(self, number: int, content: bytes) -> Column:
        """Return the rows of a chunk."""
        rows = slice(number * self.chunk_rows, (number + 1) * self.chunk_rows)
        if self._array.dtype.kind == "T":
            return decode_texts(content)[: len(range(*rows.indices(self._array.shape[0])))]
        # From the very bytes that were checked: zarr would give the fill value for a file that is
        # lost in between, and decode what is damaged.
        array = self._open({self.file_of(number): Buffer.from_bytes(content)})
        return np.asarray(array[rows])

    def _open(self, chunks: dict[str, Any]) -> zarr.Array[Any]:
        memory = {f"{self._name}/zarr.json": Buffer.from_bytes(self._document), **chunks}
        place = MemoryStore(memory, read_only=True)
        return zarr.open_array(place, path=self._name, zarr_format=3, mode="r")


@contextmanager
def naming_damage(path: Path, what: str) -> Iterator[None]:
    """Turn whatever damaged bytes of a store make libraries raise into an error that names them."""
    try:
        yield
    except OSError as error:
        raise read_error(error.filename or path, error) from error
    except DataError:
        raise
    except DAMAGE as error:
        raise damage_error(path, f"{what}: {error}") from error
