"""Stores of noise: for what is timed of runs, no matter what their images show."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lenshpc.store import SPLITS, Pixels, StoreSpec, begin
from lenshpc.store.draft import Draft, WrittenChunk


def make_store(
    path: Path,
    num: int,
    side: int,
    channels: Sequence[str],
    splits: npt.NDArray[np.str_] | None = None,
) -> None:
    """Write a store of two classes in turn; every fifth row is of test unless `splits` says."""
    make_draft(path, num, side, channels, splits).finish()


def make_draft(
    path: Path,
    num: int,
    side: int,
    channels: Sequence[str],
    splits: npt.NDArray[np.str_] | None = None,
) -> Draft:
    """Return the draft of such a store, all its shards written."""
    numbers = np.arange(num)
    if splits is None:
        splits = np.where(numbers % 5, "train", "test")
    ids = pa.array(numbers).cast(pa.large_string())
    splits = np.select([splits == split for split in SPLITS], range(len(SPLITS))).astype(np.uint8)
    labels = (numbers % 2).astype(np.int16)
    rows = pa.table({"id": ids, "label": labels, "split": splits, "group": ids})
    image = Pixels(shape=(len(channels), side, side), dtype="float32", channels=tuple(channels))
    spec = StoreSpec(
        dataset="noise", classes=("nonlens", "lens"), image=image, source={}, codec="none"
    )
    draft = begin(path, spec, rows, numbers, {})
    rng = np.random.default_rng(0)
    for shard, block in enumerate(draft.blocks):
        starts = range(block.start, block.stop, spec.chunk_rows)
        sizes = [min(spec.chunk_rows, block.stop - at) for at in starts]
        chunks = (
            WrittenChunk(
                pixels={"images": rng.random((size, *image.shape), dtype=np.float32)},
                sha256=rng.integers(0, 256, (size, 32), dtype=np.uint8),
                size=np.ones(size, np.int64),
                values=np.empty((size, 0)),
            )
            for size in sizes
        )
        draft.write(shard, chunks)
    return draft
