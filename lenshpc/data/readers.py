"""Read batches of rows in one of three ways that give the same tensors.

`OnDevice` holds all images on the GPU, `InMemory` maps the node's one copy in RAM, `Streamed` reads
blocks of the store ahead. Each takes any list of batches and yields pixels (B, C, H, W) in their
own dtype, on the device, free to be overwritten.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenshpc.data.decoded import Decoded, Images
from lenshpc.data.order import Rows, group, window_rows
from lenshpc.data.sending import BLOCK_VISITS, Cut, empty_on_host, send
from lenshpc.data.shared import open_shared_images

NUM_THREADS = 2  # of a process that reads ahead: two decode some 5 GB/s
NUM_AHEAD = 4  # batches that lie in pinned memory before they are asked for

Item = TypeVar("Item")
_log = logging.getLogger(__name__)


class ImageReader(Protocol):
    """A way of loading."""

    @property
    def sides(self) -> tuple[int, int]:
        """Return an image's height and width."""

    def read(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, in order."""


@contextmanager
def open_readers(
    arrays: Sequence[Decoded], device: torch.device
) -> Iterator[Sequence[ImageReader]]:
    """Yield a reader of each array, as the Plan's word and their size ask for, and log which.

    Images and their targets are read in one way: what fits is asked of all together.
    """
    size_gb = sum(decoded.num_bytes for decoded in arrays) / 1e9
    if arrays[0].settings.loading == "stream":
        path = arrays[0].store.path
        _log.info("%.2f GB of images: streamed from %s, as data.loading says", size_gb, path)
        yield [Streamed(decoded, device) for decoded in arrays]
        return
    # This may differ by node: nothing below may depend on it but speed, so all readers give the
    # same pixels for the same rows. Half of the memory is left to the network.
    room_gb = torch.cuda.mem_get_info(device)[0] / 2e9 if device.type == "cuda" else 0.0
    fits = size_gb <= room_gb
    why = f"half of the GPU's free memory is {room_gb:.2f} GB" if room_gb else "there is no GPU"
    where = f"on {device}" if fits else "in RAM, one copy a node"
    _log.info("%.2f GB of images: %s, since %s", size_gb, where, why)
    with ExitStack() as held:
        if fits:
            yield [OnDevice.fill(decoded, device) for decoded in arrays]
        else:
            images = [held.enter_context(open_shared_images(decoded)) for decoded in arrays]
            yield [InMemory(one, device) for one in images]


@dataclass(frozen=True)
class OnDevice:
    """All images in one tensor on the device."""

    images: Tensor

    @classmethod
    def fill(cls, decoded: Decoded, device: torch.device) -> "OnDevice":
        """Return a reader of all images, decoded chunk by chunk and sent at once."""
        dtype = getattr(torch, decoded.dtype.name)
        held = torch.empty((decoded.store.num_rows, *decoded.shape), dtype=dtype, device=device)
        chunks = decoded.read_chunks(range(decoded.num_chunks))
        # A chunk is to be used before the next is asked for: what is sent later is a copy.
        sent = _send((_take(images, np.arange(len(images)), device) for images in chunks), device)
        places = torch.split(held, decoded.store.chunk_rows)
        for place, images in zip(places, sent, strict=True):
            place.copy_(images)
        return cls(held)

    @property
    def sides(self) -> tuple[int, int]:
        """Return an image's height and width."""
        return self.images.shape[2], self.images.shape[3]

    def read(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, in order."""
        for part in group(BLOCK_VISITS, batches):
            block = batches[part]
            rows = Cut(np.concatenate(block), [len(batch) for batch in block])
            yield from (
                self.images.index_select(0, some) for some in send(rows, self.images.device)
            )


@dataclass(frozen=True)
class InMemory:
    """All images in an array that the node's processes share."""

    images: Images
    device: torch.device

    @property
    def sides(self) -> tuple[int, int]:
        """Return an image's height and width."""
        return self.images.shape[2], self.images.shape[3]

    def read(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, in order."""
        return _send((_take(self.images, rows, self.device) for rows in batches), self.device)


@dataclass(frozen=True)
class Streamed:
    """Images that stay in the store: the window ahead is read while one is used.

    A window is as many batches as the training order mixes rows, so each chunk is decoded once a
    window. Two windows are held, at most 0.5 GiB unless an image is larger than 0.5 MiB.
    """

    decoded: Decoded
    device: torch.device

    @property
    def sides(self) -> tuple[int, int]:
        """Return an image's height and width."""
        return self.decoded.shape[1], self.decoded.shape[2]

    def read(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, in order."""
        return _send(self._pixels(batches), self.device)

    def _pixels(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        length = window_rows(self.decoded.image_bytes)
        windows = [batches[part] for part in group(length, batches)]
        # Twice: `_rows_to_hold` takes whole chunks up to that many rows.
        longest = 2 * max((sum(map(len, window)) for window in windows), default=0)
        # Used in turn: new memory for each window would cost as much as decoding it.
        held = [np.empty((longest, *self.decoded.shape), self.decoded.dtype) for _ in range(2)]
        # One ahead, since there are two buffers: the window in use and the one being filled. A
        # third in flight would overwrite the first while it is read.
        filled = ahead(map(self._fill, windows, cycle(held)), 1)
        for window, (rows, pixels) in zip(windows, filled, strict=True):
            for batch in window:
                # The buffer is filled anew while the batch is still in use.
                yield _take(pixels, np.searchsorted(rows, batch), self.device)

    def _fill(self, window: Sequence[Rows], held: Images) -> tuple[Rows, Images]:
        """Return rows that contain the window's, ascending, each once, and their pixels."""
        rows = self._rows_to_hold(window)
        chunk_rows = self.decoded.store.chunk_rows
        chunks, starts = np.unique(rows // chunk_rows, return_index=True)
        parts = np.split(rows, starts[1:])
        ends = starts + [len(part) for part in parts]
        places = [held[start:end] for start, end in zip(starts, ends, strict=True)]
        direct = [
            place if self.decoded.as_stored and len(place) == chunk_rows else None
            for place in places
        ]

        def fill(some: NDArray[np.intp]) -> None:
            into = [direct[number] for number in some]
            read = self.decoded.read_chunks(chunks[some].tolist(), into)
            for number, images in zip(some, read, strict=True):
                if direct[number] is None:
                    inside = parts[number] - chunks[number] * chunk_rows
                    # mode clip writes straight into `out`; the default checks first, by way of
                    # another copy.
                    np.take(images, inside, axis=0, out=places[number], mode="clip")

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            # Consumed here: an error of a thread is raised only when its result is asked for.
            deque(pool.map(fill, np.array_split(np.arange(len(chunks)), NUM_THREADS)))
        return rows, held

    def _rows_to_hold(self, window: Sequence[Rows]) -> Rows:
        """Return the window's rows, or all rows of their chunks if that is at most twice as many.

        Whole chunks are decoded without another copy.
        """
        rows = np.unique(np.concatenate(window))
        chunk_rows = self.decoded.store.chunk_rows
        chunks = np.unique(rows // chunk_rows)
        if len(chunks) * chunk_rows > 2 * len(rows):
            return rows
        whole = (chunks[:, None] * chunk_rows + np.arange(chunk_rows)).reshape(-1)
        return whole[whole < self.decoded.store.num_rows]


def ahead(items: Iterator[Item], num_items: int) -> Iterator[Item]:
    """Yield the items in order; a thread makes the next `num_items` in the meantime."""
    nothing = object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, nothing) for _ in range(num_items))
        # One thread and not several: a generator must not be entered twice, and items keep their
        # order.
        while (item := waiting.popleft().result()) is not nothing:
            waiting.append(pool.submit(next, items, nothing))
            yield item  # type: ignore[misc]  # the sentinel never gets here


def _take(images: Images, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return a copy of those images, from where it can be sent to the device.

    Memory that all processes of the node share, and buffers that are filled anew, must not be
    written into as batches are.
    """
    held = empty_on_host((len(rows), *images.shape[1:]), images.dtype, device)
    # mode clip writes straight into `out`; the default checks first, by way of another copy.
    np.take(images, rows, axis=0, out=held.numpy(), mode="clip")
    return held


def _send(pixels: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield the tensors on the device; a GPU's are copied while earlier ones are used."""
    if device.type == "cpu":
        yield from pixels
        return
    for tensor in ahead(iter(pixels), NUM_AHEAD):
        yield tensor.to(device, non_blocking=True)
