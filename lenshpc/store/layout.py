"""The layout of a store: its arrays, how long chunks and shards are, and what its codecs are.

A store is a zarr v3 group of arrays with one row an image (N rows, C channels, H by W pixels, S
shards, A pixel arrays): `images` (N,C,H,W) and, for pairs, `targets`; `masks` of the images, uint8,
1 where a pixel was filled, in a store that keeps them, and `num_filled` (N,C) of each image;
`label`, `split`, `id`, `group`, one float column for each of `columns`; `sha256` (N,32) and `size`
of the source file;
`moments` (N,C,2) of the images; `pixel_sha256` (N,32) of each row's decoded pixels; `shard_sha256`
(A,S,32) and `shard_bytes` (A,S) of the pixels' files, `chunk_crc32c` (A,S,K) of the chunks in them.
Rows of a split are contiguous, in the order of `SPLITS`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from lenshpc.errors import ConfigError, DataError, absence_error, one_line, read_error

Floats = NDArray[np.float64]
Codec = Literal["lz4", "zstd", "none"]

LAYOUT_VERSION = 5
UNLABELLED = -1  # the label of rows that have none
SPLITS = ("train", "val", "test", "unlabelled")
PIXEL_ARRAYS = ("images", "targets", "masks")
TEXTS = ("id", "group")
NUMBERS = ("sha256", "size", "moments", "pixel_sha256")
CHUNK_ROWS = 32
CHUNK_BYTES = 2**16  # of images so small that the work around a chunk would cost more than its rows
SHARD_ROWS = 2048
SHARD_BYTES = 2**26
MANY_SHARDS = 256  # from so many on they grow to SHARD_BYTES: each costs a look at every opening
COLUMN_ROWS = 2**17  # of a column's chunks, about: a file each
COMPRESSION_LEVEL = 5
MOMENT_BYTES = 2**18  # of the floats that moments are taken of together: they stay in the cache
# What zarr, numcodecs and json raise when the bytes on the disk are not what was written.
DAMAGE = (ValueError, LookupError, TypeError, RuntimeError, AttributeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """What one array of pixels holds: its rows' shape (C,H,W), dtype and channels."""

    shape: tuple[int, int, int]
    dtype: str
    channels: tuple[str, ...]

    @property
    def scale(self) -> float:
        """Return the factor that turns stored pixels into the floats that models see."""
        return pixel_scale(self.dtype)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of one row."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """What is fixed before the first image is written.

    `columns` are names of numbers a row beside its label; `source` is the dataset file that the
    rows were read by, kept to verify them; `masks` says that each image comes with a mask of the
    pixels that were filled; `chunk_rows` of 0 and `shard_rows` of None fit these to the images'
    size.
    """

    dataset: str
    classes: tuple[str, ...]
    image: Pixels
    target: Pixels | None = None
    masks: bool = False
    columns: tuple[str, ...] = ()
    seed: int = 0
    source: Mapping[str, Any] = field(default_factory=dict)
    codec: Codec = "lz4"
    chunk_rows: int = 0
    shard_rows: int | None = None

    def __post_init__(self) -> None:
        """Fit the chunks, where nothing is said of them."""
        if self.chunk_rows == 0:
            fitting = max(1, CHUNK_BYTES // self._row_bytes // CHUNK_ROWS) * CHUNK_ROWS
            if self.shard_rows:
                sizes = range(fitting, 0, -CHUNK_ROWS)
                whole = (size for size in sizes if self.shard_rows % size == 0)
                fitting = next(whole, min(CHUNK_ROWS, self.shard_rows))
            # So that whoever reads the spec again has the number that shards were cut by.
            object.__setattr__(self, "chunk_rows", fitting)

    @property
    def _row_bytes(self) -> int:
        return sum(pixels.num_bytes for pixels in self.arrays.values())

    @property
    def arrays(self) -> dict[str, Pixels]:
        """Return the pixel arrays by name: images, the targets of pairs, the images' masks."""
        found = {"images": self.image}
        if self.target:
            found["targets"] = self.target
        if self.masks:
            found["masks"] = replace(self.image, dtype="uint8")
        return found

    def rows_a_shard(self, num_rows: int) -> int:
        """Return how many rows a shard holds, a multiple of a chunk's: few for large images."""
        if self.shard_rows is not None and self.shard_rows % self.chunk_rows:
            raise ConfigError(
                f"a shard of {self.shard_rows} rows is not a multiple of its chunks of "
                f"{self.chunk_rows}; give a multiple"
            )
        wanted = max(SHARD_ROWS, num_rows // MANY_SHARDS)
        most = self.shard_rows or min(wanted, SHARD_BYTES // self._row_bytes)
        chunks = min(most // self.chunk_rows, -(-num_rows // self.chunk_rows))
        return self.chunk_rows * max(1, chunks)

    def rows_a_column_chunk(self, num_rows: int) -> int:
        """Return how many rows of a column lie in one file: those of some whole shards."""
        shard_rows = self.rows_a_shard(num_rows)
        return min(num_rows, shard_rows * max(1, COLUMN_ROWS // shard_rows))

    def attributes(self) -> dict[str, Any]:
        """Return what the store says of itself; chunks and codec, zarr's metadata tell."""
        image, target = self.image, self.target
        paired = {
            "target_shape": list(target.shape) if target else None,
            "target_channels": list(target.channels) if target else None,
        }
        return {
            "lenshpc_store": LAYOUT_VERSION,
            "dataset": self.dataset,
            "classes": list(self.classes),
            "channels": list(image.channels),
            "image_shape": list(image.shape),
            "dtype": image.dtype,
            "scale": image.scale,
            **paired,
            "masks": self.masks,
            "columns": list(self.columns),
            "seed": self.seed,
            "source": dict(self.source),
        }


def compressors(codec: Codec) -> list[BloscCodec | Crc32cCodec]:
    """Return how a chunk becomes bytes.

    Neither Blosc nor plain bytes have a checksum: without crc32c a flipped bit would pass unseen.
    """
    if codec == "none":
        return [Crc32cCodec()]
    return [
        BloscCodec(cname=codec, clevel=COMPRESSION_LEVEL, shuffle="bitshuffle"),
        Crc32cCodec(),
    ]


def channel_statistics(moments: Floats) -> tuple[Floats, Floats]:
    """Return mean and standard deviation (C,) of all pixels of the rows in `moments` (n,C,2)."""
    return statistics_of_means(moments.mean(axis=0))


def add_in_order(sums: Floats, moments: Floats) -> Floats:
    """Return sums (C,2) with those of more rows (n,C,2) added.

    Row after row, so that the sum of all does not depend on how they come in blocks.
    """
    total: Floats = np.concatenate([sums[None], moments]).sum(axis=0)
    return total


def statistics_of_means(means: Floats) -> tuple[Floats, Floats]:
    """Return mean and standard deviation (C,) from the mean and mean square (C,2) of pixels."""
    # float64: the difference of mean square and squared mean may be a millionth of either. It may
    # come out below 0 by rounding, hence the maximum.
    mean, mean_square = np.moveaxis(means, -1, 0)
    return mean, np.sqrt(np.maximum(mean_square - mean**2, 0.0))


def pixel_scale(dtype: str) -> float:
    """Return the factor that turns stored pixels of a dtype into the floats that models see."""
    return 1 / 255 if dtype == "uint8" else 1.0


def pixel_moments(images: NDArray[Any], scale: float) -> Floats:
    """Return the mean and mean square of the scaled pixels of each image and channel: (n,C,2)."""
    moments = np.empty((*images.shape[:2], 2))
    # Along the last axis alone: the moments of a row must not depend on which rows share its block.
    flat = images.reshape(*images.shape[:2], -1)
    step = max(1, MOMENT_BYTES // (8 * math.prod(flat.shape[1:])))
    room = np.empty((step, *flat.shape[1:]))
    for start in range(0, len(flat), step):
        some = flat[start : start + step]
        pixels = np.multiply(some, scale, out=room[: len(some)], dtype=np.float64)
        np.add.reduce(pixels, axis=2, out=moments[start : start + step, :, 0])
        np.square(pixels, out=pixels)
        np.add.reduce(pixels, axis=2, out=moments[start : start + step, :, 1])
    moments /= flat.shape[2]
    return moments


def count_filled(masks: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return how many pixels of each image and channel were filled: (n,C)."""
    counts: NDArray[np.uint32] = masks.sum(axis=(2, 3), dtype=np.uint32)
    return counts


def shard_file(path: Path, array: str, shard: int) -> Path:
    """Return the file of one shard of a store's pixel array."""
    return path / array / "c" / str(shard) / "0" / "0" / "0"


def file_error(path: Path, file: str, reason: Exception | str) -> DataError:
    """Return the error of a file of the store at `path` that could not be read as it was written.

    Damage is wrong bytes alone, or none: what the system does not hand out may be whole.
    """
    if isinstance(reason, FileNotFoundError):
        if not path.exists():
            make = f"lenshpc prepare DATASET SOURCE {path}"
            return absence_error(path, f"no store at {path}; make it with: {make}")
        return damage_error(path, f"{file} is missing")
    if isinstance(reason, OSError):
        return read_error(path / file, reason)
    return damage_error(path, f"{file}: {reason}")


def damage_error(path: Path, reason: str) -> DataError:
    """Return the error of a store that is not what was written."""
    return DataError(f"{path} is damaged: {one_line(reason)}; prepare it again under another name")
