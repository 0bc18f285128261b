"""Decode a store once a node into a memory-mapped array that all ranks of the node share.

A compressed store is many times slower at random rows than a mapped array, whose pages the kernel
keeps in memory once for all processes. The file lies in the node's temporary folder and is unlinked
as soon as every rank has it open, so nothing is left behind however the job ends.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lenshpc.errors import DataError
from lenshpc.store import Store

BLOCK = 2048  # rows decoded at a time: one shard

Images = npt.NDArray[np.float32]


def decoded_shape(store: Store, image_size: int | None) -> tuple[int, int, int]:
    """Return the (C, H, W) that images have after resizing."""
    channels, height, width = store.image_shape
    return (channels, image_size, image_size) if image_size else (channels, height, width)


def open_images(
    store: Store,
    image_size: int | None,
    *,
    token: str,
    fills: bool,
    barrier: Callable[[], None],
) -> Images:
    """Return all images of a store as (N, C, H, W) float32, mapped read-only.

    `token` names the file and is equal on the ranks of a node; the rank that `fills` decodes.
    """
    path = Path(tempfile.gettempdir()) / f"lenshpc-{token}.npy"
    if fills:
        _fill(path, store, image_size)
    barrier()
    images: Images = np.load(path, mmap_mode="r")
    barrier()
    if fills:
        path.unlink()
    return images


def _fill(path: Path, store: Store, image_size: int | None) -> None:
    shape = (store.num_rows, *decoded_shape(store, image_size))
    needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(
            f"{path.parent} has {free / 1e9:.1f} GB free and the decoded images need "
            f"{needed / 1e9:.1f} GB; set TMPDIR to a larger folder of the node"
        )
    target = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, len(target), BLOCK):
        block = store.read(slice(start, start + BLOCK))
        target[start : start + len(block)] = _resized(block, image_size)


def _resized(block: Images, size: int | None) -> Images:
    """Return (n, C, H, W) images at `size` pixels: area means down, cubic splines up."""
    if size is None or block.shape[2:] == (size, size):
        return block
    how = cv2.INTER_AREA if size < block.shape[2] else cv2.INTER_CUBIC
    planes = [cv2.resize(plane, (size, size), interpolation=how) for plane in np.concatenate(block)]
    return np.stack(planes).reshape(*block.shape[:2], size, size)
