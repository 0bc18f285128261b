"""Stores of given pixels, without source files."""

import hashlib

import numpy as np

from lenshpc.store import WrittenBlock, begin


def blocks_of(draft, images, targets=None, values=None):
    """Return what to write for each shard; each row's hash is that of its pixels."""
    digests = [list(hashlib.sha256(image.tobytes()).digest()) for image in images]
    hashes = np.array(digests, dtype=np.uint8)
    values = np.empty((len(images), 0)) if values is None else values
    pixels = {"images": images} | ({} if targets is None else {"targets": targets})
    return [
        WrittenBlock(
            pixels={name: array[block] for name, array in pixels.items()},
            sha256=hashes[block],
            size=np.full(len(images[block]), images[0].nbytes),
            values=values[block],
        )
        for block in draft.blocks
    ]


def write_rows(path, spec, rows, images, targets=None, values=None):
    """Write the store of some rows."""
    draft = begin(path, spec, rows, settings={})
    for shard, block in enumerate(blocks_of(draft, images, targets, values)):
        draft.write(shard, block)
    draft.finish()
