"""What goes with the pixels: values of many batches are sent at once, and cut up on the device.

A copy of its own for each value of each batch would wait for the step before it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_VISITS = 2**14  # whose values are made and sent together: at most some megabytes
ALIGNMENT = 64  # bytes: a tensor's memory must begin at a multiple of its type's size


@dataclass(frozen=True)
class Cut:
    """Values of a block's visits, and how many of them belong to each batch."""

    values: NDArray[Any]
    sizes: Sequence[int]


def cut_places(flags: NDArray[np.bool_], sizes: Sequence[int]) -> Cut:
    """Return the places within their batches of those visits that have a flag."""
    # Found here: on a GPU their number would be waited for.
    batch = np.repeat(np.arange(len(sizes)), sizes)[flags]
    counts = np.bincount(batch, minlength=len(sizes)).tolist()
    return Cut(np.flatnonzero(flags) - np.cumsum([0, *sizes])[batch], counts)


def send(tree: Any, device: torch.device) -> Iterator[Any]:
    """Yield the tree for each batch in turn: its own values, on the device, in place of each Cut.

    Dicts, lists and named tuples make up a tree. All its values are sent in one copy.
    """
    cuts: list[Cut] = []
    _replace(tree, cuts.append)
    held = _send_together([cut.values for cut in cuts], device)
    parts = [torch.split(one, [*cut.sizes]) for one, cut in zip(held, cuts, strict=True)]
    for values in zip(*parts, strict=True):
        yield _replace(tree, partial(_next, iter(values)))


def _next(values: Iterator[Tensor], _: Cut) -> Tensor:
    return next(values)


def _replace(tree: Any, make: Callable[[Cut], Any]) -> Any:
    """Return the tree with what is made of each Cut in its place, asked for in their order."""
    match tree:
        case Cut():
            return make(tree)
        case dict():
            return {key: _replace(value, make) for key, value in tree.items()}
        case list():
            return [_replace(value, make) for value in tree]
        case _:
            return tree._make(_replace(value, make) for value in tree)


def _send_together(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Return the arrays as tensors: parts of one copy on a GPU, where float64 becomes float32."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    flat = [array.astype(np.float32) if array.dtype == np.float64 else array for array in arrays]
    rooms = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in flat]
    packed = empty_on_host((sum(rooms),), np.dtype(np.uint8), device)
    places = [
        place[: array.nbytes] for place, array in zip(torch.split(packed, rooms), flat, strict=True)
    ]
    for place, array in zip(places, flat, strict=True):
        place.numpy()[:] = array.reshape(-1).view(np.uint8)
    sent = packed.to(device, non_blocking=True)
    return [
        part[: array.nbytes].view(getattr(torch, array.dtype.name)).view(array.shape)
        for part, array in zip(torch.split(sent, rooms), flat, strict=True)
    ]


def empty_on_host(
    shape: Sequence[int], dtype: np.dtype[np.generic], device: torch.device
) -> Tensor:
    """Return memory of the host for what is sent to the device."""
    # Only pinned memory is copied while the GPU computes; from any other the copy waits in silence.
    # torch keeps pinned memory for the next who asks, and gives it out again only when the copy out
    # of it has been made.
    pinned = device.type == "cuda"
    return torch.empty(tuple(shape), dtype=getattr(torch, dtype.name), pin_memory=pinned)
