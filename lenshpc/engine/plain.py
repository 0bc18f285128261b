"""Steps on one process, or under DDP over several."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lenshpc.engine import distributed
from lenshpc.engine.averages import load_average, make_average, save_average, select_network
from lenshpc.engine.distributed import Process
from lenshpc.engine.freezing import freeze, set_training
from lenshpc.engine.optimizers import adamw
from lenshpc.engine.precision import autocast
from lenshpc.engine.step import Weights, on_cpu, on_device, phases
from lenshpc.errors import ConfigError
from lenshpc.registry import Batch, Task
from lenshpc.run.sections import Train


class Plain:
    """One process, or DDP over several."""

    def __init__(self, task: Task, model: nn.Module, train: Train, process: Process) -> None:
        self._task, self._train, self._device = task, train, process.device
        # Moved before the optimiser and the average are made: both would hold the tensors of the
        # CPU.
        self.module = model.to(self._device)
        # Before what looks at which parameters learn: DDP would wait for gradients of all others.
        self._frozen = freeze(self.module, train.freeze)
        several = process.world_size > 1
        self._wrapped = DistributedDataParallel(self.module) if several else self.module
        self.optimizer: torch.optim.Optimizer = adamw(self.module, train)
        self.average = make_average(self.module, train)

    def step(self, batch: Batch) -> Tensor:
        """Take the batch's optimiser steps and return this rank's loss (a scalar) at the first."""
        moved = on_device(batch, self._device)
        first, *_ = [self._step(one) for one in phases(self._task, moved)]
        return first

    def _step(self, batch: Batch) -> Tensor:
        set_training(self._wrapped, self._frozen)
        # Around the forward pass and the loss only: the backward pass repeats the types of the
        # forward one by itself.
        with autocast(self._train, self._device):
            loss = self._task.training_step(self._wrapped, batch)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        if self._train.clip_norm > 0:
            # After backward, when DDP has averaged the gradients: clipped before, each rank would
            # clip by another norm.
            nn.utils.clip_grad_norm_(self.module.parameters(), self._train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            # From the bare module: a wrapper has names with `module.` before them, and checkpoints
            # would depend on the number of ranks.
            self.average.update_parameters(self.module)
        detached: Tensor = loss.detach()
        return detached

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's predictions without gradients."""
        module = select_network(self.module, self.average)
        # Without the wrapper: DDP would copy buffers at each forward pass, a collective call too
        # many.
        module.eval()
        with torch.no_grad(), autocast(self._train, self._device):
            return self._task.predict(module, on_device(batch, self._device))

    def check_resharding(self, before: int, now: int) -> None:
        """Refuse where a layer looks at its rank's share of the batch alone."""
        if any(
            isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in self.module.modules()
        ):
            raise ConfigError(
                f"batch norm has seen shares of the batch for {before} processes, and there are "
                f"{now}; resume with nodes and GPUs that multiply to {before}"
            )

    def save(self, folder: Path) -> None:
        """Write model and optimiser, which are equal on all ranks, from rank 0."""
        # Nothing collective in here: every rank comes, rank 0 writes.
        state = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        if distributed.rank() == 0:
            torch.save(state, folder / "training.pt")
            save_average(self.average, folder)

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""
        state = torch.load(folder / "training.pt", map_location=self._device, weights_only=True)
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        load_average(self.average, folder)

    def weights(self) -> Weights:
        """Return the model's weights on the CPU of rank 0."""
        module = select_network(self.module, self.average)
        return on_cpu(module.state_dict()) if distributed.rank() == 0 else {}
