"""What names a store: a hash of its pixels, columns and attributes, however they lie on the disk.

Beside it, the seal is the hash of the document `zarr.json` of a finished store, which has the hash
of every small file: with it, reading answers for each byte that is no pixel.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.files import hash_value
from lenshpc.store.buffers import Column, as_text, column_buffers, text_buffers
from lenshpc.store.layout import SPLITS, UNLABELLED, Floats, add_in_order, statistics_of_means

# Of the bytes on the disk, so they differ between stores of one content: codec, chunks.
_OF_THE_DISK = ("files", "content_hash", "seal", "complete")
_SUM_BITS = 256


def pixel_hashes(pixels: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the SHA-256 (n,32) of each row's pixels: of its image, its target, its mask."""
    first, *others = (_row_bytes(array) for array in pixels.values())
    hashes = [hashlib.sha256(row) for row in first]
    for rows in others:
        for digest, row in zip(hashes, rows, strict=True):
            digest.update(row)
    content = b"".join([digest.digest() for digest in hashes])
    return np.frombuffer(content, np.uint8).reshape(-1, 32)


def _row_bytes(array: NDArray[Any]) -> list[memoryview]:
    """Return the bytes of each row."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    size = array.nbytes // max(1, len(array))
    return [content[start : start + size] for start in range(0, array.nbytes, size)]


def sum_sources(ids: Column, size: NDArray[np.int64], sha256: NDArray[np.uint8]) -> int:
    """Return the sum of a hash of each row's source: its hash, its size and its id.

    A sum, since it is the same whatever the order of rows, and can be taken part by part.
    """
    ends, names = text_buffers(as_text(ids))
    heads = np.concatenate([sha256, size.astype("<i8")[:, None].view(np.uint8)], axis=1).tobytes()
    width, texts, places = sha256.shape[1] + 8, names.tobytes(), ends.tolist()
    digests = [
        hashlib.sha256(heads[at * width : (at + 1) * width] + texts[start:end]).digest()
        for at, (start, end) in enumerate(pairwise(places))
    ]
    words = np.frombuffer(b"".join(digests), "<u4").reshape(-1, 8).sum(axis=0, dtype=np.uint64)
    total: int = sum(int(word) << 32 * at for at, word in enumerate(words))
    return total % (1 << _SUM_BITS)


class ColumnHash:
    """The SHA-256 of a column that is given block by block, the same for whatever blocks."""

    def __init__(self, first: Column) -> None:
        is_array = isinstance(first, np.ndarray)
        # What the bytes are: the lengths of all follow from theirs.
        self._kind = f"{first.dtype.newbyteorder('<').str}{first.shape[1:]}" if is_array else "text"
        self._digests = [hashlib.sha256() for _ in column_buffers(first[:0])]

    def update(self, block: Column) -> None:
        """Go on with the next rows."""
        for digest, buffer in zip(self._digests, column_buffers(block), strict=True):
            digest.update(buffer)

    def hexdigest(self) -> str:
        """Return the hash of all rows so far."""
        parts = [digest.hexdigest() for digest in self._digests]
        return hash_value({"kind": self._kind, "parts": parts})


class RowTally:
    """What a store's attributes say of its rows, gathered from blocks of them in their order."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._hashes: dict[str, ColumnHash] = {}
        # A row a split; a column a class, then what has no label, then all rows.
        self._counts = np.zeros((len(SPLITS), len(classes) + 2), np.int64)
        # Likewise of images with filled pixels, and of these pixels; empty without masks.
        self._filled: dict[str, NDArray[np.int64]] = {}
        self._moments: Floats = np.zeros(())
        self._means: list[tuple[float, float]] = []
        self._sources = 0

    def add(self, block: Mapping[str, Column], sources: int) -> None:
        """Go on with the next rows, whose sources have that sum."""
        for name, column in block.items():
            self._hashes.setdefault(name, ColumnHash(column)).update(column)
        labels, splits, num = block["label"], block["split"], len(block["label"])
        self._counts += self._count(labels, splits, np.ones(num, np.int64))
        if "num_filled" in block:
            num_filled = block["num_filled"].sum(axis=1, dtype=np.int64)
            for name, weights in (("images", num_filled > 0), ("pixels", num_filled)):
                counts = self._filled.setdefault(name, np.zeros_like(self._counts))
                counts += self._count(labels, splits, weights)
        moments = block["moments"]
        training = moments[block["split"] == SPLITS.index("train")]
        sums = np.broadcast_to(self._moments, moments.shape[1:])
        self._moments = add_in_order(sums, training)
        self._means.append((float(moments[..., 0].min()), float(moments[..., 0].max())))
        self._sources = (self._sources + sources) % (1 << _SUM_BITS)

    def _count(
        self, labels: NDArray[np.int16], splits: NDArray[np.uint8], weights: NDArray[Any]
    ) -> NDArray[np.int64]:
        """Return the sums of a weight a row, as `_counts` has them."""
        sums, num = np.zeros_like(self._counts), len(self._classes)
        for split, counts in enumerate(sums):
            mine, ours = labels[splits == split], weights[splits == split]
            known = (mine >= 0) & (mine < num)
            counts[:num] = np.bincount(mine[known], ours[known], minlength=num)
            counts[num:] = ours[mine == UNLABELLED].sum(), ours.sum()
        return sums

    def summary(self) -> dict[str, Any]:
        """Return the attributes that follow from the columns of all rows."""
        num_training = self._counts[SPLITS.index("train"), -1]
        with np.errstate(invalid="ignore"):  # without training rows there are no means
            mean, std = statistics_of_means(self._moments / num_training)
        return {
            "num_rows": int(self._counts[:, -1].sum()),
            "counts": self._name_counts(self._counts),
            "filled": {name: self._name_counts(sums) for name, sums in self._filled.items()},
            "train_mean": mean.tolist(),
            "train_std": std.tolist(),
            "mean_range": [min(low for low, _ in self._means), max(up for _, up in self._means)],
            "manifest_hash": f"{self._sources:0{_SUM_BITS // 4}x}",
        }

    def _name_counts(self, sums: NDArray[np.int64]) -> dict[str, dict[str, int]]:
        """Return split → class → sum, of the splits that have rows."""
        found = {}
        num_rows_of = self._counts[:, -1].tolist()
        for split, (*named, unlabelled, _), num_rows in zip(
            SPLITS, sums.tolist(), num_rows_of, strict=True
        ):
            by_class = dict(zip(self._classes, named, strict=True))
            if num_rows:
                found[split] = (
                    {"without a label": unlabelled} if split == "unlabelled" else by_class
                )
        return found

    def content_hash(self, attributes: Mapping[str, Any]) -> str:
        """Return the hash of all that a store holds, whatever its chunks and codec."""
        known = {key: value for key, value in attributes.items() if key not in _OF_THE_DISK}
        columns = {name: column.hexdigest() for name, column in self._hashes.items()}
        return hash_value({"attributes": known, "columns": columns})


def seal(document: Mapping[str, Any]) -> str:
    """Return the hash of a JSON document with `attributes`, all but the seal among them."""
    attributes = {key: value for key, value in document["attributes"].items() if key != "seal"}
    return hash_value({**document, "attributes": attributes})
