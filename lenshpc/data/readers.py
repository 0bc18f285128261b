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
from lenshpc.data.order import Rows, window_rows
from lenshpc.data.shared import open_shared_images

NUM_THREADS = 2  # of a process that reads ahead: two decode some 5 GB/s
COPIED_ROWS = 256

Item = TypeVar("Item")
_log = logging.getLogger(__name__)


class ImageReader(Protocol):
    """A way of loading."""

    def read(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, in order."""


@contextmanager
def open_reader(decoded: Decoded, device: torch.device) -> Iterator[ImageReader]:
    """Yield the reader that the Plan's word and the size of the images ask for, and log which."""
    with ExitStack() as held:
        if decoded.settings.loading == "stream":
            text = "%.2f GB of images: streamed from %s, as data.loading says"
            _log.info(text, decoded.num_bytes / 1e9, decoded.store.path)
            yield Streamed(decoded, device)
        else:
            yield _resident(decoded, device, held)


def _resident(decoded: Decoded, device: torch.device, held: ExitStack) -> ImageReader:
    """Return a reader of images on the GPU if they leave half of it to the network, or in RAM."""
    images = held.enter_context(open_shared_images(decoded))
    # This may differ by node: nothing below may depend on it but speed, so all readers give the
    # same pixels for the same rows.
    room = torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else 0
    fits = decoded.num_bytes <= room
    why = f"half of the GPU's free memory is {room / 1e9:.2f} GB" if room else "there is no GPU"
    where = f"on {device}" if fits else "in RAM, one copy a node"
    _log.info("%.2f GB of images: %s, since %s", decoded.num_bytes / 1e9, where, why)
    if not fits:
        return InMemory(images, device)
    reader = OnDevice.copy(images, device)
    # Only after the copy: the mapped file may be removed as soon as nobody holds its lock.
    held.close()  # the node's copy is not needed any more
    return reader


@dataclass(frozen=True)
class OnDevice:
    """All images in one tensor on the device."""

    images: Tensor

    @classmethod
    def copy(cls, images: Images, device: torch.device) -> "OnDevice":
        """Return a reader of a copy on the device."""
        dtype = getattr(torch, images.dtype.name)
        held = torch.empty(images.shape, dtype=dtype, device=device)
        for start in range(0, len(images), COPIED_ROWS):
            # A copy: torch warns of a tensor on read-only memory, which a mapped file is.
            block = np.array(images[start : start + COPIED_ROWS])
            held[start : start + len(block)] = torch.from_numpy(block)
        return cls(held)

    def read(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, in order."""
        for rows in batches:
            yield self.images.index_select(0, torch.from_numpy(rows).to(self.images.device))


@dataclass(frozen=True)
class InMemory:
    """All images in an array that the node's processes share."""

    images: Images
    device: torch.device

    def read(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, in order."""
        # Indexing by an array copies. A slice would be a view of memory that all processes of the
        # node share, and batches are overwritten.
        return _send((torch.from_numpy(self.images[rows]) for rows in batches), self.device)


@dataclass(frozen=True)
class Streamed:
    """Images that stay in the store: the window ahead is read while one is used.

    A window is as many batches as the training order mixes rows, so each chunk is decoded once a
    window. Two windows are held, at most 0.5 GiB unless an image is larger than 0.5 MiB.
    """

    decoded: Decoded
    device: torch.device

    def read(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, in order."""
        return _send(self._pixels(batches), self.device)

    def _pixels(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        windows = self._windows(batches)
        # Twice: `_rows_to_hold` takes whole chunks up to that many rows.
        longest = 2 * max((sum(map(len, window)) for window in windows), default=0)
        # Used in turn: new memory for each window would cost as much as decoding it.
        held = [np.empty((longest, *self.decoded.shape), self.decoded.dtype) for _ in range(2)]
        # One ahead, since there are two buffers: the window in use and the one being filled. A
        # third in flight would overwrite the first while it is read.
        filled = ahead(map(self._fill, windows, cycle(held)), 1)
        for window, (rows, pixels) in zip(windows, filled, strict=True):
            for batch in window:
                # A copy, as above: the buffer is filled anew while the batch is still in use.
                yield torch.from_numpy(pixels[np.searchsorted(rows, batch)])

    def _windows(self, batches: Sequence[Rows]) -> list[Sequence[Rows]]:
        longest = max(map(len, batches), default=1)
        length = max(1, window_rows(self.decoded.image_bytes) // longest)
        return [batches[start : start + length] for start in range(0, len(batches), length)]

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


def _send(pixels: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield the tensors on the device; a GPU's are copied while earlier ones are used."""
    if device.type == "cpu":
        yield from pixels
        return
    # Only pinned memory is copied while the GPU computes; from any other the copy waits in silence.
    for pinned in ahead((tensor.pin_memory() for tensor in pixels), 4):
        yield pinned.to(device, non_blocking=True)
