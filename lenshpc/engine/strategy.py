"""How a step is taken on one process or many: plainly, under DDP, or under DeepSpeed ZeRO.

All take the same step on the mean gradient over the ranks; at equal seeds their losses agree.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lenshpc.engine.averages import Average
from lenshpc.engine.distributed import Process
from lenshpc.engine.plain import Plain
from lenshpc.engine.step import Weights
from lenshpc.engine.zero import DeepSpeed
from lenshpc.registry import Batch, Task
from lenshpc.run.recipe import Recipe


class Strategy(Protocol):
    """What the loop needs of a way to train; `load` and `weights` are collective calls."""

    optimizer: torch.optim.Optimizer
    module: nn.Module
    average: Average | None

    def step(self, batch: Batch) -> Tensor:
        """Take the batch's optimiser steps and return this rank's loss (a scalar) at the first."""

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's predictions without gradients."""

    def state(self) -> dict[str, Any]:
        """Return this rank's part of model and optimiser: the tensors that steps change."""

    def load(self, parts: Iterable[Mapping[str, Any]]) -> None:
        """Go on from what `state` returned on each rank; no tensor of it is kept."""

    def check_resharding(self, before: int, now: int) -> None:
        """Raise ConfigError unless what `before` ranks saved can be gone on with by `now`."""

    def weights(self) -> AbstractContextManager[Weights]:
        """Have the whole model's weights on rank 0 while the block lasts; none elsewhere."""


def choose_strategy(recipe: Recipe, task: Task, model: nn.Module, process: Process) -> Strategy:
    """Return the strategy that the recipe names."""
    if recipe.strategy == "deepspeed":
        return DeepSpeed(task, model, recipe.train, process)
    return Plain(task, model, recipe.train, process)
