"""Convert a source folder to a store: scan, order, then read and write shard by shard."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lenshpc.prep.dataset import Dataset
from lenshpc.prep.read import read_source
from lenshpc.prep.scan import Source, scan
from lenshpc.store import (
    SPLITS,
    Store,
    StoreSpec,
    StoreWriter,
    open_store,
    refuse_existing,
    writing,
)

Progress = Callable[[int, int], None]


def convert(
    dataset: Dataset, root: Path, target: Path, *, seed: int = 0, progress: Progress | None = None
) -> Store:
    """Return the store made at `target` from the images under `root`.

    `progress` is called with the number of images done and the number of all.
    """
    refuse_existing(target)
    sources = ordered(scan(root, dataset), seed)
    with writing(target, _spec(dataset, seed), _rows(sources)) as writer:
        for block in writer.blocks:
            _convert_block(writer, block, dataset, root, sources, progress)
    return open_store(target)


def ordered(sources: Sequence[Source], seed: int) -> list[Source]:
    """Return the sources split by split, each in a permutation fixed by `seed` and the ids.

    A hash gives it rather than a random generator, whose stream may change with numpy's version.
    """

    def key(source: Source) -> tuple[int, bytes]:
        text = f"{seed}/{source.id}"
        return SPLITS.index(source.split), hashlib.sha256(text.encode()).digest()

    return sorted(sources, key=key)


def _spec(dataset: Dataset, seed: int) -> StoreSpec:
    return StoreSpec(
        dataset=dataset.name,
        classes=tuple(entry.name for entry in dataset.classes),
        channels=dataset.image.channels,
        image_shape=dataset.image.shape,
        dtype=dataset.image.dtype,
        seed=seed,
    )


def _rows(sources: Sequence[Source]) -> pd.DataFrame:
    columns = ("id", "label", "split", "group")
    return pd.DataFrame({name: [getattr(row, name) for row in sources] for name in columns})


def _convert_block(
    writer: StoreWriter,
    block: slice,
    dataset: Dataset,
    root: Path,
    sources: Sequence[Source],
    progress: Progress | None,
) -> None:
    chosen = sources[block]
    images = np.empty((len(chosen), *dataset.image.shape), dtype=dataset.image.dtype)
    hashes = np.empty((len(chosen), 32), dtype=np.uint8)
    sizes = np.empty(len(chosen), dtype=np.int64)
    for row, source in enumerate(chosen):
        image = read_source(root / source.id, dataset.image)
        images[row], sizes[row] = image.pixels, image.num_bytes
        hashes[row] = np.frombuffer(image.sha256, dtype=np.uint8)
        if progress:
            progress(block.start + row + 1, len(sources))
    writer.write_block(block, images, hashes, sizes)
