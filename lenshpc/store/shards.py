"""Write the file of one shard chunk by chunk, in the memory of one chunk.

This is the write path of zarr's sharding codec (zarr v3, `sharding_indexed`, the index at the end).
zarr-python writes the same bytes, but holds a shard some three times over.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numpy.typing import NDArray

from lenshpc.files import replacing
from lenshpc.store.layout import COMPRESSION_LEVEL, Codec

_ABSENT = 2**64 - 1  # offset and length of a chunk that holds no row


class ShardWriter:
    """One shard in the making; chunks are appended in the order of their rows."""

    def __init__(self, stream: BinaryIO, codec: Codec, num_chunks: int) -> None:
        self._stream = stream
        self._blosc = None if codec == "none" else Blosc(codec, COMPRESSION_LEVEL, Blosc.BITSHUFFLE)
        # Little-endian by name: the file must be the same from every machine.
        self._index = np.full((num_chunks, 2), _ABSENT, "<u8")
        self._checksums = np.zeros(num_chunks, np.uint32)
        self._num_chunks = 0
        self._digest = hashlib.sha256()
        self.num_bytes = 0
        self.mtime_ns = 0  # of the file that was written, when it is finished

    @property
    def sha256(self) -> bytes:
        """Return the SHA-256 of what was written."""
        return self._digest.digest()

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """Return the CRC-32C of each chunk as it was written; 0 of those without rows."""
        return self._checksums

    def append(self, rows: NDArray[np.generic]) -> None:
        """Write one chunk, all its rows (n,C,H,W)."""
        content = self._blosc.encode(rows) if self._blosc else rows.tobytes()
        start = self.num_bytes
        self._checksums[self._num_chunks] = self._write(content)
        self._index[self._num_chunks] = start, self.num_bytes - start
        self._num_chunks += 1

    def finish(self) -> None:
        """Write the index."""
        self._write(self._index.tobytes())
        self._stream.flush()
        self.mtime_ns = os.fstat(self._stream.fileno()).st_mtime_ns

    def _write(self, content: bytes) -> int:
        checksum: int = google_crc32c.value(content)
        for part in (content, checksum.to_bytes(4, "little")):
            self._stream.write(part)
            self._digest.update(part)
            self.num_bytes += len(part)
        return checksum


@contextmanager
def writing(path: Path, codec: Codec, num_chunks: int) -> Iterator[ShardWriter]:
    """Yield a writer of the shard at `path`, flushed and put there when the block ends well."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        writer = ShardWriter(stream, codec, num_chunks)
        yield writer
        # Only where the block ended well: a shard without an index is refused by every reader.
        writer.finish()
