"""Stores of given pixels, without source files."""

import hashlib

import numpy as np

from lenshpc.store import WrittenChunk, begin


def chunks_of(draft, shard, images, targets=None, values=None):
    """Yield what to write of a shard; each row's hash is that of its pixels."""
    pixels = {"images": images} | ({} if targets is None else {"targets": targets})
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


def write_rows(path, spec, rows, images, targets=None, values=None):
    """Write the store of some rows."""
    draft = begin(path, spec, rows, settings={})
    for shard in range(len(draft.blocks)):
        draft.write(shard, chunks_of(draft, shard, images, targets, values))
    draft.finish()
