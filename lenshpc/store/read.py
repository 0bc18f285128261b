"""Open a store and read rows of it; whatever is not whole is refused, the damage named.

Opening reads `zarr.json`, which has the hash of every small file, and looks at the shards' sizes.
Columns and pixels are read, and checked, when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import zarr
from numpy.typing import NDArray

from lenshpc.errors import DataError, absence_error
from lenshpc.files import read_bytes, sha256
from lenshpc.store.buffers import Column
from lenshpc.store.chunks import Chunks
from lenshpc.store.columns import StoredColumns, naming_damage
from lenshpc.store.identity import seal
from lenshpc.store.layout import (
    LAYOUT_VERSION,
    NUMBERS,
    PIXEL_ARRAYS,
    SPLITS,
    TEXTS,
    Floats,
    add_in_order,
    damage_error,
    file_error,
    shard_file,
    statistics_of_means,
)

Rows = slice | NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Store:
    """A complete store, open for reading.

    A label is an index into `classes`, or -1 in the split `unlabelled`; `images` times `scale` are
    the floats that models see; `targets` are the other halves of pairs, `masks` say which pixels of
    an image were filled; `content_hash` names all that the store holds, whatever its chunks and
    codec. `columns` are names of numbers a row beside its label.
    """

    path: Path
    dataset: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    image_shape: tuple[int, int, int]
    columns: tuple[str, ...]
    num_rows: int
    scale: float
    content_hash: str
    images: zarr.Array[Any]
    targets: zarr.Array[Any] | None
    masks: zarr.Array[Any] | None
    attributes: Mapping[str, Any]
    stored: StoredColumns

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the images."""
        return np.dtype(self.images.dtype)

    def column(self, name: str, rows: Rows | None = None) -> NDArray[Any]:
        """Return numbers of all rows (N,…), kept for the next call, or of some rows.

        `label` int16, `split` uint8 (an index in `SPLITS`), `size` of the source file, `sha256`
        (N,32) of it, `pixel_sha256` (N,32), `moments` (N,C,2): mean and mean square of an image's
        scaled pixels; with masks `num_filled` (N,C), its filled pixels; and those of `columns`.
        """
        found: NDArray[Any] = self._read_column(name, rows)
        return found

    def text(self, name: str, rows: Rows | None = None) -> pa.LargeStringArray:
        """Return the `id` or the `group` of all rows, kept for the next call, or of some rows."""
        # One list of texts would else take twice the memory.
        same = name == "group" and not self.is_grouped
        return self._read_column("id" if same else name, rows)

    def in_split(self, split: str) -> NDArray[np.bool_]:
        """Return which rows are of a split."""
        return np.asarray(self.column("split") == SPLITS.index(split))

    def blocks(self, *names: str) -> Iterator[dict[str, Column]]:
        """Yield columns some 100,000 rows at a time, in order; none is kept."""
        by_name = (self.stored.blocks(name) for name in names)
        for columns in zip(*by_name, strict=True):
            yield dict(zip(names, columns, strict=True))

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Return the names of all columns with a row an image, those of texts too."""
        of_masks = () if self.masks is None else ("num_filled",)
        return (*TEXTS, "label", "split", *self.columns, *NUMBERS, *of_masks)

    @cached_property
    def is_grouped(self) -> bool:
        """Return whether a group may hold several rows: no where each row's is its id."""
        return not self.stored.are_equal("group", "id")

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Return id, label, split (one of `SPLITS`), group, sha256 and `columns` of all rows.

        For people: what works on millions of rows asks for the columns that it needs.
        """
        known = {name: self.column(name) for name in self.columns}
        with naming_damage(self.path, "its columns"):
            return pd.DataFrame(
                {
                    "id": self.text("id").to_pandas(),
                    "label": self.column("label"),
                    "split": name_splits(self.column("split")).to_pandas(),
                    "group": self.text("group").to_pandas(),
                    "sha256": hexadecimal(self.column("sha256")).to_pandas(),
                    **known,
                }
            )

    def _read_column(self, name: str, rows: Rows | None) -> Any:
        if rows is not None:
            return self.stored.take(name, self._list(rows))
        found = self.stored.read(name)
        if len(found) != self.num_rows:
            told = f"{name} has {len(found)} rows, its images {self.num_rows}"
            raise damage_error(self.path, told)
        return found

    def _list(self, rows: Rows) -> NDArray[np.intp]:
        """Return the numbers of some rows of the store."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.num_rows))
        elif rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows:
            raise DataError(f"{self.path} has {self.num_rows} rows, not {rows.max() + 1}")
        return rows

    @property
    def target_shape(self) -> tuple[int, int, int] | None:
        """Return the (C', H', W') of the other halves of pairs, if there are any."""
        if self.targets is None:
            return None
        _, channels, height, width = self.targets.shape
        return channels, height, width

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

    @property
    def arrays(self) -> dict[str, zarr.Array[Any]]:
        """Return the pixel arrays that the store has."""
        arrays = {"images": self.images, "targets": self.targets, "masks": self.masks}
        return {name: array for name, array in arrays.items() if array is not None}

    @cached_property
    def chunks(self) -> dict[str, Chunks]:
        """Return the pixel arrays, for reading chunk by chunk."""
        checksums = self.stored.read("chunk_crc32c")
        pairs = zip(self.arrays.items(), checksums, strict=True)
        return {name: Chunks(self.path, name, array, of_it) for (name, array), of_it in pairs}

    def statistics(self, rows: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """Return mean and standard deviation (C,) of all scaled pixels of some rows, ascending."""
        sums, start = np.zeros((len(self.channels), 2)), 0
        for block in self.blocks("moments"):
            moments = block["moments"]
            first, last = np.searchsorted(rows, (start, start + len(moments)))
            sums = add_in_order(sums, moments[rows[first:last] - start])
            start += len(moments)
        return statistics_of_means(sums / len(rows))

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
                f"{self.path} has no masks; prepare it from a dataset file with image.bad_pixels"
            )
        return self._read("masks", rows)

    def check_shard(self, shard: int) -> None:
        """Raise if any byte of one shard of the pixel arrays is not what was written."""
        hashes = self.stored.read("shard_sha256")[:, shard]
        for array, expected in zip(self.arrays, hashes, strict=True):
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
            for array in self.arrays
            for shard in range(self.num_shards)
        }
        own = {"zarr.json", *self.attributes["files"], *shards}
        files = (file for file in self.path.rglob("*") if not file.is_dir())
        return sorted({str(file.relative_to(self.path)) for file in files} - own)

    def _read(self, array: str, rows: Rows) -> NDArray[Any]:
        return self.chunks[array].take(self._list(rows))


def open_store(path: Path) -> Store:
    """Return the store at `path`; refuse one that is absent, foreign, unfinished or damaged."""
    with naming_damage(path, "zarr.json"):
        attributes = _read_attributes(path)
        store = _store(path, attributes)
        _check_shards(store)
    return store


def _store(path: Path, attributes: dict[str, Any]) -> Store:
    stored = StoredColumns(path, dict(attributes["files"]))
    pixels = dict.fromkeys(PIXEL_ARRAYS)
    for name in PIXEL_ARRAYS:
        if f"{name}/zarr.json" in attributes["files"]:
            stored.check_file(f"{name}/zarr.json")
            pixels[name] = zarr.open_array(path / name, mode="r", zarr_format=3)
    images = pixels["images"]
    if images is None or images.shape[0] != attributes["num_rows"]:
        raise damage_error(path, "zarr.json: its images are not as many as its rows")
    return Store(
        path=path,
        dataset=attributes["dataset"],
        classes=tuple(attributes["classes"]),
        channels=tuple(attributes["channels"]),
        image_shape=tuple(attributes["image_shape"]),
        columns=tuple(attributes["columns"]),
        num_rows=int(attributes["num_rows"]),
        content_hash=attributes["content_hash"],
        scale=float(attributes["scale"]),
        images=images,
        targets=pixels["targets"],
        masks=pixels["masks"],
        attributes=attributes,
        stored=stored,
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
            f"{path} is zarr but not a lenshpc store: its zarr.json does not describe one; make "
            "one with: lenshpc prepare"
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
            f"{path} is incomplete: its zarr.json does not mark it as complete; prepare it again "
            "under another name"
        )
    if "seal" not in attributes:
        raise damage_error(path, "zarr.json has no hash")


def name_splits(splits: NDArray[np.uint8]) -> pa.LargeStringArray:
    """Return the name of each split in `SPLITS`."""
    return pa.array(SPLITS, pa.large_string()).take(pa.array(splits))


def hexadecimal(hashes: NDArray[np.uint8]) -> pa.LargeStringArray:
    """Return each row's hash (n,32) as a text; all at once, as a million texts cost seconds."""
    ends = np.arange(len(hashes) + 1, dtype=np.int64) * 2 * hashes.shape[1]
    buffers = pa.py_buffer(ends), pa.py_buffer(hashes.tobytes().hex().encode())
    return pa.LargeStringArray.from_buffers(len(hashes), *buffers)


def _check_shards(store: Store) -> None:
    # By their sizes alone, which needs no pixel; bytes are told by each chunk's crc32c when read,
    # and by `verify`.
    names = list(store.arrays)
    for (index, shard), num_bytes in np.ndenumerate(store.stored.read("shard_bytes")):
        file = shard_file(store.path, names[index], shard)
        name = str(file.relative_to(store.path))
        try:
            found = file.stat().st_size
        except OSError as error:
            raise file_error(store.path, name, error) from error
        if found != num_bytes:
            raise damage_error(store.path, f"{name} has {found} bytes, expected {num_bytes}")
