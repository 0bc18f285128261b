"""What every strategy does with a batch and with weights."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor

from lenshpc.registry import Batch, Task

Weights = dict[str, Tensor]


def phases(task: Task, batch: Batch) -> Iterator[Batch]:
    """Yield the batch once for each optimiser step that the task takes on it."""
    for phase in range(task.num_phases):
        yield {**batch, "phase": phase}


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on the device."""
    moved = {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
    return cast(Batch, moved)


def on_cpu(state: Mapping[str, Tensor]) -> Weights:
    """Return contiguous copies on the CPU."""
    # clone: on a CPU `.cpu()` is the same tensor, and safetensors refuses tensors that share
    # memory.
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
