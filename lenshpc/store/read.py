"""Open a store and read rows of it; whatever is not whole is refused, the damage named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import zarr
from numpy.typing import NDArray
from zarr.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from lenshpc.errors import DataError, absence_error, read_error
from lenshpc.files import read_bytes, sha256
from lenshpc.store.chunks import Chunks
from lenshpc.store.identity import seal
from lenshpc.store.layout import (
    DAMAGE,
    LAYOUT_VERSION,
    PIXEL_ARRAYS,
    SPLITS,
    Floats,
    damage_error,
    file_error,
    shard_file,
)

Rows = slice | NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Store:
    """A complete store, open for reading.

    A label is an index into `classes`, or -1 in the split `unlabelled`; `images` times `scale` are
    the floats that models see; `rows` has id, label, split (one of `SPLITS`), group, sha256 and the
    store's own columns;
    `targets` are the other halves of pairs; `moments` (N,C,2) has the mean and mean square of each
    image's scaled pixels; `content_hash` names all that the store holds, whatever its chunks and
    codec.
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
    targets: zarr.Array[Any] | None
    masks: zarr.Array[Any] | None
    rows: pd.DataFrame
    moments: Floats
    pixel_sha256: NDArray[np.uint8]
    shard_sha256: NDArray[np.uint8]
    chunk_crc32c: NDArray[np.uint32]
    attributes: Mapping[str, Any]

    @property
    def target_shape(self) -> tuple[int, int, int] | None:
        """Return the (C', H', W') of the other halves of pairs, if there are any."""
        if self.targets is None:
            return None
        _, channels, height, width = self.targets.shape
        return channels, height, width

    @property
    def num_rows(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    @property
    def chunk_rows(self) -> int:
        """Return how many rows are decoded together."""
        return self.chunks["images"].num_rows

    @property
    def shard_rows(self) -> int:
        """Return how many rows lie in one file."""
        return self.chunks["images"].shard_rows

    @property
    def num_shards(self) -> int:
        """Return the number of files that each pixel array has."""
        return self.chunks["images"].num_shards

    @cached_property
    def chunks(self) -> dict[str, Chunks]:
        """Return the pixel arrays that the store has, for reading chunk by chunk."""
        arrays = {"images": self.images, "targets": self.targets, "masks": self.masks}
        held = {name: array for name, array in arrays.items() if array is not None}
        return {
            name: Chunks(self.path, name, array, checksums)
            for (name, array), checksums in zip(held.items(), self.chunk_crc32c, strict=True)
        }

    def read(self, rows: Rows) -> NDArray[np.float32]:
        """Return scaled float32 (n,C,H,W); whole chunks are decoded, so ask for blocks of rows."""
        pixels = self.read_raw(rows).astype(np.float32, copy=False)
        return pixels if self.scale == 1 else pixels * np.float32(self.scale)

    def read_raw(self, rows: Rows) -> NDArray[Any]:
        """Return pixels (n,C,H,W) as they are stored."""
        return self._read("images", rows)

    def read_raw_targets(self, rows: Rows) -> NDArray[Any]:
        """Return the other halves of pairs (n,C',H',W') as they are stored."""
        if self.targets is None:
            raise DataError(f"{self.path} holds no pairs; prepare a dataset that has a target")
        return self._read("targets", rows)

    def read_masks(self, rows: Rows) -> NDArray[np.uint8]:
        """Return masks (n,C,H,W) of images, 1 where a pixel was filled."""
        if self.masks is None:
            raise DataError(
                f"{self.path} keeps no masks; prepare it from a dataset file with image.bad_pixels"
            )
        return self._read("masks", rows)

    def check_shard(self, shard: int) -> None:
        """Raise if any byte of one shard of the pixel arrays is not what was written."""
        for array, expected in zip(self.chunks, self.shard_sha256[:, shard], strict=True):
            file = shard_file(self.path, array, shard)
            name = str(file.relative_to(self.path))
            try:
                found = sha256(file)
            except OSError as error:
                raise file_error(self.path, name, error) from error
            if found != expected.tobytes().hex():
                raise damage_error(self.path, f"{name} does not match its hash")

    def strangers(self) -> list[str]:
        """Return the files in the store's folder that are not its own; nothing reads them."""
        shards = {
            str(shard_file(self.path, array, shard).relative_to(self.path))
            for array in self.chunks
            for shard in range(self.num_shards)
        }
        own = {"zarr.json", *self.attributes["files"], *shards}
        files = (file for file in self.path.rglob("*") if not file.is_dir())
        return sorted({str(file.relative_to(self.path)) for file in files} - own)

    def _read(self, array: str, rows: Rows) -> NDArray[Any]:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.num_rows))
        elif rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows:
            raise DataError(f"{self.path} has {self.num_rows} rows, not {rows.max() + 1}")
        return self.chunks[array].take(rows)


def open_store(path: Path) -> Store:
    """Return the store at `path`; refuse one that is absent, foreign, unfinished or damaged."""
    try:
        attributes = _read_attributes(path)
        columns = read_columns(path, attributes)
        store = _store(path, attributes, columns)
        _check_shards(store, columns["shard_bytes"])
    except OSError as error:
        raise read_error(error.filename or path, error) from error
    except DataError:
        raise
    except DAMAGE as error:
        raise damage_error(path, f"zarr.json: {error}") from error
    return store


def read_columns(path: Path, attributes: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return all arrays of the store at `path` but the pixels, each file checked by its hash."""
    by_array: dict[str, dict[str, str]] = {}
    for file, digest in attributes["files"].items():
        by_array.setdefault(file.partition("/")[0], {})[file] = digest
    found = {name: _read_array(path, name, files) for name, files in by_array.items()}
    return {name: column for name, column in found.items() if column is not None}


def _read_array(path: Path, name: str, files: Mapping[str, str]) -> NDArray[Any] | None:
    """Return an array whose files have these hashes; None for pixels, which stay on the disk."""
    checked = {file: _read_file(path, file, digest) for file, digest in files.items()}
    if name in PIXEL_ARRAYS:
        return None
    # From the very bytes that were checked: zarr would give the fill value for a file that is lost
    # in between, and decode what is damaged.
    memory: dict[str, Any] = {file: Buffer.from_bytes(data) for file, data in checked.items()}
    array = zarr.open_array(MemoryStore(memory, read_only=True), path=name, zarr_format=3, mode="r")
    values = np.asarray(array[...])
    return values.astype(object) if values.dtype.kind == "T" else values


def _read_file(path: Path, file: str, digest: str) -> bytes:
    try:
        content = read_bytes(path / file)
    except OSError as error:
        raise file_error(path, file, error) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise damage_error(path, f"{file} does not match its hash")
    return content


def _store(path: Path, attributes: dict[str, Any], columns: Mapping[str, NDArray[Any]]) -> Store:
    pixels = {
        name: zarr.open_array(path / name, mode="r", zarr_format=3)
        for name in PIXEL_ARRAYS
        if f"{name}/zarr.json" in attributes["files"]
    }
    images = pixels["images"]
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
        targets=pixels.get("targets"),
        masks=pixels.get("masks"),
        rows=_rows(columns, attributes["columns"]),
        moments=columns["moments"],
        pixel_sha256=columns["pixel_sha256"],
        shard_sha256=columns["shard_sha256"],
        chunk_crc32c=columns["chunk_crc32c"],
        attributes=attributes,
    )


def _read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of the store at `path`, whole by its seal."""
    file = path / "zarr.json"
    try:
        document = json.loads(read_bytes(file))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not path.exists():
            raise file_error(path, file.name, FileNotFoundError()) from error
        raise absence_error(
            path, f"{path} is no store: zarr.json is missing; make one with: lenshpc prepare"
        ) from error
    except (ValueError, RecursionError) as error:
        raise damage_error(path, f"zarr.json: {error}") from error
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or "lenshpc_store" not in attributes:
        raise DataError(
            f"{path} is zarr but no lenshpc store: its zarr.json says nothing of one; make one "
            "with: lenshpc prepare"
        )
    _check_attributes(path, document, attributes)
    return attributes


def _check_attributes(path: Path, document: Any, attributes: Mapping[str, Any]) -> None:
    # First: a version or a mark that is damaged must not be believed.
    if "seal" in attributes and attributes["seal"] != seal(document):
        raise damage_error(path, "zarr.json does not match its hash")
    version = attributes["lenshpc_store"]
    if version != LAYOUT_VERSION:
        raise DataError(
            f"{path}/zarr.json has layout {version}, not {LAYOUT_VERSION}: another version of "
            "lenshpc made it; prepare it again under another name"
        )
    # True itself: anything else is a store that was not finished, or not ours.
    if attributes.get("complete") is not True:
        raise DataError(
            f"{path} is not complete: its zarr.json has no mark of it; prepare it again under "
            "another name"
        )
    if "seal" not in attributes:
        raise damage_error(path, "zarr.json has no hash")


def _rows(columns: Mapping[str, NDArray[Any]], names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": columns["id"],
            "label": columns["label"],
            "split": np.array(SPLITS, dtype=object)[columns["split"]],
            "group": columns["group"],
            "sha256": _hexadecimal(columns["sha256"]),
            **{name: columns[name] for name in names},
        }
    )


def _hexadecimal(hashes: NDArray[np.uint8]) -> pd.Series[str]:
    """Return each row's hash (n,32) as a text; all at once, as a million texts cost seconds."""
    ends = np.arange(len(hashes) + 1, dtype=np.int64) * 2 * hashes.shape[1]
    buffers = pa.py_buffer(ends), pa.py_buffer(hashes.tobytes().hex().encode())
    texts: pd.Series[str] = pa.LargeStringArray.from_buffers(len(hashes), *buffers).to_pandas()
    return texts


def _check_shards(store: Store, shard_bytes: NDArray[np.int64]) -> None:
    # By their sizes alone, which needs no pixel; bytes are told by each chunk's crc32c when read,
    # and by `verify`.
    names = list(store.chunks)
    for (index, shard), num_bytes in np.ndenumerate(shard_bytes):
        file = shard_file(store.path, names[index], shard)
        name = str(file.relative_to(store.path))
        try:
            found = file.stat().st_size
        except OSError as error:
            raise file_error(store.path, name, error) from error
        if found != num_bytes:
            raise damage_error(store.path, f"{name} has {found} bytes, expected {num_bytes}")
