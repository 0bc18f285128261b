"""What every strategy does with a batch and with weights."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lenshpc.engine.freezing import set_training
from lenshpc.errors import ConfigError
from lenshpc.registry import Batch, Task

Weights = dict[str, Tensor]


class Stepping(ABC):
    """What all strategies do alike around an optimiser step of theirs."""

    module: nn.Module
    _task: Task
    _channels_last: bool
    _frozen: Sequence[nn.Module]
    # Not in training: that takes a walk through all layers, which is not for each step.
    _evaluated = True

    def step(self, batch: Batch) -> Tensor:
        """Take the batch's optimiser steps and return this rank's loss (a scalar) at the first."""
        laid = lay_out(batch, channels_last=self._channels_last)
        first, *_ = [self._step(one) for one in phases(self._task, laid)]
        return first

    @abstractmethod
    def _step(self, batch: Batch) -> Tensor:
        """Take one optimiser step, and return this rank's loss."""

    def _begin_training(self, model: nn.Module) -> None:
        """Put the model into training, unless it still is."""
        if self._evaluated:
            set_training(model, self._frozen)
            self._evaluated = False

    def check_resharding(self, before: int, now: int) -> None:
        """Refuse where a layer looks at its rank's share of the batch alone."""
        refuse_batch_norm(self.module, before, now)


def phases(task: Task, batch: Batch) -> Iterator[Batch]:
    """Yield the batch once for each optimiser step that the task takes on it."""
    for phase in range(task.num_phases):
        yield {**batch, "phase": phase}


def split(batch: Batch, count: int) -> list[Batch]:
    """Return a batch in equal parts of its rows, without a copy; scalars go with each part."""
    if count == 1:
        return [batch]
    chunks = {
        key: value.chunk(count) if isinstance(value, Tensor) and value.dim() else [value] * count
        for key, value in batch.items()
    }
    if "mixed" in batch:  # places among the rows; how many lie in a part, the host has to ask
        places, rows = batch["mixed"], len(batch["image"]) // count
        chunks["mixed"] = [places[places // rows == at] - at * rows for at in range(count)]
    return [cast(Batch, {key: parts[at] for key, parts in chunks.items()}) for at in range(count)]


def lay_out(batch: Batch, *, channels_last: bool) -> Batch:
    """Return the batch with its images in the layout that the network computes in."""
    if not channels_last:
        return batch
    laid = {
        key: value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, Tensor) and value.dim() == 4
        else value
        for key, value in batch.items()
    }
    return cast(Batch, laid)


def mean_loss(parts: list[Tensor]) -> Tensor:
    """Return the loss of a whole share from those of its equal parts."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).mean()


def refuse_batch_norm(module: nn.Module, before: int, now: int) -> None:
    """Refuse another number of ranks where a layer looks at its rank's share of the batch alone."""
    # SyncBatchNorm is of the same class, and looks at the whole batch.
    layers = [one for one in module.modules() if not isinstance(one, nn.SyncBatchNorm)]
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers):
        raise ConfigError(
            f"batch norm was trained with the batch divided among {before} processes, and now "
            f"there are {now}; resume with nodes and GPUs that multiply to {before}"
        )
