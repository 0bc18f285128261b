"""Decode a pixel array chunk by chunk, each checked by its checksum, in any thread.

This is the read path of zarr's sharding codec (zarr v3, `sharding_indexed`) for the codecs that
stores are written with: crc32c after Blosc or after plain bytes. zarr-python gives the same pixels
at half the speed; zarrs 0.2.3 leaves out the checksums when it reads a part of a shard.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from lenshpc.store.layout import file_error, shard_file

CHECKSUM_BYTES = 4
_ABSENT = 2**64 - 1  # the length of a chunk without rows, in a shard's index


@dataclass(frozen=True)
class Scratch:
    """Room for the bytes and the pixels of one chunk.

    New memory for each chunk would cost as much as decoding it.
    """

    content: NDArray[np.uint8]
    pixels: NDArray[Any]


@dataclass(frozen=True)
class Chunks:
    """The chunks of one pixel array of the store at `path`, numbered in the order of their rows."""

    path: Path
    name: str
    array: zarr.Array[Any]
    checksums: NDArray[np.uint32]  # (S,K), of each chunk as it was written

    @property
    def num_rows(self) -> int:
        """Return how many rows are decoded together."""
        return int(self.array.chunks[0])

    @property
    def shard_rows(self) -> int:
        """Return how many rows lie in one file."""
        return int((self.array.shards or self.array.chunks)[0])

    @property
    def num_shards(self) -> int:
        """Return the number of files."""
        return -(-int(self.array.shape[0]) // self.shard_rows)

    def scratch(self) -> Scratch:
        """Return what one thread needs to decode chunks."""
        lengths = self._places[..., 1]
        largest = int(lengths[lengths != _ABSENT].max(initial=0))
        shape, dtype = (self.num_rows, *self.array.shape[1:]), np.dtype(self.array.dtype)
        return Scratch(np.empty(largest, np.uint8), np.empty(shape, dtype))

    def read(self, chunk: int, scratch: Scratch, into: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the rows (n,C,H,W) of one chunk as they are stored, in the scratch.

        Or in `into`: C-contiguous, of a chunk's shape and dtype.
        """
        shard, at = divmod(chunk * self.num_rows, self.shard_rows)
        start, num_bytes = self._places[shard, at // self.num_rows].tolist()
        # The result lies in memory that the next call overwrites: use it, or copy it, before.
        pixels = scratch.pixels if into is None else into
        try:
            # Before it is unpacked, since Blosc trusts the lengths in its header. By what the store
            # says of it, since a chunk of another one has the checksum that it ends with.
            expected = int(self.checksums[shard, at // self.num_rows])
            content = self._fill_checked(shard, start, scratch.content[:num_bytes], expected)
            if self._is_compressed:
                blosc.decompress(content, pixels)
            else:
                pixels[...] = content.view(pixels.dtype).reshape(pixels.shape)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._error(shard, error) from error
        return pixels[: self.array.shape[0] - chunk * self.num_rows]

    def take(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Return some rows in the order asked for; each chunk is decoded once."""
        found = np.empty((len(rows), *self.array.shape[1:]), np.dtype(self.array.dtype))
        # By chunk, so that each is decoded once, however the rows are asked for.
        order = np.argsort(rows, kind="stable")
        chunks, starts = np.unique(rows[order] // self.num_rows, return_index=True)
        scratch = self.scratch()
        for chunk, places in zip(chunks.tolist(), np.split(order, starts)[1:], strict=True):
            found[places] = self.read(chunk, scratch)[rows[places] - chunk * self.num_rows]
        return found

    @cached_property
    def _is_compressed(self) -> bool:
        return any(isinstance(codec, BloscCodec) for codec in self.array.compressors)

    @cached_property
    def _places(self) -> NDArray[np.uint64]:
        """Return offset and length of each chunk of each shard, from the indices at their ends."""
        num_chunks = self.shard_rows // self.num_rows
        places = np.empty((self.num_shards, num_chunks, 2), "<u8")
        room = np.empty(places[0].nbytes + CHECKSUM_BYTES, np.uint8)
        for shard in range(self.num_shards):
            try:
                index = self._fill_checked(shard, -len(room), room)
            except (OSError, ValueError) as error:
                raise self._error(shard, error) from error
            places[shard] = index.view("<u8").reshape(num_chunks, 2)
        return places

    def _fill_checked(
        self, shard: int, start: int, room: NDArray[np.uint8], expected: int | None = None
    ) -> NDArray[np.uint8]:
        """Fill the room with bytes of a shard, from its end if `start` is negative.

        Returns them without the checksum that they end with, which must be the `expected` one.
        """
        # Opened anew each time: threads would share the position of a file that stays open.
        with shard_file(self.path, self.name, shard).open("rb", buffering=0) as stream:
            stream.seek(start, 2 if start < 0 else 0)
            num_bytes = stream.readinto(room.data)
        content = room[:-CHECKSUM_BYTES]
        noted = int.from_bytes(room[-CHECKSUM_BYTES:].tobytes(), "little")
        right = noted == google_crc32c.value(content) and expected in {None, noted}
        # A short read too: of bytes left over from another chunk the checksum could still be right.
        if num_bytes != len(room) or not right:
            raise ValueError(f"{len(room)} bytes at {start} fail their checksum")
        return content

    def _error(self, shard: int, reason: Exception) -> Exception:
        file = shard_file(self.path, self.name, shard).relative_to(self.path)
        return file_error(self.path, str(file), reason)
