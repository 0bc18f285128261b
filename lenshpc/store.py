"""The one file that knows the zarr layout: write a store once, whole; open it only when whole.

A store is a zarr v3 group of arrays with one row an image (N rows, C channels, H by W pixels):
`images` (N,C,H,W), `label`, `split`, `id`, `group`, `sha256` (N,32) and `size` of the source file,
`moments` (N,C,2). Rows of a split are contiguous, in the order of `SPLITS`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from lenshpc.errors import DataError
from lenshpc.files import flush_folder

Floats = NDArray[np.float64]

LAYOUT_VERSION = 1
SPLITS = ("train", "val", "test")
CHUNK_ROWS = 32
SHARD_ROWS = 2048
SHARD_BYTES = 2**28  # a writer holds one shard in memory: 150x150 float64 gets 1472 rows, not 2048
TEXT_ROWS = 65536
# What zarr, numcodecs and json raise when the bytes on the disk are not what was written.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """What is fixed before the first image is written."""

    dataset: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    image_shape: tuple[int, int, int]
    dtype: str
    seed: int

    @property
    def scale(self) -> float:
        """Return the factor that turns stored pixels into the floats that models see."""
        return 1 / 255 if self.dtype == "uint8" else 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Store:
    """A complete store, open for reading.

    A label is an index into `classes`; `images` times `scale` are the floats that models see;
    `rows` has id, label, split (train, val or test), group and sha256; `moments` (N,C,2) has the
    mean and mean square of each image's scaled pixels; `content_hash` names what the store holds,
    whatever its chunks and codec.
    """

    path: Path
    dataset: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    image_shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    scale: float
    content_hash: str
    images: zarr.Array[Any]
    rows: pd.DataFrame
    moments: Floats
    attributes: Mapping[str, Any]

    @property
    def num_rows(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def read(self, rows: slice | NDArray[Any]) -> NDArray[np.float32]:
        """Return scaled float32 (n,C,H,W); whole chunks are decoded, so ask for blocks of rows."""
        try:
            raw = np.asarray(self.images.oindex[rows, :, :, :])
        except IndexError as error:
            raise DataError(f"{self.path} has {self.num_rows} rows: {error}") from error
        except _DAMAGE as error:
            raise _damaged(self.path, f"shard {self._shards_of(rows)}: {error}") from error
        pixels = raw.astype(np.float32)
        return pixels if self.scale == 1 else pixels * np.float32(self.scale)

    def _shards_of(self, rows: slice | NDArray[Any]) -> str:
        touched = np.arange(self.num_rows)[rows] // _shard_rows_of(self.images)
        return ", ".join(f"images/c/{shard}/0/0/0" for shard in np.unique(touched))


def channel_statistics(moments: Floats) -> tuple[Floats, Floats]:
    """Return mean and standard deviation (C,) of all pixels of the rows in `moments` (n,C,2)."""
    mean, mean_square = np.moveaxis(moments.mean(axis=0), -1, 0)
    return mean, np.sqrt(np.maximum(mean_square - mean**2, 0.0))


def open_store(path: Path) -> Store:
    """Return the store at `path`; refuse one that is absent, foreign, unfinished or damaged."""
    group = _open_group(path)
    try:
        store = _store(path, group)
        _check_whole(store)
    except DataError:
        raise
    except _DAMAGE as error:
        raise _damaged(path, str(error)) from error
    return store


def _store(path: Path, group: zarr.Group) -> Store:
    attributes: dict[str, Any] = dict(group.attrs)
    images = _array(group, "images")
    return Store(
        path=path,
        dataset=attributes["dataset"],
        classes=tuple(attributes["classes"]),
        channels=tuple(attributes["channels"]),
        image_shape=tuple(attributes["image_shape"]),
        content_hash=attributes["content_hash"],
        dtype=np.dtype(images.dtype),
        scale=float(attributes["scale"]),
        images=images,
        rows=_read_rows(group),
        moments=np.asarray(_array(group, "moments")[:], dtype=np.float64),
        attributes=attributes,
    )


def _open_group(path: Path) -> zarr.Group:
    if not path.exists():
        raise DataError(f"no store at {path}; make it with: lenshpc prepare DATASET SOURCE {path}")
    if not (path / "zarr.json").is_file():
        raise DataError(f"{path} is no store: zarr.json is missing; make one with: lenshpc prepare")
    try:
        group = zarr.open_group(path, mode="r")
    except _DAMAGE as error:
        raise _damaged(path, f"zarr.json: {error}") from error
    _check_attributes(path, group.attrs)
    return group


def _check_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    version = attributes.get("lenshpc_store")
    if version is None:
        raise DataError(f"{path} is zarr but no lenshpc store; make one with: lenshpc prepare")
    if version != LAYOUT_VERSION:
        raise DataError(f"{path} has layout {version}, not {LAYOUT_VERSION}; prepare it again")
    if attributes.get("complete") is not True:
        raise DataError(
            f"{path} is not complete: its preparation was interrupted; remove it and prepare again"
        )


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is a group, expected an array")
    return array


def _read_rows(group: zarr.Group) -> pd.DataFrame:
    columns = {name: np.asarray(_array(group, name)[:]) for name in ("id", "label", "group")}
    split = np.asarray(_array(group, "split")[:], dtype=np.intp)
    hashes = np.asarray(_array(group, "sha256")[:], dtype=np.uint8)
    return pd.DataFrame(
        {
            "id": columns["id"].astype(object),
            "label": columns["label"],
            "split": np.array(SPLITS, dtype=object)[split],
            "group": columns["group"].astype(object),
            "sha256": [row.tobytes().hex() for row in hashes],
        }
    )


def _check_whole(store: Store) -> None:
    if store.content_hash != _content_hash(store.attributes, store.rows):
        raise _damaged(store.path, "the rows do not match the content hash")
    num_shards = -(-store.num_rows // _shard_rows_of(store.images))
    expected = store.attributes["shard_bytes"]
    if store.images.shape[0] != store.num_rows or len(expected) != num_shards:
        raise _damaged(store.path, "the arrays differ in their number of rows")
    for shard, num_bytes in enumerate(expected):
        file = _shard_file(store.path, shard)
        found = file.stat().st_size if file.is_file() else 0
        if found != num_bytes:
            name = file.relative_to(store.path)
            raise _damaged(store.path, f"shard {name} has {found} bytes, expected {num_bytes}")


def _damaged(path: Path, reason: str) -> DataError:
    reason = " ".join(reason.split())
    return DataError(f"{path} is damaged: {reason}; remove it and prepare it again")


def _shard_file(path: Path, shard: int) -> Path:
    return path / "images" / "c" / str(shard) / "0" / "0" / "0"


def _shard_rows_of(images: zarr.Array[Any]) -> int:
    return int((images.shards or images.chunks)[0])


def shard_rows(num_rows: int, image_shape: Sequence[int], dtype: str) -> int:
    """Return how many rows a shard holds: 2048, or fewer for few rows or large images."""
    image_bytes = int(np.prod(image_shape)) * np.dtype(dtype).itemsize
    most = min(SHARD_ROWS, SHARD_BYTES // image_bytes // CHUNK_ROWS * CHUNK_ROWS)
    needed = -(-num_rows // CHUNK_ROWS) * CHUNK_ROWS
    return max(CHUNK_ROWS, min(most, needed))


@contextmanager
def writing(path: Path, spec: StoreSpec, rows: pd.DataFrame) -> Iterator["StoreWriter"]:
    """Yield a writer; the store appears at `path` when the block ends well, else nothing stays.

    `rows` has id, label, split and group in their final order, splits contiguous.
    """
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = StoreWriter(temporary, spec, rows)
        yield writer
        writer.finish()
        refuse_existing(path)
        temporary.rename(path)
        flush_folder(path.parent)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}; nothing was left behind") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Raise if anything stands at `path`; a store is never overwritten."""
    if os.path.lexists(path):
        raise DataError(f"{path} exists; give another name, or remove it with: rm -r {path}")


class StoreWriter:
    """Fill a store in blocks of whole shards, in any order; two writers never share a shard."""

    def __init__(self, path: Path, spec: StoreSpec, rows: pd.DataFrame) -> None:
        self.path = path
        self.spec = spec
        self.rows = rows
        self.shard_rows = shard_rows(len(rows), spec.image_shape, spec.dtype)
        self._group = zarr.create_group(path, attributes=self._fixed_attributes())
        self._create_row_arrays()
        self._create_block_arrays()

    @property
    def blocks(self) -> list[slice]:
        """Return the rows of each shard."""
        num_rows = len(self.rows)
        starts = range(0, num_rows, self.shard_rows)
        return [slice(start, min(start + self.shard_rows, num_rows)) for start in starts]

    def write_block(
        self,
        block: slice,
        images: NDArray[Any],
        sha256: NDArray[np.uint8],
        size: NDArray[np.int64],
    ) -> None:
        """Write one of `blocks`: images (n,C,H,W), source hashes (n,32), source bytes (n,)."""
        values = {
            "images": images,
            "sha256": sha256,
            "size": size,
            "moments": pixel_moments(images, self.spec.scale),
        }
        for name, value in values.items():
            _array(self._group, name)[block] = value

    def finish(self) -> None:
        """Flush every file, then write `complete`: nothing opens without it."""
        self._group.attrs.update(self._final_attributes())
        _flush_tree(self.path)
        self._group.attrs["complete"] = True
        _flush_tree(self.path, pattern="zarr.json")

    def _create_row_arrays(self) -> None:
        codes = self.rows["split"].map(SPLITS.index).to_numpy(dtype=np.uint8)
        self._column("label", self.rows["label"].to_numpy(dtype=np.int16))
        self._column("split", codes)
        for name in ("id", "group"):
            self._column(name, self.rows[name].to_numpy(dtype=object))

    def _column(self, name: str, values: NDArray[Any]) -> None:
        text = values.dtype == object
        array = self._group.create_array(
            name,
            shape=values.shape,
            dtype=str if text else values.dtype,
            chunks=(min(TEXT_ROWS, len(values)),),
        )
        array[:] = values.astype(np.dtypes.StringDType()) if text else values

    def _create_block_arrays(self) -> None:
        # Chunks as long as a shard: whoever writes a shard writes these rows too, and alone.
        num_rows, num_channels = len(self.rows), self.spec.image_shape[0]
        for name, tail, dtype in (
            ("sha256", (32,), "uint8"),
            ("size", (), "int64"),
            ("moments", (num_channels, 2), "float64"),
        ):
            self._group.create_array(
                name, shape=(num_rows, *tail), dtype=dtype, chunks=(self.shard_rows, *tail)
            )
        self._group.create_array(
            "images",
            shape=(num_rows, *self.spec.image_shape),
            dtype=self.spec.dtype,
            chunks=(CHUNK_ROWS, *self.spec.image_shape),
            shards=(self.shard_rows, *self.spec.image_shape),
            # Blosc has no checksum of its own: without crc32c a flipped bit would pass unseen.
            compressors=[BloscCodec(cname="lz4", shuffle="bitshuffle"), Crc32cCodec()],
            dimension_names=("row", "channel", "y", "x"),
            # An all-zero shard is written too, so that a missing file always means damage.
            config={"write_empty_chunks": True},
        )

    def _fixed_attributes(self) -> dict[str, Any]:
        named = {
            "lenshpc_store": LAYOUT_VERSION,
            "scale": self.spec.scale,
            "counts": self._counts(),
        }
        return {**named, **asdict(self.spec)}

    def _counts(self) -> dict[str, dict[str, int]]:
        pairs = self.rows.groupby("split")["label"]
        tallies = {str(split): labels.value_counts() for split, labels in pairs}
        return {
            split: {name: int(tallies[split].get(i, 0)) for i, name in enumerate(self.spec.classes)}
            for split in SPLITS
            if split in tallies
        }

    def _final_attributes(self) -> dict[str, Any]:
        hashes = np.asarray(_array(self._group, "sha256")[:], dtype=np.uint8)
        rows = self.rows.assign(sha256=[row.tobytes().hex() for row in hashes])
        moments = np.asarray(_array(self._group, "moments")[:], dtype=np.float64)
        mean, std = channel_statistics(moments[(rows["split"] == "train").to_numpy()])
        sizes = np.asarray(_array(self._group, "size")[:])
        files = [_shard_file(self.path, shard) for shard in range(len(self.blocks))]
        return {
            "train_mean": mean.tolist(),
            "train_std": std.tolist(),
            "manifest_hash": _manifest_hash(rows, sizes.tolist()),
            "content_hash": _content_hash(self._fixed_attributes(), rows),
            "shard_bytes": [file.stat().st_size for file in files],
        }


def pixel_moments(images: NDArray[Any], scale: float) -> Floats:
    """Return the mean and mean square of the scaled pixels of each image and channel: (n,C,2)."""
    moments = np.empty((*images.shape[:2], 2))
    for row, image in enumerate(images):  # one at a time: the float64 copy stays in the cache
        pixels = image.reshape(len(image), -1) * np.float64(scale)
        moments[row, :, 0] = pixels.mean(axis=1)
        moments[row, :, 1] = np.square(pixels).mean(axis=1)
    return moments


def _content_hash(attributes: Mapping[str, Any], rows: pd.DataFrame) -> str:
    header = [attributes[key] for key in ("dataset", "classes", "image_shape", "dtype", "scale")]
    columns = ("id", "label", "split", "group", "sha256")
    return _hash_lines([header], zip(*(rows[name].tolist() for name in columns), strict=True))


def _manifest_hash(rows: pd.DataFrame, sizes: Sequence[int]) -> str:
    return _hash_lines(sorted(zip(rows["id"], sizes, rows["sha256"], strict=True)))


def _hash_lines(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for line in part:
            digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


def _flush_tree(root: Path, pattern: str = "*") -> None:
    for path in [root, *root.rglob(pattern)]:
        if path.is_dir():
            flush_folder(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
