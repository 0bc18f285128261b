"""Stores of given pixels, without source files."""

import hashlib

import numpy as np
import pyarrow as pa

from lenshpc.store import SPLITS, Pixels, StoreSpec, WrittenChunk, begin, open_store


def table_of(rows):
    """Return the table that `begin` takes of a frame whose splits are names."""
    split = rows["split"].map(SPLITS.index).astype("uint8")
    table = pa.Table.from_pandas(rows.assign(split=split), preserve_index=False)
    for at, name in enumerate(table.column_names):
        if name in ("id", "group"):
            table = table.set_column(at, name, table[name].cast(pa.large_string()))
    return table


def begin_rows(path, spec, rows, settings):
    """Begin the draft of some rows, given in their final order."""
    return begin(path, spec, table_of(rows), np.arange(len(rows)), settings)


def chunks_of(draft, shard, images, targets=None, values=None, masks=None):
    """Yield what to write of a shard; each row's hash is that of its pixels."""
    given = {"images": images, "targets": targets, "masks": masks}
    pixels = {name: array for name, array in given.items() if array is not None}
    values = np.empty((len(images), 0)) if values is None else values
    block, step = draft.blocks[shard], draft.spec.chunk_rows
    for start in range(block.start, block.stop, step):
        rows = slice(start, min(start + step, block.stop))
        digests = [list(hashlib.sha256(image.tobytes()).digest()) for image in images[rows]]
        yield WrittenChunk(
            pixels={name: array[rows] for name, array in pixels.items()},
            sha256=np.array(digests, dtype=np.uint8),
            size=np.full(len(digests), images[0].nbytes),
            values=values[rows],
        )


def rewrite(store, path, *, classes=None, images=None, **columns):
    """Return another store, with other classes, images or values in columns."""
    spec = StoreSpec(
        dataset=store.dataset,
        classes=classes or store.classes,
        image=Pixels(shape=store.image_shape, dtype=store.dtype.name, channels=store.channels),
        seed=store.attributes["seed"],
    )
    images = store.read_raw(slice(None)) if images is None else images
    write_rows(path, spec, store.rows.assign(**columns), images)
    return open_store(path)


def write_rows(path, spec, rows, images, targets=None, values=None, masks=None):
    """Write the store of some rows."""
    draft = begin_rows(path, spec, rows, settings={})
    for shard in range(len(draft.blocks)):
        draft.write(shard, chunks_of(draft, shard, images, targets, values, masks))
    draft.finish()
