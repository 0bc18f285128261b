"""Open a store and read rows of it; whatever is not whole is refused, the damage named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.files import sha256
from lenshpc.store.chunks import Chunks
from lenshpc.store.layout import (
    DAMAGE,
    LAYOUT_VERSION,
    SPLITS,
    Floats,
    array_of,
    content_hash,
    damage_error,
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
    image's scaled pixels; `content_hash` names what the store holds, whatever its chunks and codec.
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
    rows: pd.DataFrame
    moments: Floats
    shard_sha256: NDArray[np.uint8]
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
        """Return the images and, in a store of pairs, the targets, for reading chunk by chunk."""
        arrays = {"images": self.images, "targets": self.targets}
        return {
            name: Chunks(self.path, name, array)
            for name, array in arrays.items()
            if array is not None
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

    def check_shard(self, shard: int) -> None:
        """Raise if any byte of one shard of the pixel arrays is not what was written."""
        for array, expected in zip(self.chunks, self.shard_sha256[:, shard], strict=True):
            file = shard_file(self.path, array, shard)
            if sha256(file) != expected.tobytes().hex():
                name = file.relative_to(self.path)
                raise damage_error(self.path, f"shard {name} does not match its hash")

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
    group = _open_group(path)
    try:
        store = _store(path, group)
        _check_whole(store, np.asarray(array_of(group, "shard_bytes")[:]))
    except DataError:
        raise
    except DAMAGE as error:
        raise damage_error(path, str(error)) from error
    return store


def _store(path: Path, group: zarr.Group) -> Store:
    attributes: dict[str, Any] = dict(group.attrs)
    images = array_of(group, "images")
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
        targets=array_of(group, "targets") if attributes["target_shape"] else None,
        rows=_read_rows(group, attributes["columns"]),
        moments=np.asarray(array_of(group, "moments")[:], dtype=np.float64),
        shard_sha256=np.asarray(array_of(group, "shard_sha256")[:], dtype=np.uint8),
        attributes=attributes,
    )


def _open_group(path: Path) -> zarr.Group:
    if not path.exists():
        raise DataError(f"no store at {path}; make it with: lenshpc prepare DATASET SOURCE {path}")
    if not (path / "zarr.json").is_file():
        raise DataError(f"{path} is no store: zarr.json is missing; make one with: lenshpc prepare")
    try:
        group = zarr.open_group(path, mode="r")
    except DAMAGE as error:
        raise damage_error(path, f"zarr.json: {error}") from error
    _check_attributes(path, group.attrs)
    return group


def _check_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    version = attributes.get("lenshpc_store")
    if version is None:
        raise DataError(f"{path} is zarr but no lenshpc store; make one with: lenshpc prepare")
    if version != LAYOUT_VERSION:
        raise DataError(
            f"{path} has layout {version}, not {LAYOUT_VERSION}: another version of lenshpc made "
            "it; prepare it again"
        )
    # True itself: anything else is a store that was not finished, or not ours.
    if attributes.get("complete") is not True:
        raise DataError(
            f"{path} is not complete: its preparation was interrupted; remove it and prepare again"
        )


def _read_rows(group: zarr.Group, columns: Sequence[str]) -> pd.DataFrame:
    names = ("id", "label", "group", *columns)
    values = {name: np.asarray(array_of(group, name)[:]) for name in names}
    split = np.asarray(array_of(group, "split")[:], dtype=np.intp)
    hashes = np.asarray(array_of(group, "sha256")[:], dtype=np.uint8)
    return pd.DataFrame(
        {
            "id": values["id"].astype(object),
            "label": values["label"],
            "split": np.array(SPLITS, dtype=object)[split],
            "group": values["group"].astype(object),
            "sha256": [row.tobytes().hex() for row in hashes],
            **{name: values[name] for name in columns},
        }
    )


def _check_whole(store: Store, shard_bytes: NDArray[np.int64]) -> None:
    # Cheap, since it needs no pixel; these are told by each chunk's crc32c when read, and by
    # `verify`.
    if store.content_hash != content_hash(store.attributes, store.rows):
        raise damage_error(store.path, "the rows do not match the content hash")
    names = list(store.chunks)
    if any(chunks.array.shape[0] != store.num_rows for chunks in store.chunks.values()) or (
        shard_bytes.shape != (len(names), store.num_shards)
    ):
        raise damage_error(store.path, "the arrays differ in their number of rows")
    for (index, shard), num_bytes in np.ndenumerate(shard_bytes):
        file = shard_file(store.path, names[index], shard)
        found = file.stat().st_size if file.is_file() else 0
        if found != num_bytes:
            name = file.relative_to(store.path)
            raise damage_error(store.path, f"shard {name} has {found} bytes, expected {num_bytes}")
