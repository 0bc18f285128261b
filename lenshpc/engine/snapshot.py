"""Copies of a training's state in host memory, for a thread to write while training goes on."""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

State = TypeVar("State")


class HostMemory:
    """Memory that holds one copy after the other: fresh pages would cost more than the copy itself.

    A copy is overwritten by the next one.
    """

    def __init__(self) -> None:
        self._held: list[Tensor] = []

    def copy(self, state: State) -> State:
        """Return a state (dicts and lists of tensors and numbers) with its tensors on the CPU.

        Those of a GPU are there once what `mark_end` returns was called.
        """
        leaves, spec = tree_flatten(state)
        places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        sources = [leaves[at].detach() for at in places]
        pairs = zip_longest(sources, self._held[: len(sources)])
        self._held = [_make_room(source, held) for source, held in pairs]
        for at, held, source in zip(places, self._held, sources, strict=True):
            # To pinned memory a copy is queued behind the steps so far, and the next step behind
            # the copy: nobody waits, and no step changes what is copied.
            leaves[at] = held.copy_(source, non_blocking=True)
        copied: State = tree_unflatten(leaves, spec)
        return copied


def mark_end(device: torch.device) -> Callable[[], None]:
    """Return what waits until all that was copied from the device so far is there."""
    if device.type != "cuda":
        return lambda: None
    end = torch.cuda.Event()  # type: ignore[no-untyped-call]
    end.record(torch.cuda.current_stream(device))
    return end.synchronize


def count_bytes(state: Any) -> int:
    """Return the bytes of all tensors in a state."""
    return sum(leaf.nbytes for leaf in tree_flatten(state)[0] if isinstance(leaf, Tensor))


def _make_room(source: Tensor, held: Tensor | None) -> Tensor:
    if held is not None and (held.shape, held.dtype) == (source.shape, source.dtype):
        return held
    return torch.empty_like(source, device="cpu", pin_memory=source.is_cuda)
