"""The next batch is sent, augmented and normalised while the GPU takes a step."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from lenshpc.registry import Batch


def prepare_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches in order; the next one is asked for before this one is handed out.

    On a GPU all that makes a batch runs on a stream beside the one of the steps.
    """
    on_gpu = device.type == "cuda"
    side = open_side_stream(device) if on_gpu else None
    if side is not None:
        # Images that lie on the GPU were written by the stream of the steps.
        side.wait_stream(torch.cuda.current_stream(device))
    coming = _prepare(batches, side)
    while coming is not None:
        batch = coming
        if side is not None:
            # Before the next one is asked for: the step would wait for that one, too.
            _hand_over(batch, side, torch.cuda.current_stream(device))
        coming = _prepare(batches, side)
        yield batch


@cache
def open_side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of a device's batches: one for all epochs, as each keeps its memory."""
    made: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return made


def _prepare(batches: Iterator[Batch], side: torch.cuda.Stream | None) -> Batch | None:
    with torch.cuda.stream(side):  # without a stream this does nothing
        return next(batches, None)


def _hand_over(batch: Batch, side: torch.cuda.Stream, steps: torch.cuda.Stream) -> None:
    """Have the steps' stream wait for the batch, and its memory for the steps."""
    steps.wait_stream(side)
    for value in batch.values():
        if isinstance(value, Tensor):
            # Memory of the side stream is given to its next batch as soon as the tensor is gone,
            # though the step that reads it may only be queued.
            value.record_stream(steps)
