"""Decode a store's images chunk by chunk, each checked by its checksum.

This is the read path of zarr's sharding codec (zarr v3, `sharding_indexed`) for the codecs that
stores are written with: crc32c after Blosc or after plain bytes.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc
from zarr.codecs import BloscCodec

from lenshpc.store import Store
from lenshpc.store.layout import damaged, shard_file

CHECKSUM_BYTES = 4
PLACE_BYTES = 16  # of a chunk in its shard's index: offset and length


@dataclass(frozen=True)
class Chunks:
    """The chunks of a store's images, numbered in the order of their rows."""

    store: Store

    def scratch(self) -> npt.NDArray[Any]:
        """Return room for one chunk: new memory for each would cost as much as decoding it."""
        return np.empty((self.store.chunk_rows, *self.store.image_shape), self.store.dtype)

    def read(self, chunk: int, scratch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the images (n, C, H, W) of one chunk as they are stored, in the scratch."""
        shard = chunk // self._num_in_shard
        start, num_bytes = self._places[chunk].tolist()
        try:
            content = self._checked(shard, start, num_bytes)
            if self._is_compressed:
                blosc.decompress(content, scratch)
            else:
                scratch[...] = np.frombuffer(content, scratch.dtype).reshape(scratch.shape)
        except (OSError, ValueError, RuntimeError, OverflowError) as error:
            raise damaged(self.store.path, f"chunk {chunk} of images: {error}") from error
        return scratch[: self.store.num_rows - chunk * self.store.chunk_rows]

    @property
    def _num_in_shard(self) -> int:
        return self.store.shard_rows // self.store.chunk_rows

    @cached_property
    def _is_compressed(self) -> bool:
        return any(isinstance(codec, BloscCodec) for codec in self.store.images.compressors)

    @cached_property
    def _places(self) -> npt.NDArray[np.uint64]:
        """Return offset and length of every chunk in its shard, by the indices that end shards."""
        num_bytes = self._num_in_shard * PLACE_BYTES + CHECKSUM_BYTES
        shards = range(self.store.num_shards)
        try:
            indices = [self._checked(shard, -num_bytes, num_bytes) for shard in shards]
        except (OSError, ValueError) as error:
            raise damaged(self.store.path, f"the index of a shard of images: {error}") from error
        return np.frombuffer(b"".join(indices), "<u8").reshape(-1, 2)

    def _checked(self, shard: int, start: int, num_bytes: int) -> bytes:
        """Return bytes of a shard, from its end if `start` is negative, without their checksum."""
        with shard_file(self.store.path, "images", shard).open("rb", buffering=0) as stream:
            stream.seek(start, 2 if start < 0 else 0)
            found = stream.read(num_bytes)
        content, checksum = found[:-CHECKSUM_BYTES], found[-CHECKSUM_BYTES:]
        if google_crc32c.value(content) != int.from_bytes(checksum, "little"):
            raise ValueError(f"{num_bytes} bytes at {start} of shard {shard} fail their checksum")
        return content
