"""A store under construction: any process writes any shard, a killed one costs its shard alone.

A draft lies beside the store to be, in `.NAME.HASH.partial`; the hash is of all that determines the
result, so that the same command finds its own draft again, and another command never writes into
it. A shard counts as written when its part stands in `parts/`, which is put there last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from lenshpc.errors import DataError, IncompleteError
from lenshpc.files import flush, flush_tree, read_json, replacing
from lenshpc.store.layout import (
    SPLITS,
    TEXT_ROWS,
    UNLABELLED,
    Pixels,
    StoreSpec,
    channel_statistics,
    compressors,
    content_hash,
    manifest_hash,
    pixel_moments,
    shard_file,
)
from lenshpc.store.shards import ShardWriter, writing

# What a part holds of its rows.
_FOUND = ("sha256", "size", "moments", "values")


@dataclass(frozen=True, kw_only=True)
class WrittenChunk:
    """The rows of one chunk: for each pixel array of the store (n,C,H,W), and what came with them.

    `sha256` (n,32) and `size` (n,) are those of the source files; `values` (n,K) are `columns`.
    """

    pixels: Mapping[str, NDArray[Any]]
    sha256: NDArray[np.uint8]
    size: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Draft:
    """The store that will stand at `path`, under construction in `folder`."""

    folder: Path
    path: Path
    spec: StoreSpec
    num_rows: int
    settings: Mapping[str, Any]

    @property
    def blocks(self) -> list[slice]:
        """Return the rows of each shard."""
        size = self.spec.rows_a_shard(self.num_rows)
        starts = range(0, self.num_rows, size)
        return [slice(start, min(start + size, self.num_rows)) for start in starts]

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not written."""
        # Parts alone count, never the shards' files: a shard may lie there whole while its hashes
        # do not.
        written = {path.name for path in self._parts.glob("*.npz")}
        return [i for i in range(len(self.blocks)) if self._part(i).name not in written]

    def rows(self, shard: int) -> pd.DataFrame:
        """Return the rows of one shard as they were given to `begin`."""
        frame: pd.DataFrame = self._rows_file.read_row_group(shard).to_pandas()
        return frame

    def write(self, shard: int, chunks: Iterable[WrittenChunk]) -> None:
        """Write one shard whole; doing it twice, even at the same time, gives equal files."""
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in _FOUND}
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(self._writing(name, shard)) for name in self.spec.arrays
            }
            for chunk in chunks:
                for name, writer in writers.items():
                    writer.append(self._pad(chunk.pixels[name]))
                moments = pixel_moments(chunk.pixels["images"], self.spec.image.scale)
                of_rows = (chunk.sha256, chunk.size, moments, chunk.values)
                for name, values in zip(_FOUND, of_rows, strict=True):
                    found[name].append(np.asarray(values))
        part: dict[str, Any] = {name: np.concatenate(values) for name, values in found.items()}
        part["shard_sha256"] = np.array([list(writer.sha256) for writer in writers.values()])
        part["shard_bytes"] = np.array([writer.num_bytes for writer in writers.values()])
        # Last, when all of the shard's files are flushed and in place: the stack has closed the
        # writers. Killed before, the shard is written again, to equal files.
        with replacing(self._part(shard)) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **part)

    def _writing(self, array: str, shard: int) -> AbstractContextManager[ShardWriter]:
        # In `parts`, not in the store: a draft that a killed process leaves must not end up in what
        # is renamed.
        draft = self._parts / f"{array}-{shard}.{os.getpid()}.tmp"
        num_chunks = self.spec.rows_a_shard(self.num_rows) // self.spec.chunk_rows
        return writing(shard_file(self.store, array, shard), draft, self.spec.codec, num_chunks)

    def _pad(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return a whole chunk: the last one of a store may lack rows."""
        if len(rows) == self.spec.chunk_rows:
            return rows
        # Zeros and not what memory holds: two writings of a shard must give equal bytes.
        whole = np.zeros((self.spec.chunk_rows, *rows.shape[1:]), rows.dtype)
        whole[: len(rows)] = rows
        return whole

    def finish(self) -> None:
        """Join the parts, flush every file, write `complete`, and move the store to its place."""
        missing = self.missing()
        if missing:
            raise IncompleteError(
                f"{len(missing)} of {len(self.blocks)} shards of {self.path} are not converted; "
                "go on with the same lenshpc prepare command"
            )
        # Again, after hours of conversion: another command may have made a store of this name.
        refuse_existing(self.path)
        rows = pd.concat([self.rows(shard) for shard in range(len(self.blocks))])
        group = zarr.open_group(self.store, mode="r+")
        _write_columns(group, rows, self._join_parts(), self.spec)
        # Flush, mark, flush, rename: a store that says it is complete must have all its bytes on
        # disk, also after a power cut. Killed in between, `finish` writes the rows again.
        flush_tree(self.store)
        group.attrs["complete"] = True
        flush(self.store / "zarr.json")
        self.store.rename(self.path)
        flush(self.path.parent)
        # Last: until the rename the parts are what a stopped `finish` goes on from.
        self.remove()

    def remove(self) -> None:
        """Remove the draft, and what calls that were killed in making it left."""
        for folder in (self.folder, *self.path.parent.glob(f"{self.folder.name}.*.tmp")):
            shutil.rmtree(folder)

    @property
    def store(self) -> Path:
        """Return where the store lies until it is whole."""
        return self.folder / "store"

    @property
    def _parts(self) -> Path:
        return self.folder / "parts"

    def _part(self, shard: int) -> Path:
        return self._parts / f"{shard:06d}.npz"

    @cached_property
    def _rows_file(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.folder / "rows.parquet")

    def _join_parts(self) -> dict[str, NDArray[Any]]:
        """Return what the parts hold; those of shards have the shard as their second axis."""
        parts = [np.load(self._part(shard)) for shard in range(len(self.blocks))]
        by_shard = ("shard_sha256", "shard_bytes")
        return {
            name: np.stack([part[name] for part in parts], axis=1)
            if name in by_shard
            else np.concatenate([part[name] for part in parts])
            for name in parts[0]
        }


def begin(path: Path, spec: StoreSpec, rows: pd.DataFrame, settings: Mapping[str, Any]) -> Draft:
    """Return the draft of the store at `path`: the one that an equal call began, or a new one.

    `rows` has id, label, split and group in their final order, splits contiguous, and whatever the
    writer needs beside them; `settings` too is handed back by `open_draft`.
    """
    refuse_existing(path)
    order = {"spec": asdict(spec), "settings": dict(settings), "path": str(path.resolve())}
    # Beside the target, on its file system: the rename at the end must not become a copy.
    folder = path.with_name(f".{path.name}.{_digest(order, rows)[:12]}.partial")
    if not folder.is_dir():
        _create(folder, spec, rows, order)
    return open_draft(folder)


def open_draft(folder: Path) -> Draft:
    """Return the draft in a folder."""
    order = read_json(folder / "order.json")
    spec = dict(order["spec"])
    pixels = {key: _pixels(spec.pop(key)) for key in ("image", "target")}
    names = {key: tuple(spec.pop(key)) for key in ("classes", "columns")}
    return Draft(
        folder=folder,
        path=Path(order["path"]),
        spec=StoreSpec(**spec, **pixels, **names),  # type: ignore[arg-type]
        num_rows=order["num_rows"],
        settings=order["settings"],
    )


def refuse_existing(path: Path) -> None:
    """Raise if anything stands at `path`; a store is never overwritten."""
    if os.path.lexists(path):
        raise DataError(f"{path} exists; give another name, or remove it with: rm -r {path}")


def _pixels(value: Mapping[str, Any] | None) -> Pixels | None:
    if value is None:
        return None
    return Pixels(
        shape=tuple(value["shape"]), dtype=value["dtype"], channels=tuple(value["channels"])
    )


def _digest(order: Mapping[str, Any], rows: pd.DataFrame) -> str:
    digest = hashlib.sha256(json.dumps(order, sort_keys=True).encode())
    # The rows in their order, too: a draft must never be continued with other images.
    digest.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _create(folder: Path, spec: StoreSpec, rows: pd.DataFrame, order: Mapping[str, Any]) -> None:
    """Make the draft under a temporary name; of two processes that do, the first one's stays."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        (temporary / "parts").mkdir(parents=True)
        size = spec.rows_a_shard(len(rows))
        table = pa.Table.from_pandas(rows, preserve_index=False)
        pq.write_table(table, temporary / "rows.parquet", row_group_size=size)
        _create_arrays(temporary / "store", spec, len(rows))
        text = json.dumps({**order, "num_rows": len(rows)}, indent=1)
        (temporary / "order.json").write_text(text, encoding="utf-8")
        flush_tree(temporary)
        # A folder cannot replace one that holds files: the second process fails here, and takes the
        # first one's draft.
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _create_arrays(path: Path, spec: StoreSpec, num_rows: int) -> None:
    group = zarr.create_group(path)
    for name, pixels in spec.arrays.items():
        group.create_array(
            name,
            shape=(num_rows, *pixels.shape),
            dtype=pixels.dtype,
            chunks=(spec.chunk_rows, *pixels.shape),
            shards=(spec.rows_a_shard(num_rows), *pixels.shape),
            compressors=compressors(spec.codec),
            dimension_names=("row", "channel", "y", "x"),
        )


def _write_columns(
    group: zarr.Group, rows: pd.DataFrame, joined: dict[str, NDArray[Any]], spec: StoreSpec
) -> None:
    """Write all but the pixels: what was planned of each row, and what was found in its file."""
    values = joined.pop("values")
    columns = {
        "label": rows["label"].to_numpy(dtype=np.int16),
        "split": rows["split"].map(SPLITS.index).to_numpy(dtype=np.uint8),
        "id": rows["id"].to_numpy(dtype=object),
        "group": rows["group"].to_numpy(dtype=object),
        **{name: values[:, index] for index, name in enumerate(spec.columns)},
        "sha256": joined["sha256"].astype(np.uint8),
        "size": joined["size"].astype(np.int64),
        "moments": joined["moments"].astype(np.float64),
        "shard_sha256": joined["shard_sha256"].astype(np.uint8),
        "shard_bytes": joined["shard_bytes"].astype(np.int64),
    }
    for name, column in columns.items():
        _write_column(group, name, column)
    # put replaces all attributes, so a `complete` of an earlier, stopped call goes, too.
    group.attrs.put(spec.attributes() | _compute_attributes(rows, columns, spec))


def _write_column(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    text = values.dtype == object
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=str if text else values.dtype,
        chunks=(min(TEXT_ROWS, len(values)), *values.shape[1:]),
        overwrite=True,  # by a call that was killed here before
    )
    array[...] = values.astype(np.dtypes.StringDType()) if text else values


def _compute_attributes(
    rows: pd.DataFrame, columns: Mapping[str, NDArray[Any]], spec: StoreSpec
) -> dict[str, Any]:
    """Return the attributes that need all rows."""
    hashed = rows.assign(sha256=[row.tobytes().hex() for row in columns["sha256"]])
    # Of the train split alone.
    mean, std = channel_statistics(columns["moments"][(rows["split"] == "train").to_numpy()])
    return {
        "counts": _counts(rows, spec.classes),
        "train_mean": mean.tolist(),
        "train_std": std.tolist(),
        "manifest_hash": manifest_hash(hashed, columns["size"].tolist()),
        "content_hash": content_hash(spec.attributes(), hashed),
    }


def _counts(rows: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, dict[str, int]]:
    tallies = {
        str(split): labels.value_counts() for split, labels in rows.groupby("split")["label"]
    }
    named = dict(enumerate(classes)) | {UNLABELLED: "without a label"}
    return {
        split: {
            name: int(tallies[split].get(label, 0))
            for label, name in named.items()
            if (label == UNLABELLED) == (split == "unlabelled")
        }
        for split in SPLITS
        if split in tallies
    }
