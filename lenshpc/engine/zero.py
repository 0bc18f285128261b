"""Steps under DeepSpeed ZeRO, which shares out optimiser, gradients and parameters."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lenshpc.engine import distributed, rendezvous
from lenshpc.engine.averages import load_average, make_average, save_average, select_network
from lenshpc.engine.distributed import Process
from lenshpc.engine.freezing import freeze, set_training
from lenshpc.engine.optimizers import adamw
from lenshpc.engine.precision import autocast
from lenshpc.engine.step import Weights, on_cpu, on_device, phases
from lenshpc.errors import ConfigError
from lenshpc.registry import Batch, Task
from lenshpc.run.sections import Train


class DeepSpeed:
    """DeepSpeed with optimiser state (ZeRO-1), gradients (2) and parameters (3) shared out."""

    TAG = "zero"

    def __init__(self, task: Task, model: nn.Module, train: Train, process: Process) -> None:
        deepspeed = _deepspeed(process.device)
        self._task, self._train, self._device = task, train, process.device
        self._frozen = freeze(model, train.freeze)
        # Ours and not DeepSpeed's, so that the groups and the step are those of the other
        # strategies.
        base = adamw(model, train)
        # Before initialize, which may share the weights out among the ranks.
        self.average = make_average(model, train, process.device)
        self._engine, _, _, _ = deepspeed.initialize(
            model=model, optimizer=base, config=zero_config(train, process.world_size)
        )
        # It makes a group of its own, with connections of its own.
        rendezvous.prove_further(self._engine.data_parallel_group)
        self._gather = deepspeed.zero.GatheredParameters
        self.module: nn.Module = self._engine.module
        self.optimizer: torch.optim.Optimizer = base

    def step(self, batch: Batch) -> Tensor:
        """Take the batch's optimiser steps and return this rank's loss (a scalar) at the first."""
        moved = on_device(batch, self._device)
        first, *_ = [self._step(one) for one in phases(self._task, moved)]
        return first

    def _step(self, batch: Batch) -> Tensor:
        set_training(self._engine, self._frozen)
        loss = self._task.training_step(self._engine, batch)["loss"]
        # The engine's own, and its step: it reduces the gradients, clips and zeroes them. Calling
        # the optimiser here would step on shares that are not reduced.
        self._engine.backward(loss)
        self._engine.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        detached: Tensor = loss.detach()
        return detached

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's predictions without gradients."""
        module = select_network(self._engine, self.average)
        module.eval()
        with torch.no_grad(), autocast(self._train, self._device):
            return self._task.predict(module, on_device(batch, self._device))

    def check_resharding(self, before: int, now: int) -> None:
        """Refuse: each rank has written its share of the optimiser."""
        raise ConfigError(
            f"the checkpoint was cut for {before} processes by ZeRO, and there are {now}; resume "
            f"with nodes and GPUs that multiply to {before}"
        )

    def save(self, folder: Path) -> None:
        """Write each rank's part."""
        # Collective: each rank writes its share and waits. save_latest=False, since which
        # checkpoint counts is told by our rename alone.
        self._engine.save_checkpoint(str(folder), tag=self.TAG, save_latest=False)
        if distributed.rank() == 0:
            save_average(self.average, folder)

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote, on the same number of ranks."""
        # DeepSpeed unpickles here; the folder is private to the user, and its fingerprint was
        # compared before.
        self._engine.load_checkpoint(str(folder), tag=self.TAG)
        load_average(self.average, folder)

    def weights(self) -> Weights:
        """Return the whole model's weights on the CPU of rank 0; ZeRO-3 gathers them first."""
        if self.average is not None:
            return on_cpu(self.average.module.state_dict()) if distributed.rank() == 0 else {}
        shared = list(self.module.parameters()) if self._train.zero_stage == 3 else []
        # All ranks enter: gathering is collective, a rank-0-only branch around it hangs. The copies
        # are made inside, before the shares are let go.
        with self._gather(shared):
            return on_cpu(self.module.state_dict()) if distributed.rank() == 0 else {}


def zero_config(train: Train, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration: all that would make it differ from DDP is written out."""
    return {
        # All three numbers are written out: DeepSpeed refuses them where they do not multiply up,
        # instead of accumulating steps in silence.
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.clip_norm,  # DeepSpeed's default is 1.0
        "zero_optimization": {"stage": train.zero_stage},
        "zero_allow_untested_optimizer": True,  # torch's AdamW needs no compiler
        "torch_autocast": {"enabled": train.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _deepspeed(device: torch.device) -> Any:
    import deepspeed

    if device.type == "cpu":  # else the first start compiles a shared-memory extension for 30 s
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
