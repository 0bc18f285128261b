"""Write all of a store but its pixels: metadata, columns, attributes, hashes; the seal, last."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from numpy.typing import NDArray

from lenshpc.files import flush_tree, sha256, write_text
from lenshpc.store.columns import as_text
from lenshpc.store.identity import content_hash, seal, summary
from lenshpc.store.layout import TEXT_ROWS, StoreSpec, compressors


def write_around(
    path: Path, spec: StoreSpec, rows: pa.Table, found: Mapping[str, NDArray[Any]]
) -> None:
    """Make the folder of shards at `path` a whole store: what was planned of each row, and found.

    All is flushed before the store is marked: one that says it is complete has all its bytes on the
    disk, also after a power cut.
    """
    _clear(path, spec)
    columns = _columns(spec, rows, found)
    group = zarr.create_group(path, zarr_format=3)
    _create_pixels(group, spec, len(rows))
    for name, column in columns.items():
        _write_column(group, name, column)
    attributes = spec.attributes() | summary(spec.classes, columns)
    attributes["content_hash"] = content_hash(attributes, columns)
    small = [
        *(path / name / "zarr.json" for name in spec.arrays),
        *(file for name in columns for file in (path / name).rglob("*") if file.is_file()),
    ]
    attributes["files"] = {str(file.relative_to(path)): sha256(file) for file in sorted(small)}
    flush_tree(path)
    _mark(path / "zarr.json", attributes)


def _clear(path: Path, spec: StoreSpec) -> None:
    """Remove what a call that was killed in writing left: all but the shards."""
    for child in path.iterdir():
        if child.name in spec.arrays:
            (child / "zarr.json").unlink(missing_ok=True)
        elif child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()


def _columns(
    spec: StoreSpec, rows: pa.Table, found: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    return {
        "label": rows["label"].to_numpy().astype(np.int16),
        "split": rows["split"].to_numpy().astype(np.uint8),
        "id": as_text(rows["id"]).to_numpy(zero_copy_only=False),
        "group": as_text(rows["group"]).to_numpy(zero_copy_only=False),
        **{name: found["values"][:, index] for index, name in enumerate(spec.columns)},
        "sha256": found["sha256"].astype(np.uint8),
        "size": found["size"].astype(np.int64),
        "moments": found["moments"].astype(np.float64),
        "pixel_sha256": found["pixel_sha256"].astype(np.uint8),
        "shard_sha256": found["shard_sha256"].astype(np.uint8),
        "shard_bytes": found["shard_bytes"].astype(np.int64),
        "chunk_crc32c": found["chunk_crc32c"].astype(np.uint32),
    }


def _create_pixels(group: zarr.Group, spec: StoreSpec, num_rows: int) -> None:
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


def _write_column(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    text = values.dtype == object
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=str if text else values.dtype,
        chunks=(min(TEXT_ROWS, len(values)), *values.shape[1:]),
        # Else zarr leaves out a chunk of zeros, which could not be told from one that is lost.
        config={"write_empty_chunks": True},
    )
    array[...] = values.astype(np.dtypes.StringDType()) if text else values


def _mark(path: Path, attributes: dict[str, Any]) -> None:
    """Put the attributes into the group's document, sealed."""
    document = json.loads(path.read_bytes())
    # `complete` itself is under the seal.
    document["attributes"] = {**attributes, "complete": True}
    sealed = {**attributes, "seal": seal(document), "complete": True}
    write_text(path, json.dumps({**document, "attributes": sealed}, indent=2))
