"""What names a store: a hash of its pixels, columns and attributes, however they lie on the disk.

Beside it, the seal is the hash of the document `zarr.json` of a finished store, which has the hash
of every small file: with it, opening answers for each byte that is no pixel.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.files import hash_value
from lenshpc.store.layout import SPLITS, UNLABELLED, channel_statistics

Columns = Mapping[str, NDArray[Any]]

# Of the bytes on the disk, so they differ between stores of one content: codec, chunks.
_OF_THE_DISK = ("files", "content_hash", "seal", "complete")
_OF_SHARDS = ("shard_sha256", "shard_bytes", "chunk_crc32c")


def pixel_hashes(pixels: Columns) -> NDArray[np.uint8]:
    """Return the SHA-256 (n,32) of each row's pixels: of its image, then of its target."""
    rows = zip(*(np.ascontiguousarray(array) for array in pixels.values()), strict=True)
    digests = [hashlib.sha256(b"".join(part.data for part in parts)).digest() for parts in rows]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def summary(classes: Sequence[str], columns: Columns) -> dict[str, Any]:
    """Return the attributes that follow from the columns of all rows."""
    train = columns["split"] == SPLITS.index("train")
    mean, std = channel_statistics(columns["moments"][train])
    order = np.argsort(columns["id"])  # whatever the order of rows
    sources = {name: columns[name][order] for name in ("id", "size", "sha256")}
    return {
        "counts": _counts(columns, classes),
        "train_mean": mean.tolist(),
        "train_std": std.tolist(),
        "manifest_hash": _hash({}, sources),
    }


def content_hash(attributes: Mapping[str, Any], columns: Columns) -> str:
    """Return the hash of all that a store holds, whatever its chunks and codec."""
    known = {key: value for key, value in attributes.items() if key not in _OF_THE_DISK}
    return _hash(known, {key: value for key, value in columns.items() if key not in _OF_SHARDS})


def seal(document: Mapping[str, Any]) -> str:
    """Return the hash of a JSON document with `attributes`, all but the seal among them."""
    attributes = {key: value for key, value in document["attributes"].items() if key != "seal"}
    return hash_value({**document, "attributes": attributes})


def _hash(header: Mapping[str, Any], columns: Columns) -> str:
    """Return the hash of some values and columns; no two lists of them give one text of bytes."""
    digest = hashlib.sha256()
    names = sorted(columns)
    head = memoryview(json.dumps({"header": header, "columns": names}, sort_keys=True).encode())
    for buffer in [head, *(part for name in names for part in _buffers(columns[name]))]:
        digest.update(len(buffer).to_bytes(8, "little"))
        digest.update(buffer)
    return digest.hexdigest()


def _buffers(column: NDArray[Any]) -> list[memoryview]:
    """Return what a column is, then its values, as bytes whose lengths are known."""
    if column.dtype == object:
        # All texts in one, and where each of them ends.
        _, offsets, texts = pa.array(column, pa.large_string()).buffers()
        ends = np.frombuffer(offsets, "<i8", len(column) + 1)
        return [memoryview(b"text"), ends.data.cast("B"), memoryview(texts or b"")[: int(ends[-1])]]
    plain = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
    facts = f"{plain.dtype.str}{plain.shape}".encode()
    return [memoryview(facts), plain.reshape(-1).view(np.uint8).data]


def _counts(columns: Columns, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    found = {}
    for index, split in enumerate(SPLITS):
        labels = columns["label"][columns["split"] == index]
        unlabelled = {"without a label": int((labels == UNLABELLED).sum())}
        named = {name: int((labels == label).sum()) for label, name in enumerate(classes)}
        if len(labels):
            found[split] = unlabelled if split == "unlabelled" else named
    return found
